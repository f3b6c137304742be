"""A canned OpenAI-compatible server on loopback, as light as Python allows.

Chat requests get a whole answer, or a stream of `CHUNKS` events, each in one write, `PACE_S` apart. Every other request
(health checks, model lists, traces) gets an answer that satisfies its sender.
"""

import asyncio
import json
from typing import Any, Final

import httptools
import uvloop

CHUNKS: Final = 64  # events of a stream, the last of which is `[DONE]`
PACE_S: Final = 0.002
_HEAD: Final = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
_STREAM: Final = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_END: Final = b"0\r\n\r\n"


def serve(port: int, *, delay_s: float = 0.0) -> None:
    """Serve until the process ends. `delay_s`: time until a whole answer is sent."""
    uvloop.run(_serve(port, delay_s))


def whole_answer() -> bytes:
    """The body of a whole answer."""
    message = {"role": "assistant", "content": json.dumps({"name": "x" * 200})}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 900, "completion_tokens": 60, "total_tokens": 960}
    head = {"id": "c", "object": "chat.completion", "created": 1, "model": "canned"}
    return json.dumps(head | {"choices": [choice], "usage": usage}).encode()


def stream_events() -> list[bytes]:
    """The events of a stream."""
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "canned"}

    def event(delta: dict[str, str], reason: str | None) -> bytes:
        choices = [{"index": 0, "delta": delta, "finish_reason": reason}]
        return b"data: " + json.dumps(head | {"choices": choices}).encode() + b"\n\n"

    words = [event({"content": "word "}, None) for _ in range(CHUNKS - 3)]
    return [event({"role": "assistant"}, None), *words, event({}, "stop"), b"data: [DONE]\n\n"]


async def _serve(port: int, delay_s: float) -> None:
    loop = asyncio.get_running_loop()
    canned = _Canned(delay_s)
    server = await loop.create_server(lambda: _Connection(loop, canned), "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


class _Canned:
    """What is sent, framed once."""

    def __init__(self, delay_s: float) -> None:
        body = whole_answer()
        listing = json.dumps({"object": "list", "data": [{"id": "canned", "object": "model"}]}).encode()
        self.delay_s = delay_s
        self.answer = _HEAD % (len(body), body)
        self.listing = _HEAD % (len(listing), listing)
        events = [b"%x\r\n%s\r\n" % (len(event), event) for event in stream_events()]
        self.writes = [_STREAM + events[0], *events[1:-1], events[-1] + _END]


class _Connection(asyncio.Protocol):
    def __init__(self, loop: asyncio.AbstractEventLoop, canned: _Canned) -> None:
        self._loop, self._canned = loop, canned
        self._parser = httptools.HttpRequestParser(self)
        self._body = bytearray()
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.close()

    def on_message_begin(self) -> None:
        self._body.clear()

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        if b'"messages"' not in self._body:
            self._transport.write(self._canned.listing)
        elif b'"stream":true' in self._body or b'"stream": true' in self._body:
            self._write(0, self._loop.time())
        elif self._canned.delay_s:
            self._loop.call_later(self._canned.delay_s, self._transport.write, self._canned.answer)
        else:
            self._transport.write(self._canned.answer)

    def _write(self, number: int, began_s: float) -> None:
        """Send an event, and the next one when it is due, however late this one is."""
        if self._transport.is_closing():
            return
        self._transport.write(self._canned.writes[number])
        if number + 1 < CHUNKS:
            due_s = began_s + (number + 1) * PACE_S
            self._loop.call_at(due_s, self._write, number + 1, began_s)
