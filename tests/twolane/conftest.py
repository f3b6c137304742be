"""A small upstream on real sockets that writes HTTP by hand, so that it shares no code with the fault proxy."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

ANSWER: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": '{"name":"anna"}'}}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 15, "total_tokens": 18},
}
STREAMED = ('{"na', 'me":"an', 'na"', "}", "\n")


class Upstream:
    """Responds to completions, whole or streamed; `/hang` never responds and records when its client disconnects."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, bytes]] = []
        self.received = asyncio.Event()
        self.closed = asyncio.Event()
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.decode().lower().split("\r\n")
        length = next((int(line.split(":")[1]) for line in lines if line.startswith("content-length")), 0)
        body = await reader.readexactly(length)
        path = head.decode().split(" ")[1]
        self.requests.append((path, body))
        self.received.set()
        if path == "/hang":
            await reader.read()
            self.closed.set()
        else:
            writer.write(self.answer(path, body))
            await writer.drain()
        writer.close()

    def answer(self, path: str, body: bytes) -> bytes:
        if path == "/health":
            return self.whole({"state": "ready"})
        if path == "/endless":
            return b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\nto the end of the connection"
        if path == "/broken":
            return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{"
        return self.stream() if b'"stream":true' in body else self.whole(ANSWER)

    def whole(self, content: dict[str, Any]) -> bytes:
        body = json.dumps(content).encode()
        head = (
            f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Kept: yes\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    def stream(self) -> bytes:
        events = [{"choices": [{"index": 0, "delta": {"content": text}}]} for text in STREAMED]
        last = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
        lines = [f"data: {json.dumps(event)}\n\n" for event in (*events, last)] + ["data: [DONE]\n\n"]
        chunks = "".join(f"{len(line):x}\r\n{line}\r\n" for line in lines) + "0\r\n\r\n"
        return (
            f"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}".encode()
        )


@pytest.fixture
async def upstream(anyio_backend: str) -> AsyncIterator[Upstream]:
    """An upstream on a free loopback port."""
    scripted = Upstream()
    server = await asyncio.start_server(scripted.serve, "127.0.0.1", 0)
    scripted.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield scripted
