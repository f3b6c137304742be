"""Request bodies are read up to a limit."""

from collections.abc import Iterator
from typing import Any

import pytest

from twolane.process.http_body import BodyTooLargeError, ClientDisconnected, read_body

pytestmark = pytest.mark.anyio


class Wire:
    """ASGI messages as a server sends them: the parts of a body, then the disconnect."""

    def __init__(self, *parts: bytes, is_complete: bool = True) -> None:
        self.taken = 0
        self._messages: Iterator[dict[str, Any]] = iter(
            {"type": "http.request", "body": part, "more_body": not is_complete or at + 1 < len(parts)}
            for at, part in enumerate(parts)
        )

    async def receive(self) -> dict[str, Any]:
        self.taken += 1
        return next(self._messages, {"type": "http.disconnect"})


async def test_a_body_in_parts_is_read_whole_up_to_its_limit_exactly() -> None:
    assert await read_body(Wire(b"ab", b"", b"cd").receive, content_length=b"4", limit=4) == b"abcd"
    assert await read_body(Wire(b"").receive, content_length=b"", limit=4) == b""


async def test_an_announced_excess_is_refused_before_anything_is_read() -> None:
    wire = Wire(b"ab")
    with pytest.raises(BodyTooLargeError, match="larger than 4 bytes"):
        await read_body(wire.receive, content_length=b"5", limit=4)
    assert wire.taken == 0


@pytest.mark.parametrize("announced", [b"", b"0", b"-1", b"many"])
async def test_an_unannounced_excess_is_refused_as_soon_as_it_is_read(announced: bytes) -> None:
    """A length that is wrong or missing changes nothing."""
    wire = Wire(b"abc", b"def", b"ghi")
    with pytest.raises(BodyTooLargeError):
        await read_body(wire.receive, content_length=announced, limit=4)
    assert wire.taken == 2


async def test_a_client_that_disconnects_while_sending_is_noticed() -> None:
    with pytest.raises(ClientDisconnected):
        await read_body(Wire(b"ab", is_complete=False).receive, content_length=b"4", limit=4)
