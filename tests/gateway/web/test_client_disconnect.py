"""Work is cancelled if its client disconnects, and only then."""

import asyncio
from typing import Any

import pytest

from gateway.web.client_disconnect import CancelOnDisconnect

pytestmark = pytest.mark.anyio


class Client:
    """Disconnects on demand."""

    def __init__(self) -> None:
        self.leaves = asyncio.Event()

    async def receive(self) -> Any:
        await self.leaves.wait()
        return {"type": "http.disconnect"}


async def test_a_disconnect_cancels_the_work_and_the_block_ends_normally() -> None:
    client = Client()
    client.leaves.set()
    with CancelOnDisconnect(client.receive) as watch:
        await asyncio.sleep(5)
    assert watch.has_disconnected
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_finished_work_is_not_cancelled_later() -> None:
    client = Client()
    with CancelOnDisconnect(client.receive) as watch:
        await asyncio.sleep(0)
        watch.stop()
        client.leaves.set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert not watch.has_disconnected


async def test_other_cancellations_propagate() -> None:
    async def work() -> None:
        with CancelOnDisconnect(Client().receive):
            await asyncio.sleep(5)

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_errors_of_the_work_propagate() -> None:
    with pytest.raises(ValueError, match="x"), CancelOnDisconnect(Client().receive):
        raise ValueError("x")
