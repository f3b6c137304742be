"""HTTP over ASGI: bounded bodies, and work that is cancelled when the client disconnects."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from diffusion_worker.errors import WorkerError
from diffusion_worker.web.error_body import BodyTooLarge
from diffusion_worker.web.http_io import cancel_on_disconnect, read_body
from twolane.process.http_body import ClientDisconnected

pytestmark = pytest.mark.anyio


class Wire:
    """What a server would hand to an application, then silence until the client leaves."""

    def __init__(self, *parts: bytes, announced: int | None = None) -> None:
        length = sum(map(len, parts)) if announced is None else announced
        self.scope = {"type": "http", "headers": [(b"content-length", str(length).encode())]}
        self.taken = 0
        self.gone = asyncio.Event()
        self._messages: Iterator[dict[str, Any]] = iter(
            [{"type": "http.request", "body": part, "more_body": at + 1 < len(parts)} for at, part in enumerate(parts)]
        )

    async def receive(self) -> dict[str, Any]:
        for message in self._messages:
            self.taken += 1
            return message
        await self.gone.wait()
        return {"type": "http.disconnect"}


async def test_a_body_in_pieces_is_read_completely() -> None:
    """Up to exactly the limit."""
    wire = Wire(b"ab", b"", b"cd")
    assert await read_body(wire.scope, wire.receive, 4) == b"abcd"


async def test_a_too_large_content_length_is_refused_before_reading() -> None:
    wire = Wire(b"ab", announced=5)
    with pytest.raises(BodyTooLarge):
        await read_body(wire.scope, wire.receive, 4)
    assert wire.taken == 0


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
