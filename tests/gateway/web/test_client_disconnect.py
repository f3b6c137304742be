"""Cancelling work for a client that left, and only then."""

import asyncio
from typing import Any

import pytest

from gateway.web.client_disconnect import CancelOnDisconnect

pytestmark = pytest.mark.anyio


class Client:
    """Leaves when told."""

    def __init__(self) -> None:
        self.leaves = asyncio.Event()

    async def receive(self) -> Any:
        await self.leaves.wait()
        return {"type": "http.disconnect"}


async def test_the_work_of_a_client_that_leaves_is_cancelled_and_the_block_ends_quietly() -> None:
    client = Client()
    client.leaves.set()
    with CancelOnDisconnect(client.receive) as watch:
        await asyncio.sleep(5)
    assert watch.left
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_work_that_ends_first_is_not_disturbed_later() -> None:
    client = Client()
    with CancelOnDisconnect(client.receive) as watch:
        await asyncio.sleep(0)
        watch.stop()
        client.leaves.set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert not watch.left


async def test_a_cancellation_by_others_passes() -> None:
    async def work() -> None:
        with CancelOnDisconnect(Client().receive):
            await asyncio.sleep(5)

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_of_the_work_passes() -> None:
    with pytest.raises(ValueError, match="x"), CancelOnDisconnect(Client().receive):
        raise ValueError("x")
