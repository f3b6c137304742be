"""A second event loop: results, faults and cancellation cross over, and nothing is left behind."""

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest

from gateway.upstreams.background_loop import BackgroundLoop

pytestmark = pytest.mark.anyio


@pytest.fixture(name="aside")
async def make_aside() -> AsyncIterator[BackgroundLoop]:
    aside = BackgroundLoop("under test")
    yield aside
    await aside.aclose()
    assert "under test" not in {thread.name for thread in threading.enumerate()}


async def test_work_runs_on_another_thread_and_its_result_comes_back(aside: BackgroundLoop) -> None:
    async def where() -> str:
        return threading.current_thread().name

    assert await aside.run(where()) == "under test"


async def test_a_fault_comes_back_as_itself(aside: BackgroundLoop) -> None:
    async def fails() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await aside.run(fails())


async def test_what_holds_the_other_loop_up_does_not_hold_up_this_one(aside: BackgroundLoop) -> None:
    free = threading.Event()

    async def blocks() -> bool:
        return free.wait(10)

    waiting = asyncio.create_task(aside.run(blocks()))
    await asyncio.sleep(0)
    free.set()  # only a loop that goes on gets here
    assert await waiting


class Source:
    """Counts, or waits for ever at `stuck_at`; knows whether it was closed and whether a wait was cancelled."""

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


async def test_items_come_over_in_order(aside: BackgroundLoop) -> None:
    source = Source()
    assert [item async for item in aside.iterate(source.items())] == [0, 1, 2]
    assert source.closed.is_set()


async def test_leaving_in_the_middle_closes_the_source(aside: BackgroundLoop) -> None:
    source = Source()
    items = aside.iterate(source.items())
    assert await anext(items) == 0
    await items.aclose()
    assert source.closed.is_set()


async def test_cancelling_who_waits_cancels_the_pull_and_then_closes_the_source(aside: BackgroundLoop) -> None:
    source = Source(stuck_at=1)
    got: list[int] = []

    async def read() -> None:
        async for item in aside.iterate(source.items()):
            got.append(item)

    reading: asyncio.Task[Any] = asyncio.create_task(read())
    await asyncio.to_thread(source.stuck.wait, 5)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert got == [0]
    assert await asyncio.to_thread(source.closed.wait, 5)


async def test_closing_cancels_what_still_runs() -> None:
    aside, source = BackgroundLoop("to be closed"), Source(stuck_at=0)
    pulling = asyncio.create_task(anext(aside.iterate(source.items())))
    await asyncio.to_thread(source.stuck.wait, 5)
    await aside.aclose()
    assert source.closed.is_set()
    with pytest.raises(asyncio.CancelledError):
        await pulling


async def test_an_aside_that_was_never_needed_has_no_thread() -> None:
    aside = BackgroundLoop("never")
    await aside.aclose()
    with pytest.raises(asyncio.CancelledError):
        await aside.run(asyncio.sleep(0))
    assert "never" not in {thread.name for thread in threading.enumerate()}
