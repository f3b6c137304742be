"""A client of an ASGI application without a socket: for tests in virtual time."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson

from twolane.process.http.request_cycle import WATCH


@dataclass
class Received:
    """A response as it arrives: `parts` with the loop's time of each."""

    status: int = 0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    parts: list[tuple[float, bytes]] = field(default_factory=list)
    head_s: float = 0.0
    is_complete: bool = False

    @property
    def body(self) -> bytes:
        return b"".join(part for _, part in self.parts)

    @property
    def header(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.headers}

    @property
    def comments(self) -> dict[str, str]:
        """The headers that came as comments."""
        lines = [line[2:].split(" = ", 1) for line in self.body.decode().splitlines() if line.startswith(": ")]
        return {line[0]: line[1] for line in lines if len(line) == 2}


class AsgiClient:
    """`post` a chat request; `leave` disconnects."""

    def __init__(self, app: Any, *, write_s: float = 0.0, path: str = "/v1/chat/completions") -> None:
        self._app = app
        self._path = path
        self._write_s = write_s  # how long the client takes to read one part
        self._watch: Callable[[], None] | None = None

    def leave(self) -> None:
        assert self._watch is not None, "nobody would notice"
        self._watch()

    async def post(self, body: dict[str, Any], **headers: str) -> Received:
        received, loop = Received(), asyncio.get_running_loop()
        begin_s = loop.time()

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": orjson.dumps(body), "more_body": False}

        def watch(on_disconnect: Callable[[], None] | None) -> None:
            self._watch = on_disconnect

        async def send(message: dict[str, Any]) -> None:
            assert not received.is_complete, "a message after the end of the response"
            if message["type"] == "http.response.start":
                assert not received.status, "a second head"
                received.status, received.headers = message["status"], list(message["headers"])
                received.head_s = loop.time() - begin_s
                return
            assert received.status, "a body without a head"
            await asyncio.sleep(self._write_s)
            received.parts.append((loop.time() - begin_s, message["body"]))
            received.is_complete = not message.get("more_body", False)

        names = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        scope = {"type": "http", "method": "POST", "path": self._path, "headers": names, WATCH: watch}
        await self._app(scope, receive, send)
        return received
