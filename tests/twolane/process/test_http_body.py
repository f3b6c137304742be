"""Request bodies are read whole."""

from collections.abc import Iterator
from typing import Any

import pytest

from twolane.process.http_body import ClientDisconnected, read_body

pytestmark = pytest.mark.anyio


class Wire:
    """ASGI messages as a server sends them: the parts of a body, then the disconnect."""

    def __init__(self, *parts: bytes, is_complete: bool = True) -> None:
        self._messages: Iterator[dict[str, Any]] = iter(
            {"type": "http.request", "body": part, "more_body": not is_complete or at + 1 < len(parts)}
            for at, part in enumerate(parts)
        )

    async def receive(self) -> dict[str, Any]:
        return next(self._messages, {"type": "http.disconnect"})


async def test_a_body_in_parts_is_read_whole() -> None:
    assert await read_body(Wire(b"ab", b"", b"cd").receive) == b"abcd"
    assert await read_body(Wire(b"").receive) == b""


async def test_a_client_that_disconnects_while_sending_is_noticed() -> None:
    with pytest.raises(ClientDisconnected):
        await read_body(Wire(b"ab", is_complete=False).receive)
