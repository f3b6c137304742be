"""One HTTP/1.1 request and its response: ASGI messages on one side, framed bytes on the other.

The head of a response is sent with the first part of its body, as ASGI specifies, so a handler that fails between the
two still gets an error response with the right status.
"""

import asyncio
import http
import logging
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from starlette.types import ASGIApp, Message, Scope

from twolane.process.http.byte_budget import IN_SCOPE, Holding
from twolane.process.http.compiled import header_lines
from twolane.process.http.limits import DRAINED, FAILED, Refusal

STATUS_LINES: Final = {
    status.value: b"HTTP/1.1 %d %s\r\n" % (status.value, status.phrase.encode()) for status in http.HTTPStatus
}
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK: Final = b"0\r\n\r\n"
PIECE_BYTES: Final = 65_536  # of a large body that are handed to the transport at once
BODY: Final = "twolane.body"  # where an ASGI scope has the whole body, if that is small and arrived with the head
NAMED: Final = "twolane.named_headers"  # where an ASGI scope has the headers by name, if none occurs twice
CYCLE: Final = "twolane.cycle"  # where an ASGI scope has its `RequestCycle`, also only then
WATCH: Final = "twolane.watch"  # where an ASGI scope has `RequestCycle.watch` while the application runs
_BODILESS: Final = frozenset({204, 304})
_log = logging.getLogger("twolane.http")

Headers = Sequence[tuple[bytes, bytes]]


class Wire(Protocol):
    """The connection of a request."""

    @property
    def default_headers(self) -> Headers:
        """Headers of every response."""

    @property
    def is_open(self) -> bool:
        """Whether bytes can still be sent."""

    def write(self, data: bytes) -> None:
        """Queue bytes for the client."""

    def write_soon(self, data: bytes) -> None:
        """The same, for bytes that may wait until other requests have done their part of the event loop's turn."""

    def push(self, data: bytes) -> bool:
        """Queue bytes, if they can still be sent; returns whether they can, and `is_drained`."""

    @property
    def is_drained(self) -> bool:
        """Whether the client has taken enough of the queued bytes."""

    async def drained(self) -> None:
        """Return when the client has taken enough of the queued bytes, or has disconnected."""

    def read_on(self) -> None:
        """The request's body is wanted."""

    def finished(self, cycle: "RequestCycle") -> None:
        """The response is complete."""

    def close_now(self) -> None:
        """Close without completing the response, so that the client notices."""

    def answer_in_place(self, cycle: "RequestCycle", refusal: Refusal) -> None:
        """Send a response of the connection itself, and close."""


