"""Work is cancelled when its client disconnects."""

import asyncio
from typing import Any

import pytest

from diffusion_worker.errors import WorkerError
from diffusion_worker.web.http_io import cancel_on_disconnect
from twolane.process.http_body import ClientDisconnected

pytestmark = pytest.mark.anyio


class Wire:
    """What a server would hand to an application: silence until the client leaves."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}


async def test_work_is_cancelled_and_cleaned_up_when_the_client_disconnects() -> None:
    """ClientDisconnected is raised after the clean-up."""
    wire, cleaned = Wire(), asyncio.Event()

    async def work() -> None:
        try:
            wire.gone.set()
            await asyncio.sleep(60)
        finally:
            cleaned.set()

    with pytest.raises(ClientDisconnected):
        await cancel_on_disconnect(wire.receive, work())
    assert cleaned.is_set()


async def test_an_error_of_the_work_is_raised() -> None:
    """It is not reported as a disconnect."""

    async def work() -> None:
        raise WorkerError("broken")

    with pytest.raises(WorkerError, match="broken"):
        await cancel_on_disconnect(Wire().receive, work())


async def test_cancelling_the_request_cancels_the_work() -> None:
    """A server shutdown leaves nothing running."""
    began, ended = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        try:
            began.set()
            await asyncio.sleep(60)
        finally:
            ended.set()

    exchange = asyncio.create_task(cancel_on_disconnect(Wire().receive, work()))
    await began.wait()
    exchange.cancel()
    with pytest.raises(asyncio.CancelledError):
        await exchange
    assert ended.is_set()
