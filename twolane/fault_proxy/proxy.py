"""A tampering proxy on loopback: it stands between the gateway and an upstream and spoils what passes, on demand.

Every fault is deterministic. Knows HTTP/1.1 and the outer shape of completions; knows nothing of lanes or policies.
"""

import argparse
import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from math import ceil
from urllib.parse import urlsplit

from twolane.fault_proxy.control import CONTROL_PATH, Fault, FaultError, Mode, parse_fault, read_state, refusal
from twolane.fault_proxy.corruption import StreamSpoiler, spoil_completion
from twolane.fault_proxy.framing import BrokenFramingError, Head, Wire, as_chunk, pieces_of
from twolane.process.flags import WRONG_USE, OneLineParser, loopback_host, port_is_free

DEFAULT_PORT = 8011
DRIP_BYTES = 16
JSON_TYPE = "application/json"
STREAM_TYPE = "text/event-stream"


class FaultProxy:
    """`async with FaultProxy("http://127.0.0.1:8001") as proxy:` then point a client at `proxy.url`.

    `proxy.fault` is what is done to requests from now on; those already under way keep what they started with.
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
        """The fault in force; setting one starts its share anew."""
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
        """Where the proxy listens, without a trailing slash."""
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
        """Serve one connection; also when the proxy closes, no task outlives it."""
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        client = Wire(reader, writer)
        with contextlib.suppress(asyncio.CancelledError):
            try:
                while await self._serve_one(client):
                    pass
            except (BrokenFramingError, OSError):
                client.reset()
            finally:
                writer.close()

    async def _serve_one(self, client: Wire) -> bool:
        """Answer one request; return whether the connection goes on."""
        head = await client.read_head()
        if head is None:
            return False
        body = await client.request_body(head)
        method, path, _ = head.words
        if path == CONTROL_PATH:
            await client.send(self._control(method, body))
            return head.keeps_alive
        exchange = asyncio.create_task(self._exchange(client, head, body))
        gone = asyncio.create_task(client.wait_until_gone())
        try:
            await asyncio.wait((exchange, gone), return_when=asyncio.FIRST_COMPLETED)
            return head.keeps_alive and await exchange if exchange.done() else False
        finally:
            # A client that left takes the upstream's work with it, as it would without a proxy.
            await _end(exchange, gone)

    def _control(self, method: str, body: bytes) -> bytes:
        if method not in ("GET", "POST"):
            return refusal(405, f"{method}: read with GET, change with POST")
        if method == "POST":
            try:
                self.fault = parse_fault(body)
            except FaultError as cause:
                return refusal(400, str(cause))
        return read_state(self.fault, requests=self.requests, faulted=self.faulted)

    def _draw(self, path: str) -> Fault | None:
        """Return the fault for the next request: the share that is hit is spread evenly, beginning with the first."""
        self.requests += 1
        fault = self.fault
        if fault.mode is Mode.NONE or not path.startswith(fault.paths):
            return None
        self._matched += 1
        if ceil(self._matched * fault.share) == ceil((self._matched - 1) * fault.share):
            return None
        self.faulted += 1
        return fault

    async def _exchange(self, client: Wire, head: Head, body: bytes) -> bool:
        """Carry one request over and its answer back; return whether the client's connection may go on."""
        fault = self._draw(head.words[1])
        mode = fault.mode if fault else Mode.NONE
        seconds = fault.seconds if fault else 0.0
        if mode is Mode.RESET:
            client.reset()
            return False
        if mode in (Mode.TOO_MANY, Mode.BROKEN):
            await client.send(refusal(int(mode), f"a fault of mode {mode} was asked for", retry_after_s=seconds))
            return True
        if mode is Mode.DELAY:
            await asyncio.sleep(seconds)
        async with self._ask(head, body) as upstream:
            answer = await upstream.read_head()
            if answer is None:
                raise BrokenFramingError("the upstream closed without an answer")
            pieces = upstream.response_body(answer, asked_by=head.words[0])
            return await _relay(client, answer, pieces, mode=mode, seconds=seconds)

    @contextlib.asynccontextmanager
    async def _ask(self, head: Head, body: bytes) -> AsyncIterator[Wire]:
        """Send a request on a connection of its own; a dead upstream shows as a reset, as it would directly."""
        reader, writer = await asyncio.open_connection(*self._upstream)
        try:
            host = "{}:{}".format(*self._upstream)
            fields = (("host", host), ("connection", "close"), ("content-length", str(len(body))))
            sent = head.without("transfer-encoding", "keep-alive", "expect", "accept-encoding").replace(fields)
            upstream = Wire(reader, writer)
            await upstream.send(sent.encode() + body)
            yield upstream
        finally:
            writer.transport.abort()


async def _relay(client: Wire, answer: Head, pieces: AsyncIterator[bytes], *, mode: Mode, seconds: float) -> bool:
    """Pass an answer on, spoiled as the mode says; return whether the client's connection may go on."""
    kind = answer.value("content-type") or ""
    if mode is Mode.CORRUPT and kind.startswith(JSON_TYPE):
        whole = spoil_completion(b"".join([piece async for piece in pieces]))
        answer, pieces = _with_length(answer, len(whole)), pieces_of(whole)
    elif mode is Mode.CORRUPT and kind.startswith(STREAM_TYPE):
        pieces = _spoiled(pieces)
    elif mode is Mode.DRIP:
        pieces = _dripped(pieces, seconds)
    await client.send(answer.without("connection", "keep-alive").encode())
    async for piece in pieces:
        if mode is Mode.TRUNCATE:
            await client.send(as_chunk(piece) if answer.is_chunked else piece[: len(piece) // 2])
            return False
        await client.send(as_chunk(piece) if answer.is_chunked else piece)
    if answer.is_chunked:
        await client.send(as_chunk(b""))
    return answer.is_chunked or answer.value("content-length") is not None


def _with_length(answer: Head, length: int) -> Head:
    return answer.without("transfer-encoding").replace([("content-length", str(length))])


async def _spoiled(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    spoiler = StreamSpoiler()
    async for piece in pieces:
        if spoilt := spoiler.feed(piece):  # an empty chunk would end the body
            yield spoilt


async def _dripped(pieces: AsyncIterator[bytes], seconds: float) -> AsyncIterator[bytes]:
    async for piece in pieces:
        for start in range(0, len(piece), DRIP_BYTES):
            await asyncio.sleep(seconds)
            yield piece[start : start + DRIP_BYTES]


async def _end(*tasks: asyncio.Task[object]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def main(argv: Sequence[str]) -> int:
    """Run one proxy until SIGTERM or ctrl-C. Returns 0 then, 2 when it cannot start."""
    parser = OneLineParser(prog="twolane faults", description="Spoil an upstream's answers on demand.")
    parser.add_argument("--upstream", required=True, metavar="URL", type=_http_url, help="where requests go")
    parser.add_address(default_port=DEFAULT_PORT)
    read = parser.parse_args(argv)
    if not port_is_free(read.host, read.port):
        print(f"twolane faults: port {read.port} of {read.host} is taken: choose another with --port", file=sys.stderr)
        return WRONG_USE
    asyncio.run(_run(FaultProxy(read.upstream, host=read.host, port=read.port)))
    return 0


async def _run(proxy: FaultProxy) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with proxy:
        print(f"twolane faults: at {proxy.url}, POST {CONTROL_PATH} changes the fault", flush=True)
        await stopped.wait()


def _http_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme != "http" or not parts.hostname:
        raise argparse.ArgumentTypeError(f"{text!r} is not an http:// address")
    return text
