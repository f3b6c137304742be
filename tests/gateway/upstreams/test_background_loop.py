"""Background event loop: results, errors and cancellation cross threads, and everything is cleaned up."""

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest

from gateway.upstreams.background_loop import BackgroundLoop

pytestmark = pytest.mark.anyio


@pytest.fixture(name="loop")
async def make_loop() -> AsyncIterator[BackgroundLoop]:
    loop = BackgroundLoop("under test")
    yield loop
    await loop.aclose()
    assert "under test" not in {thread.name for thread in threading.enumerate()}


async def test_work_runs_on_another_thread_and_its_result_comes_back(loop: BackgroundLoop) -> None:
    async def where() -> str:
        return threading.current_thread().name

    assert await loop.run(where()) == "under test"


async def test_an_exception_is_raised_in_the_caller(loop: BackgroundLoop) -> None:
    async def fails() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await loop.run(fails())


async def test_blocking_the_background_loop_does_not_block_the_main_loop(loop: BackgroundLoop) -> None:
    free = threading.Event()

    async def blocks() -> bool:
        return free.wait(500)

    waiting = asyncio.create_task(loop.run(blocks()))
    await asyncio.sleep(0)
    free.set()  # reached only if the main loop is not blocked
    assert await waiting


class Source:
    """Counts, or waits forever at `stuck_at`; records whether it was closed and whether a wait was cancelled."""

    def __init__(self, stuck_at: int = -1) -> None:
        self.stuck_at = stuck_at
        self.stuck = threading.Event()
        self.closed = threading.Event()

    async def items(self) -> AsyncGenerator[int, None]:
        try:
            for number in range(3):
                if number == self.stuck_at:
                    self.stuck.set()
                    await asyncio.sleep(60)
                yield number
        finally:
            await asyncio.sleep(0)
            self.closed.set()


async def test_items_arrive_in_order(loop: BackgroundLoop) -> None:
    source = Source()
    assert [item async for item in loop.iterate(source.items())] == [0, 1, 2]
    assert source.closed.is_set()


async def test_ending_the_iteration_early_closes_the_source(loop: BackgroundLoop) -> None:
    source = Source()
    items = loop.iterate(source.items())
    assert await anext(items) == 0
    await items.aclose()
    assert source.closed.is_set()


async def test_cancelling_the_consumer_cancels_the_pending_item_and_closes_the_source(loop: BackgroundLoop) -> None:
    source = Source(stuck_at=1)
    got: list[int] = []

    async def read() -> None:
        async for item in loop.iterate(source.items()):
            got.append(item)

    reading: asyncio.Task[Any] = asyncio.create_task(read())
    await asyncio.to_thread(source.stuck.wait, 5)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert got == [0]
    assert await asyncio.to_thread(source.closed.wait, 5)


async def test_closing_cancels_running_work() -> None:
    loop, source = BackgroundLoop("to be closed"), Source(stuck_at=0)
    pulling = asyncio.create_task(anext(loop.iterate(source.items())))
    await asyncio.to_thread(source.stuck.wait, 5)
    await loop.aclose()
    assert source.closed.is_set()
    with pytest.raises(asyncio.CancelledError):
        await pulling


async def test_an_unused_loop_has_no_thread() -> None:
    loop = BackgroundLoop("never")
    await loop.aclose()
    with pytest.raises(asyncio.CancelledError):
        await loop.run(asyncio.sleep(0))
    assert "never" not in {thread.name for thread in threading.enumerate()}
