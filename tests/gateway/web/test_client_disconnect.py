"""Work is cancelled if its client disconnects, and only then."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from gateway.web.client_disconnect import CancelOnDisconnect
from twolane.process.http.request_cycle import WATCH

pytestmark = pytest.mark.anyio


class Client:
    """Disconnects on demand."""

    def __init__(self) -> None:
        self.scope: Any = {WATCH: self._watch}
        self._on_disconnect: Callable[[], None] | None = None

    def leave(self) -> None:
        if self._on_disconnect is not None:
            self._on_disconnect()

    def _watch(self, on_disconnect: Callable[[], None] | None) -> None:
        self._on_disconnect = on_disconnect


async def test_a_disconnect_cancels_the_work_and_the_block_ends_normally() -> None:
    client = Client()
    with CancelOnDisconnect(client.scope) as watch:
        client.leave()
        await asyncio.sleep(5)
    assert watch.has_disconnected
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_finished_work_is_not_cancelled_later() -> None:
    client = Client()
    with CancelOnDisconnect(client.scope) as watch:
        await asyncio.sleep(0)
        watch.stop()
        client.leave()
        await asyncio.sleep(0)
    assert not watch.has_disconnected


async def test_work_that_has_ended_is_not_watched() -> None:
    client = Client()
    with CancelOnDisconnect(client.scope) as watch:
        pass
    client.leave()
    await asyncio.sleep(0)
    assert not watch.has_disconnected


async def test_other_cancellations_propagate() -> None:
    async def work() -> None:
        with CancelOnDisconnect(Client().scope):
            await asyncio.sleep(5)

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_errors_of_the_work_propagate() -> None:
    with pytest.raises(ValueError, match="x"), CancelOnDisconnect(Client().scope):
        raise ValueError("x")
