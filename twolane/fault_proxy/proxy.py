"""A fault proxy on loopback: it forwards requests to an upstream and delays, corrupts or rejects responses on demand.

Every fault is deterministic. Depends on HTTP/1.1 and the outer form of completions, not on lanes or policies.
"""

import argparse
import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from math import ceil
from urllib.parse import urlsplit

import h11

from twolane.fault_proxy.control import (
    CONTROL_PATH,
    Fault,
    FaultError,
    JsonResponse,
    Mode,
    error_response,
    parse_fault,
    state_response,
)
from twolane.fault_proxy.corruption import StreamCorrupter, corrupt_completion
from twolane.fault_proxy.framing import Header, Peer, value_of, without
from twolane.process.errors import WRONG_USE
from twolane.process.flags import OneLineParser, loopback_host, port_is_free

DEFAULT_PORT = 8011
DRIP_BYTES = 16
JSON_TYPE = b"application/json"
STREAM_TYPE = b"text/event-stream"
_NO_FAULT = Fault()


class FaultProxy:
    """`async with FaultProxy("http://127.0.0.1:8001") as proxy:` then point a client at `proxy.url`.

    `proxy.fault` applies to requests that arrive from now on; requests in flight keep the fault they started with.
    """

    def __init__(self, upstream_url: str, *, host: str = "127.0.0.1", port: int = 0) -> None:
        target = urlsplit(upstream_url)
        self._upstream = (target.hostname or "127.0.0.1", target.port or 80)
        self._address = (loopback_host(host), port)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._fault = Fault()
        self._matched = 0
        self.requests = 0
        self.faulted = 0

    @property
    def fault(self) -> Fault:
        """The current fault; setting one restarts the count behind `share`."""
        return self._fault

    @fault.setter
    def fault(self, fault: Fault) -> None:
        self._fault = fault
        self._matched = 0

    @property
    def mode(self) -> Mode:
        """The mode of the current fault."""
        return self.fault.mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        self.fault = Fault(mode=Mode(mode))

    @property
    def url(self) -> str:
        """The URL the proxy listens on, without a trailing slash."""
        return f"http://{self._address[0]}:{self._address[1]}"

    async def __aenter__(self) -> "FaultProxy":
        self._server = await asyncio.start_server(self._accept, *self._address)
        self._address = self._server.sockets[0].getsockname()[:2]
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection. Its task is cancelled when the proxy closes."""
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        client = Peer(reader, writer, h11.SERVER)
        with contextlib.suppress(asyncio.CancelledError):
            try:
                while await self._serve_one(client):
                    pass
            except (h11.ProtocolError, OSError):
                client.reset()
            finally:
                client.close()

    async def _serve_one(self, client: Peer) -> bool:
        """Answer one request; return whether the connection can carry another one."""
        received = await client.receive_request()
        if received is None:
            return False
        request, body = received
        if request.target == CONTROL_PATH.encode():
            await _send(client, self._control(request.method, body))
            return client.reuse()
        exchange = asyncio.create_task(self._exchange(client, request, body))
        closed = asyncio.create_task(client.wait_until_closed())
        try:
            await asyncio.wait((exchange, closed), return_when=asyncio.FIRST_COMPLETED)
            if not exchange.done():
                return False
            await exchange
        finally:
            # A client that disconnects cancels the upstream request, as it would without a proxy.
            await _cancel(exchange, closed)
        return client.reuse()

    def _control(self, method: bytes, body: bytes) -> JsonResponse:
        if method not in (b"GET", b"POST"):
            return error_response(405, f"{method.decode()}: read with GET, change with POST")
        if method == b"POST":
            try:
                self.fault = parse_fault(body)
            except FaultError as cause:
                return error_response(400, str(cause))
        return state_response(self.fault, requests=self.requests, faulted=self.faulted)

    def _next_fault(self, path: str) -> Fault:
        """Return the fault for the next request: affected requests are evenly spaced, beginning with the first."""
        self.requests += 1
        fault = self.fault
        if fault.mode is Mode.NONE or not path.startswith(fault.paths):
            return _NO_FAULT
        self._matched += 1
        if ceil(self._matched * fault.share) == ceil((self._matched - 1) * fault.share):
            return _NO_FAULT
        self.faulted += 1
        return fault

    async def _exchange(self, client: Peer, request: h11.Request, body: bytes) -> None:
        """Forward one request and return its response, with the fault that applies to it."""
        fault = self._next_fault(request.target.decode("latin-1"))
        if fault.mode is Mode.RESET:
            client.reset()
            return
        if fault.mode in (Mode.TOO_MANY, Mode.BROKEN):
            message = f"fault proxy: mode {fault.mode}"
            await _send(client, error_response(int(fault.mode), message, retry_after_s=fault.seconds))
            return
        if fault.mode is Mode.DELAY:
            await asyncio.sleep(fault.seconds)
        async with self._forward(request, body) as upstream:
            await _relay(client, await _received(upstream, fault), fault)

    @contextlib.asynccontextmanager
    async def _forward(self, request: h11.Request, body: bytes) -> AsyncIterator[Peer]:
        """Send a request on its own connection. Raises OSError if the upstream cannot be reached."""
        reader, writer = await asyncio.open_connection(*self._upstream)
        upstream = Peer(reader, writer, h11.CLIENT)
        try:
            kept = without(
                request.headers, b"host", b"content-length", b"transfer-encoding", b"expect", b"accept-encoding"
            )
            fields = [
                (b"host", "{}:{}".format(*self._upstream).encode()),
                *kept,
                (b"connection", b"close"),
                (b"content-length", b"%d" % len(body)),
            ]
            head = h11.Request(method=request.method, target=request.target, headers=fields)
            await upstream.send(head, h11.Data(data=body), h11.EndOfMessage())
            yield upstream
        finally:
            upstream.abort()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Received:
    """A response of the upstream, its body corrupted or slowed down."""

    status: int
    reason: bytes
    headers: list[Header]
    body: AsyncIterator[bytes]


async def _received(upstream: Peer, fault: Fault) -> _Received:
    head = await upstream.receive_response()
    headers, body = without(head.headers), upstream.body()
    kind = value_of(headers, b"content-type")
    if fault.mode is Mode.CORRUPT and kind.startswith(JSON_TYPE):
        whole = corrupt_completion(b"".join([piece async for piece in body]))
        headers = [
            *without(headers, b"content-length", b"transfer-encoding"),
            (b"content-length", b"%d" % len(whole)),
        ]
        body = _once(whole)
    elif fault.mode is Mode.CORRUPT and kind.startswith(STREAM_TYPE):
        body = _corrupted(body)
    elif fault.mode is Mode.DRIP:
        body = _dripped(body, fault.seconds)
    return _Received(status=head.status_code, reason=bytes(head.reason), headers=headers, body=body)


async def _relay(client: Peer, received: _Received, fault: Fault) -> None:
    """Send a response to the client; `truncate` closes the connection within its body."""
    await client.send(h11.Response(status_code=received.status, headers=received.headers, reason=received.reason))
    has_length = bool(value_of(received.headers, b"content-length"))
    async for piece in received.body:
        if fault.mode is Mode.TRUNCATE:  # a stream ends after a whole event, so that its first bytes have left
            await client.send(h11.Data(data=piece[: len(piece) // 2] if has_length else piece))
            return  # without the end of the message the connection cannot be reused, so it is closed
        await client.send(h11.Data(data=piece))
    await client.send(h11.EndOfMessage())


async def _send(client: Peer, response: JsonResponse) -> None:
    await client.send_response(response.status, response.headers, response.body)


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body


async def _corrupted(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    corrupter = StreamCorrupter()
    async for piece in pieces:
        yield corrupter.feed(piece)


async def _dripped(pieces: AsyncIterator[bytes], seconds: float) -> AsyncIterator[bytes]:
    async for piece in pieces:
        for start in range(0, len(piece), DRIP_BYTES):
            await asyncio.sleep(seconds)
            yield piece[start : start + DRIP_BYTES]


async def _cancel(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def main(argv: Sequence[str]) -> int:
    """Run one proxy until SIGTERM or ctrl-C. Returns 0 then, 2 if it cannot start."""
    parser = OneLineParser(
        prog="twolane faults",
        description="Run a proxy that delays, corrupts or rejects an upstream's responses on demand.",
        epilog=f"POST {CONTROL_PATH} sets the fault: {{mode, seconds, share, paths}}, with mode one of "
        f"{', '.join(Mode)}. GET {CONTROL_PATH} returns it, with counts of requests.",
    )
    parser.add_argument("--upstream", required=True, metavar="URL", type=_http_url, help="upstream, http://HOST:PORT")
    parser.add_address(default_port=DEFAULT_PORT)
    read = parser.parse_args(argv)
    if not port_is_free(read.host, read.port):
        print(f"twolane faults: port {read.port} of {read.host} is in use; choose another with --port", file=sys.stderr)
        return WRONG_USE
    asyncio.run(_run(FaultProxy(read.upstream, host=read.host, port=read.port)))
    return 0


async def _run(proxy: FaultProxy) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with proxy:
        print(f"twolane faults: {proxy.url} (POST {CONTROL_PATH} sets the fault)", flush=True)
        await stopped.wait()


def _http_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme != "http" or not parts.hostname:
        raise argparse.ArgumentTypeError(f"{text!r} is not an http:// URL")
    return text
