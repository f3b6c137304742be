"""Closed loops of requests on loopback: each connection sends its next request when the last one was answered."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import httptools

from benchmarks.gateway.mock_upstream import CHUNKS, PACE_S

# A stream counts as relayed chunk by chunk if it took at least this share of the time in which it was sent.
PACED_SHARE: Final = 0.8
_TIMEOUT_S: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is sent, and where."""

    port: int
    path: str
    body: bytes
    headers: tuple[str, ...] = ()

    def encoded(self) -> bytes:
        """The request on the wire."""
        lines = [f"POST {self.path} HTTP/1.1", f"host: 127.0.0.1:{self.port}", "content-type: application/json"]
        lines += [*self.headers, f"content-length: {len(self.body)}", "", ""]
        return "\r\n".join(lines).encode() + self.body


@dataclass(slots=True, kw_only=True)
class Answers:
    """What the client saw."""

    latencies_s: list[float] = field(default_factory=list)  # of good answers
    failures: int = 0
    bursts: int = 0  # streams that did not arrive chunk by chunk
    cut: int = 0  # streams that ended before their last event
    seconds: float = 0.0

    def quantile_us(self, share: float) -> float:
        """The latency that `share` of the requests did not exceed."""
        ordered = sorted(self.latencies_s)
        return 1e6 * ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("inf")


async def drive(request: Request, *, connections: int, seconds: float = 1e9, requests: int = 1 << 60) -> Answers:
    """Send for `seconds`, or until `requests` were sent."""
    answers, loop = Answers(), asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    began_s = time.perf_counter()
    budget = _Budget(began_s + seconds, requests, connections, partial(_resolve, done))
    encoded = request.encoded()
    clients = []
    for _ in range(connections):
        _, client = await loop.create_connection(lambda: _Client(encoded, answers, budget), "127.0.0.1", request.port)
        clients.append(client)
    for client in clients:
        client.start()
    try:
        async with asyncio.timeout(seconds + _TIMEOUT_S if seconds < 1e9 else None):
            await done
    except TimeoutError:
        answers.failures += connections
    answers.seconds = time.perf_counter() - began_s
    for client in clients:
        client.transport.abort()
    return answers


async def abort_streams(request: Request, *, count: int, connections: int) -> int:
    """Begin `count` streams, and leave each when its first bytes have arrived. Returns how many did not begin."""
    left, failures = count, 0

    async def one() -> None:
        nonlocal left, failures
        while left > 0:
            left -= 1
            reader, writer = await asyncio.open_connection("127.0.0.1", request.port)
            writer.write(request.encoded())
            head = await reader.read(256)
            failures += not head.startswith(b"HTTP/1.1 200 ")
            writer.transport.abort()

    await asyncio.gather(*(one() for _ in range(connections)))
    return failures


def _resolve(done: "asyncio.Future[None]") -> None:
    if not done.done():
        done.set_result(None)


class _Budget:
    """Which requests may still be sent."""

    def __init__(self, end_s: float, requests: int, connections: int, end: Callable[[], object]) -> None:
        self._end_s, self._left, self._running, self._end = end_s, requests, connections, end

    def take(self, now_s: float) -> bool:
        """Whether a connection may send another request; if not, it is finished."""
        if now_s < self._end_s and self._left > 0:
            self._left -= 1
            return True
        self._running -= 1
        if not self._running:
            self._end()
        return False


class _Client(asyncio.Protocol):
    transport: Any

    def __init__(self, request: bytes, answers: Answers, budget: _Budget) -> None:
        self._request, self._answers, self._budget = request, answers, budget
        self._sent_s = self._first_s = 0.0
        self._events, self._is_stream, self._is_open = 0, False, False
        self._parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def start(self) -> None:
        """Send the next request, if there is one."""
        now_s = time.perf_counter()
        if self._budget.take(now_s):
            self._sent_s, self._first_s, self._events, self._is_open = now_s, 0.0, 0, True
            self._is_stream = False
            self.transport.write(self._request)
        else:
            self._is_open = False

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.abort()

    def connection_lost(self, _: Exception | None) -> None:
        """A server that closes while a request is open has failed it, and this connection ends."""
        if self._is_open:
            self._answers.failures += 1
            self._is_open = False
            self._budget.take(float("inf"))

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"content-type" and value.startswith(b"text/event-stream"):
            self._is_stream = True

    def on_body(self, body: bytes) -> None:
        if self._is_stream:
            self._first_s = self._first_s or time.perf_counter()
            self._events += body.count(b"data: ")

    def on_message_complete(self) -> None:
        now_s = time.perf_counter()
        if self._parser.get_status_code() != 200:
            self._answers.failures += 1
        else:
            self._answers.latencies_s.append(now_s - self._sent_s)
            if self._is_stream:
                self._answers.bursts += now_s - self._first_s < PACED_SHARE * (CHUNKS - 1) * PACE_S
                self._answers.cut += self._events < CHUNKS
        self.start()