class RequestCycle:
    """Created when the head of a request has arrived. `is_last`: the connection is closed after the response."""

    __slots__ = (
        "_app_status",
        "_body",
        "_expects_continue",
        "_has_news",
        "_headers",
        "_holding",
        "_is_chunked",
        "_is_running",
        "_left",
        "_on_disconnect",
        "_received_bytes",
        "_waiter",
        "_wire",
        "added_headers",
        "body_is_complete",
        "has_started",
        "is_complete",
        "is_disconnected",
        "is_last",
        "scope",
        "task",
    )

    def __init__(self, wire: Wire, scope: Scope, holding: Holding, *, is_last: bool, expects_continue: bool) -> None:
        """`holding` counts the bytes of the request's body, and is released when nothing needs them any longer."""
        self._wire, self.scope, self.is_last = wire, scope, is_last
        self._expects_continue = expects_continue
        self._has_news = False  # for `receive`
        self._waiter: asyncio.Future[None] | None = None
        self._body: bytes | bytearray = b""
        self._holding = scope[IN_SCOPE] = holding
        self._on_disconnect: Callable[[], None] | None = None
        self._received_bytes = 0
        self._is_running = False
        self.task: asyncio.Task[None] | None = None  # that runs the application
        self.added_headers: Headers = ()  # of the response, whoever makes it
        self.body_is_complete = self.is_disconnected = False
        self.has_started = self.is_complete = False
        self._app_status = 0  # of a response whose head is not sent yet
        self._headers: Headers = ()
        self._is_chunked = False
        self._left: int | None = None  # bytes of the body that the head announced; None: it announced none

    @property
    def buffered_bytes(self) -> int:
        """Bytes of the request's body that the application has not read yet."""
        return len(self._body)

    @property
    def may_send_interim(self) -> bool:
        """Whether an interim response may be sent: the response has not started, and the client speaks HTTP/1.1."""
        return not self.has_started and self.scope["http_version"] == "1.1"

    @property
    def is_between_chunks(self) -> bool:
        """Whether the next bytes of the response are the size of a chunk."""
        return self.has_started and not self.is_complete and self._is_chunked

    def feed(self, data: bytes) -> None:
        """A part of the request's body. Raises BudgetExceededError if it does not fit into the budget of bytes."""
        if not self.is_complete and not self.is_disconnected:
            self._received_bytes += len(data)
            self._holding.reserve(self._received_bytes)
            if not self._body:
                self._body = bytearray()
            self._body += data
            self._has_news = True
            if self._waiter is not None:
                self._wake()

    def feed_all(self, body: bytes) -> None:
        """The whole body, if nobody reads it yet. Raises BudgetExceededError if it does not fit into the budget."""
        self._received_bytes = len(body)
        self._holding.add_if_fits(len(body))
        self._body = body
        self.body_is_complete = self._has_news = True

    def end_body(self) -> None:
        """The request's body is complete."""
        self.body_is_complete = self._has_news = True
        if self._waiter is not None:
            self._wake()

    def disconnect(self) -> None:
        """The client has left, or the request was refused by the connection."""
        if not self.is_complete:
            self.is_disconnected = True
            if self._on_disconnect is not None:
                self._on_disconnect()
        self._has_news = True
        if self._waiter is not None:
            self._wake()
        self._release()

    def watch(self, on_disconnect: Callable[[], None] | None) -> None:
        """Call this once if the client leaves before its response is complete, at once if it has left; None: no longer.
        The body must have been read. A task that waits for `receive` would cost more than the rest of a request."""
        self._on_disconnect = on_disconnect
        if on_disconnect is None:
            return
        if self.is_disconnected:
            on_disconnect()
        else:
            self._wire.read_on()  # of a connection that is not read, nobody would see the end

    async def run(self, app: ASGIApp, tasks: set[asyncio.Task[None]]) -> None:
        """Run the application; whatever happens, the client gets one response or notices the failure. The task of this
        call is taken out of `tasks` at the end."""
        self._is_running = True
        self.scope[WATCH], self.scope[CYCLE] = self.watch, self
        if self.body_is_complete and len(self._body) <= PIECE_BYTES:
            self.scope[BODY] = bytes(self._body)
        try:
            await app(self.scope, self.receive, self.send)
            if not self.is_complete and not self.is_disconnected and self._wire.is_open:
                _log.error("the application returned without completing its response")
                self._fail(FAILED)
        except asyncio.CancelledError:
            self._fail(DRAINED)
            raise
        except Exception:  # noqa: BLE001 - the last handler of a request: its connection must not be left open
            _log.exception("the application failed")
            self._fail(FAILED)
        finally:
            del self.scope[WATCH], self.scope[CYCLE]  # reference cycles, which the garbage collector would look for
            self._is_running = False
            self._body = b""
            self._holding.release()
            if self.task is not None:
                tasks.discard(self.task)
                self.task = None

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a whole response, without further messages of an application. `headers` has no content-length. What was
        not read of the request's body is discarded."""
        if self.is_disconnected or not self._wire.is_open:
            return
        if self._app_status:
            raise RuntimeError("a second response")
        self._app_status = status
        is_plain = (
            not (self.is_last or self._expects_continue or status in _BODILESS) and self.scope["method"] != "HEAD"
        )
        lines = header_lines([*self._wire.default_headers, *headers, *self.added_headers]) if is_plain else None
        if lines is None:
            self._headers = (*headers, (b"content-length", b"%d" % len(body)))
            self._write(self._start(), body, is_end=True)
        else:
            self.has_started, self._left = True, 0
            line = STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
            self._wire.write_soon(b"%b%bcontent-length: %d\r\n\r\n%b" % (line, lines, len(body), body))
        self._complete()

    @property
    def relay(self) -> Callable[[bytes], bool] | None:
        """Like `push`, for whole chunks as they are; None: the body of this response does not consist of chunks."""
        return self._wire.push if self._is_chunked else None

    def push(self, data: bytes) -> bool:
        """Send a part of the body of a response that has started, without waiting. Returns whether the client has taken
        enough of what was sent before; otherwise wait with the next message."""
        if self.is_disconnected:
            return False
        if self._is_chunked:
            return self._wire.push(b"%x\r\n%b\r\n" % (len(data), data))
        if not self._wire.is_open:
            return False
        self._write(b"", data, is_end=False)
        return self._wire.is_drained

    async def receive(self) -> Message:
        """See the ASGI specification."""
        if self._expects_continue and not self.has_started and not self.is_disconnected:
            self._expects_continue = False
            if not self.body_is_complete and not self._received_bytes:
                self._wire.write(CONTINUE)
        if not self.is_disconnected and not self.is_complete:
            self._wire.read_on()
            if not self._has_news:
                await self._news()
            self._has_news = False
        if self.is_disconnected or self.is_complete:
            return {"type": "http.disconnect"}
        body, self._body = bytes(self._body), b""
        return {"type": "http.request", "body": body, "more_body": not self.body_is_complete}

    async def send(self, message: Message) -> None:
        """See the ASGI specification. Returns when the client has taken most of what was sent."""
        if self.is_disconnected:
            return
        if message["type"] == "http.response.start":
            if self._app_status:
                raise RuntimeError("a second http.response.start")
            self._app_status, self._headers = message["status"], message.get("headers", ())
            return
        if not self._app_status or self.is_complete:
            raise RuntimeError(f"unexpected message {message['type']}")
        body, more = message.get("body", b""), message.get("more_body", False)
        head = b"" if self.has_started else self._start()
        if len(body) <= PIECE_BYTES:
            if self._wire.is_open:
                self._write_last(head, body, more=more)
        else:
            await self._send_large(head, memoryview(body), more=more)
        if not self._wire.is_drained:
            await self._wire.drained()

    async def _send_large(self, head: bytes, rest: memoryview, *, more: bool) -> None:
        try:
            while len(rest) > PIECE_BYTES and self._wire.is_open:
                piece, rest = rest[:PIECE_BYTES], rest[PIECE_BYTES:]
                self._write(head, piece, is_end=False)
                head = b""
                await self._wire.drained()
        finally:  # also of a cancelled call: what is sent next must not continue the first half of this part
            if self._wire.is_open:
                self._write_last(head, rest, more=more)

    def _write_last(self, head: bytes, data: bytes | memoryview, *, more: bool) -> None:
        self._write(head, data, is_end=not more)
        if not more:
            self._complete()

    def _write(self, head: bytes, data: bytes | memoryview, *, is_end: bool) -> None:
        """Frame and write a part of the body."""
        if self._is_chunked:
            framed = (head, b"%x\r\n" % len(data), data, b"\r\n") if data else (head,)
            whole = b"".join((*framed, LAST_CHUNK) if is_end else framed)
        elif self._left is None:  # delimited by the end of the connection
            whole = head + data
        else:
            if self.scope["method"] == "HEAD":
                data = b""
            self._left -= len(data)
            if self._left < 0:
                raise RuntimeError("the body is longer than its content-length")
            whole = head + data
        if whole:
            self._wire.write(whole)

    def _start(self) -> bytes:
        """The head of the response."""
        self.has_started = True
        status = self._app_status
        is_plain = not (self.is_last or self._expects_continue or status in _BODILESS)
        if is_plain and self.scope["method"] != "HEAD" and self.scope["http_version"] == "1.1":
            common = header_lines([*self._wire.default_headers, *self._headers, *self.added_headers])
            if common is not None:  # which has no length, so the body consists of chunks
                self._is_chunked = True
                line = STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
                return b"%b%btransfer-encoding: chunked\r\n\r\n" % (line, common)
        lines = [STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status]
        for name, value in (*self._wire.default_headers, *self._headers, *self.added_headers):
            if name == b"content-length":
                self._left = int(value)
            elif name == b"connection" and b"close" in value.lower():
                self.is_last = True
                continue
            lines.append(b"%b: %b\r\n" % (name, value))
        if status in _BODILESS or self.scope["method"] == "HEAD":
            self._left = 0
        elif self._left is None:
            if self.scope["http_version"] == "1.1":
                self._is_chunked = True
                lines.append(b"transfer-encoding: chunked\r\n")
            else:
                self.is_last = True
        if self._expects_continue and not self.body_is_complete:
            self.is_last = True  # the client may leave out the body now, and its next request would be taken for it
        if self.is_last:
            lines.append(b"connection: close\r\n")
        lines.append(b"\r\n")
        head = b"".join(lines)
        if head.count(b"\n") != len(lines) or head.count(b"\r") != len(lines) or b"\0" in head:
            self.has_started = False
            raise RuntimeError("a response header contains a line break")
        return head

    def _complete(self) -> None:
        if self._left:
            raise RuntimeError("the body is shorter than its content-length")
        self.is_complete = self._has_news = True
        self._on_disconnect = None
        if self._waiter is not None:
            self._wake()
        self._body = b""
        if not self._is_running:
            self._holding.release()
        self._wire.finished(self)

    def _wake(self) -> None:
        """What `receive` waits for has happened."""
        assert self._waiter is not None
        if not self._waiter.done():
            self._waiter.set_result(None)

    async def _news(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _release(self) -> None:
        """Forget what the application did not read, and count nothing any longer unless it still runs."""
        self._body = b""
        if not self._is_running:
            self._holding.release()

    def _fail(self, refusal: Refusal) -> None:
        if self.is_complete or self.is_disconnected:
            return
        if self.has_started:
            self._wire.close_now()
        else:
            self._wire.answer_in_place(self, refusal)
