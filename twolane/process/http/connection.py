"""Client connections of both programs: HTTP/1.1 with limits, closed without resetting the client.

`Listener` makes the connections of one server and is passed to uvicorn as its `http` protocol. The parser is llhttp
(Node's), in strict mode: conflicting lengths, folded headers and bare line feeds are refused.

A TCP socket that is closed while it holds unread bytes sends a reset, and the client loses its request or the response.
Three situations are handled here:

* The keep-alive timeout ends just as the next request arrives.
* The process shuts down while a client with pooled connections sends its next request.
* A response is sent before the end of the request's body (401, 413) and the connection is then closed.

A request that is in transit when an idle connection is closed is lost in any case (RFC 9112, 9.5): only a timeout
longer than the client's avoids that.

A client may shut down its sending half after the request (`nc -N`) and is answered. A client that has left entirely
sends the same packet, so the connection then sends something that a client ignores, which the machine of a client that
has left answers with a reset: an interim response (RFC 9110, 15.2), or a leading zero of the next chunk's size
(RFC 9112, 7.1).
"""

import asyncio
import logging
import select
import socket
import struct
import sys
from collections import deque
from collections.abc import Callable, Collection
from contextvars import Context
from dataclasses import dataclass
from typing import Any, Final, NoReturn
from urllib.parse import unquote

import httptools
from starlette.types import ASGIApp
from uvicorn.config import Config
from uvicorn.server import ServerState

from twolane.process.http import limits
from twolane.process.http.byte_budget import BudgetExceededError, ByteBudget, Holding
from twolane.process.http.compiled import read_request
from twolane.process.http.limits import Broken, HttpLimits, Refusal, filled
from twolane.process.http.request_cycle import CONTINUE, NAMED, STATUS_LINES, Headers, RequestCycle
from twolane.process.http.turn_writes import TurnWrites

QUIET_S: Final = 0.5  # a connection used more recently is likely to be used again
RECHECK_S: Final = 0.05  # for the loop to read the socket, and for a reset to arrive
DRAINING_HEAD_S: Final = 2.0  # for a head, during shutdown
PROBE_S: Final = 0.25  # after the end of a client's stream; most responses are complete before
PIECE_BYTES: Final = 65_536  # that are parsed at once
BUFFERED_BYTES: Final = 65_536  # of a body that its application has not read yet
_NO_LINGER: Final = struct.pack("ii", 1, 0)
_TLS_HANDSHAKE: Final = b"\x16\x03"
_CHECKED: Final = frozenset({b"host", b"transfer-encoding", b"expect"})
_UPGRADES: Final = frozenset({b"connection", b"upgrade", b"http2-settings"})
_ASGI: Final = {"version": "3.0", "spec_version": "2.3"}
_TASK: Final = "request"  # the name of tasks
_MAX_TARGETS: Final = 64  # that are kept
_MAX_TARGET_BYTES: Final = 64
_IDLE, _HEAD, _BODY = range(3)  # what is expected next: a request, the rest of a head, the rest of a body
_UNUSED: Final = httptools.HttpRequestParser(object())  # of connections that are closed
_log = logging.getLogger("twolane.http")


class _Refused(Exception):  # noqa: N818 - says what happened; never leaves this module
    """Ends the parser's run over the received bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The target of a request, with its method."""

    url: bytes  # as sent
    method: str
    path: str
    raw_path: bytes
    query_string: bytes


class Listener:
    """The connections of one server. Pass it to uvicorn as `http`. `on_broken` is called for each connection that was
    refused or closed because it broke a limit or the rules of HTTP."""

    def __init__(
        self,
        limits: HttpLimits | None = None,
        on_broken: Callable[[Broken], None] = lambda _broken: None,
        arrive: "Callable[[ClientConnection, RequestCycle], None] | None" = None,
        *,
        budget: ByteBudget | None = None,
        added_headers: Callable[[Headers], Headers] = lambda _headers: (),
    ) -> None:
        """`arrive` is called with every request whose turn has come on its connection, and starts it
        (`ClientConnection.start`) or responds (`RequestCycle.respond`), now or later; None: it starts at once.
        `budget` counts the bodies, also of requests that nobody reads yet. `added_headers` are those of every response,
        the connection's own included, by the headers of its request."""
        self.limits, self.on_broken = limits or HttpLimits(), on_broken
        self.arrive = arrive or ClientConnection.start
        self.budget, self.added_headers = budget or ByteBudget(sys.maxsize), added_headers
        self.writes = TurnWrites()
        self.targets: dict[bytes, Target] = {}  # of plain paths, by the line of the request
        self._connections: set[ClientConnection] = set()
        self._timer: asyncio.TimerHandle | None = None

    def __call__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> "ClientConnection":
        """Takes the arguments of uvicorn's protocols."""
        loop = _loop or asyncio.get_running_loop()
        return ClientConnection(self, config.loaded_app, server_state, app_state, loop)

    def add(self, connection: "ClientConnection", loop: asyncio.AbstractEventLoop) -> None:
        """Check this connection periodically. One timer for all costs less than several per request."""
        self._connections.add(connection)
        if self._timer is None:
            self._timer = loop.call_later(self.limits.interval_s, self._check, loop)

    def remove(self, connection: "ClientConnection") -> None:
        """The connection is closed."""
        self._connections.discard(connection)

    def _check(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now_s = loop.time()
        for connection in tuple(self._connections):
            connection.check(now_s)
        if self._connections:
            self._timer = loop.call_later(self.limits.interval_s, self._check, loop)


class ClientConnection(asyncio.Protocol):
    """One client connection. Closes only when no request is arriving, in progress or waiting to be read."""

    __slots__ = (
        "_app",
        "_app_state",
        "_body_fed",
        "_body_received",
        "_body_since_s",
        "_client",
        "_closing_s",
        "_expects_continue",
        "_final",
        "_has_begun",
        "_has_eof",
        "_has_probed",
        "_head_fed",
        "_head_since_s",
        "_head_size",
        "_headers",
        "_held",
        "_hosts",
        "_is_chunked",
        "_is_deaf",
        "_is_draining",
        "_is_read_paused",
        "_limits",
        "_listener",
        "_loop",
        "_open",
        "_parser",
        "_parsing",
        "_paused_s",
        "_phase",
        "_server",
        "_server_state",
        "_transport",
        "_url",
        "_used_s",
        "_writable",
    )

    def __init__(
        self,
        listener: Listener,
        app: ASGIApp,
        server_state: ServerState,
        app_state: dict[str, Any],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._listener, self._limits = listener, listener.limits
        self._app, self._app_state, self._server_state, self._loop = app, app_state, server_state, loop
        self._transport: asyncio.Transport = None  # type: ignore[assignment]  # set before anything else is called
        self._parser = httptools.HttpRequestParser(self)
        self._held = b""  # bytes for the client that wait for the end of the turn
        self._open = deque[RequestCycle]()  # requests whose response is incomplete; the first one is in progress
        self._parsing: RequestCycle | None = None  # the request whose body is arriving
        self._final: Refusal | None = None  # sent after the last response
        self._phase = _IDLE
        self._used_s = self._head_since_s = self._body_since_s = loop.time()
        self._head_fed = self._head_size = self._body_fed = self._body_received = 0
        self._is_draining = self._has_eof = self._is_read_paused = self._has_begun = self._has_probed = False
        self._is_deaf = False  # further bytes are discarded
        self._paused_s: float | None = None  # since when the client has not taken enough of its response
        self._closing_s: float | None = None  # since when the connection only waits for the client to close
        self._writable: asyncio.Event | None = None
        self._reset_head()

    # The transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        self._transport = transport  # type: ignore[assignment]  # uvloop's is no subclass
        self._server, self._client = _address(self._transport, "sockname"), _address(self._transport, "peername")
        self._server_state.connections.add(self)  # type: ignore[arg-type]  # uvicorn only calls `shutdown`
        self._listener.add(self, self._loop)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the interface's signature
        """The connection is closed, by either side."""
        self._server_state.connections.discard(self)
        self._listener.remove(self)
        self._is_deaf = True
        for cycle in self._open:
            cycle.disconnect()
        self.resume_writing()
        # Its requests and its parser refer to it: without a cycle of references, its memory is free at once.
        self._open.clear()
        self._parsing, self._parser = None, _UNUSED

    def data_received(self, data: bytes) -> None:
        """Bytes from the client."""
        self._used_s = self._loop.time()
        if len(data) <= PIECE_BYTES:
            if self._phase != _IDLE or not self._take_common(data):
                self._take(data)
            return
        view = memoryview(data)  # in pieces, so that the size of a head behind another request is known well enough
        for at in range(0, len(data), PIECE_BYTES):
            self._take(view[at : at + PIECE_BYTES])

    def _take(self, data: bytes | memoryview) -> None:
        if self._is_deaf:
            return
        if self._phase == _IDLE:
            self._phase, self._head_since_s, self._head_fed = _HEAD, self._used_s, 0
        if self._phase == _HEAD:
            self._head_fed += len(data)
        else:
            self._body_fed += len(data)
        self._parse(data)
        self._check_sizes()

    def _take_common(self, data: bytes) -> bool:
        """Read a whole request in the form that clients commonly send. False: the parser must read it."""
        if self._open or self._is_deaf or self._is_draining:
            return False
        found = read_request(data, self._listener.targets, self._limits.head_bytes, self._limits.headers)
        if found is None:
            return False
        target, self._headers, named, body = found
        self._url, scope = target.url, self._scope_of(target, "1.1")
        scope[NAMED] = named
        holding = Holding(self._listener.budget)
        cycle = RequestCycle(self, scope, holding, is_last=False, expects_continue=False)
        cycle.added_headers = self._listener.added_headers(self._headers)
        self._open.append(cycle)
        try:
            cycle.feed_all(body)
        except BudgetExceededError:
            self._parsing = cycle
            self._refuse(limits.OUT_OF_BYTES, Broken.BYTE_BUDGET)
        else:
            self._listener.arrive(self, cycle)
        return True

    def eof_received(self) -> bool:
        """The client has shut down its sending half, or left. Keep the connection if a complete request is open."""
        self._has_eof = self._is_deaf = True
        self._write_held()  # the transport may close now
        if not self._open or self._phase == _BODY or self._closing_s is not None:
            return False
        self._open[-1].is_last = True
        self._loop.call_later(PROBE_S, self._probe)
        return True

    def pause_writing(self) -> None:
        """The transport's buffer is full."""
        self._paused_s = self._loop.time()
        self._writable = asyncio.Event()

    def resume_writing(self) -> None:
        """The transport's buffer has room again."""
        self._paused_s = None
        if self._writable is not None:
            self._writable.set()
            self._writable = None

    # The parser

    def on_message_begin(self) -> None:
        """A request begins, possibly behind another one in the same bytes."""
        if self._phase != _HEAD:
            self._phase, self._head_since_s, self._head_fed = _HEAD, self._used_s, 0
        if self._is_deaf or (self._open and self._open[-1].is_last):
            self._is_deaf = True
            raise _Refused
        self._reset_head()
        self._has_begun = True

    def on_url(self, url: bytes) -> None:
        """A part of the request's target."""
        self._url += url
        self._head_size += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer, which is ignored."""
        if self._phase == _BODY:
            return
        name, value = name.lower(), value.rstrip()
        self._head_size += len(name) + len(value) + 4
        self._headers.append((name, value))
        if name in _CHECKED:
            self._check_header(name, value.lower())

    def on_headers_complete(self) -> None:
        """A request starts; during shutdown it is the last of its connection."""
        version = self._parser.get_http_version()
        self._check_head(version)
        if self._parser.should_upgrade():
            return  # see `_without_upgrade`
        scope = self._scope(version)
        is_last = self._is_draining or version == "1.0" or not self._parser.should_keep_alive()
        expects_continue = self._expects_continue and version == "1.1"
        holding = self._listener.budget.hold()
        cycle = RequestCycle(self, scope, holding, is_last=is_last, expects_continue=expects_continue)
        cycle.added_headers = self._listener.added_headers(self._headers)
        self._phase, self._parsing = _BODY, cycle
        self._body_since_s, self._body_fed, self._body_received = self._used_s, 0, 0
        self._open.append(cycle)
        if len(self._open) == 1:
            self._listener.arrive(self, cycle)
        else:
            self._pause_reading()

    def on_body(self, body: bytes) -> None:
        """A part of the request's body."""
        cycle = self._parsing
        assert cycle is not None
        self._body_received += len(body)
        try:
            cycle.feed(body)
        except BudgetExceededError:
            self._stop(limits.OUT_OF_BYTES, Broken.BYTE_BUDGET)
        if cycle.buffered_bytes > BUFFERED_BYTES:
            self._pause_reading()

    def on_message_complete(self) -> None:
        """The request's body is complete; the response may have been sent before."""
        cycle = self._parsing
        if cycle is None:
            return  # as above
        self._parsing, self._phase, self._has_begun = None, _IDLE, False
        cycle.end_body()
        if cycle.is_last and cycle.is_complete:
            self._close()
        elif cycle.is_complete and self._is_draining:
            self._close_when_quiet(QUIET_S)
        elif len(self._open) > self._limits.pipelined:
            cycle.is_last = True  # the client sends the others again, on a new connection
            self._listener.on_broken(Broken.PIPELINE)

    # What a request calls

    @property
    def default_headers(self) -> Headers:
        """Headers of every response."""
        return self._server_state.default_headers

    @property
    def is_open(self) -> bool:
        """Whether bytes can still be sent."""
        return not self._transport.is_closing()

    @property
    def tasks(self) -> Collection[object]:
        """The tasks of all requests of the server."""
        return self._server_state.tasks

    def write(self, data: bytes) -> None:
        """Queue bytes for the client."""
        self._transport.write(self._held + data if self._held else data)
        self._held = b""

    def write_soon(self, data: bytes) -> None:
        """The same, at the end of this turn of the event loop if other requests are in progress."""
        if len(self._server_state.tasks) <= 1:
            self.write(data)
            return
        if not self._held:
            self._listener.writes.add(self._write_held, self._loop)
        self._held += data

    def push(self, data: bytes) -> bool:
        """Queue bytes, if they can still be sent; returns whether they can, and `is_drained`."""
        transport = self._transport
        if transport.is_closing():
            return False
        transport.write(self._held + data if self._held else data)  # as `write`, without a call of its own
        self._held = b""
        return self._writable is None

    def _write_held(self) -> None:
        """Write what waits for the end of the turn."""
        if self._held and not self._transport.is_closing():
            self.write(b"")

    @property
    def is_drained(self) -> bool:
        """Whether the client has taken enough of the queued bytes."""
        return self._writable is None

    async def drained(self) -> None:
        """Return when the client has taken enough of the queued bytes, or has disconnected."""
        while self._writable is not None:
            await self._writable.wait()

    def read_on(self) -> None:
        """The application wants the next part of the body."""
        if self._is_read_paused and len(self._open) <= 1 and not self._transport.is_closing():
            self._is_read_paused = False
            self._body_since_s, self._body_received, self._body_fed = self._loop.time(), 0, 0
            self._transport.resume_reading()

    def finished(self, cycle: RequestCycle) -> None:
        """A response is complete: start the next request, or close."""
        self._used_s = self._loop.time()
        self._server_state.total_requests += 1
        if self._open and self._open[0] is cycle:
            self._open.popleft()
        elif cycle in self._open:
            self._open.remove(cycle)
        if cycle.is_last or self._transport.is_closing():
            for dropped in self._open:
                dropped.disconnect()
            self._open.clear()
            self._linger()
        elif self._open:
            self._listener.arrive(self, self._open[0])
        elif self._final is not None:
            self._send_final(self._final, self._headers)
        else:
            self._body_since_s = self._used_s  # the rest of a body whose response was early has `linger_s`
        if self._is_read_paused:
            self.read_on()

    def close_now(self) -> None:
        """Close without completing the response."""
        self._transport.abort()

    def answer_in_place(self, cycle: RequestCycle, refusal: Refusal) -> None:
        """Send a response of the connection itself for this request, and close."""
        cycle.disconnect()
        self._drop(cycle)
        self._send_final(refusal, cycle.scope["headers"])

    # What the server calls

    def shutdown(self) -> None:
        """Shut down: finish responses in progress and requests that arrive within a moment."""
        self._is_draining = True
        if self._open:
            self._open[-1].is_last = True
        elif self._phase == _IDLE:
            self._close_when_quiet(QUIET_S)
        elif self._phase == _BODY:  # nobody waits for the rest of a body whose response has been sent
            self._linger()
        if self._closing_s is not None:
            self._loop.call_later(QUIET_S, self._transport.abort)

    def check(self, now_s: float) -> None:
        """Apply the limits of time."""
        allowed = self._limits
        if self._closing_s is not None:
            if now_s - self._closing_s > allowed.linger_s:
                self._reset()
        elif self._paused_s is not None and now_s - self._paused_s > allowed.write_s:
            self._listener.on_broken(Broken.WRITE_TIMEOUT)
            self._reset()
        elif (self._has_eof or self._is_read_paused) and self._has_left():
            return
        elif self._phase == _HEAD and now_s - self._head_since_s > self._head_s:
            self._head_timed_out()
        elif self._phase == _BODY and self._parsing is not None and self._parsing.is_complete:
            if now_s - self._body_since_s > allowed.linger_s:
                self._linger()
        elif self._phase == _BODY and not self._is_read_paused:
            limit_s = allowed.body_s + self._body_received / allowed.body_bytes_per_s
            if now_s - self._body_since_s > limit_s:
                slow = filled(limits.BODY_TIMED_OUT, allowed.body_s, allowed.body_bytes_per_s)
                self._refuse(slow, Broken.BODY_TIMEOUT)
        elif self._phase == _IDLE and not self._open:
            never_used = not self._url
            idle_s = min(allowed.head_s, allowed.keep_alive_s) if never_used else allowed.keep_alive_s
            if now_s - self._used_s > idle_s:
                self._close_when_quiet(QUIET_S)

    # Parsing

    def _parse(self, data: bytes | memoryview) -> None:
        while data and not self._is_deaf:
            try:
                self._parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                data = self._without_upgrade() + bytes(data[upgrade.args[0] :])
                self._parser = httptools.HttpRequestParser(self)
            except httptools.HttpParserError as error:
                if not self._parsing and self._open and self._open[-1].is_last:  # behind the last request
                    self._is_deaf, self._phase = True, _HEAD
                elif not self._is_deaf:
                    self._refuse(self._malformed(error, data))
                return

    def _without_upgrade(self) -> bytes:
        """The head that has just been parsed, without its request for another protocol, which is declined. The parser
        ignores the body of such a request; Java's client asks for HTTP/2 with every first one."""
        method, version = self._parser.get_method(), self._parser.get_http_version().encode()
        closes = any(name == b"connection" and b"close" in value.lower() for name, value in self._headers)
        kept = [header for header in self._headers if header[0] not in _UPGRADES]
        lines = [b"%b %b HTTP/%b" % (method, self._url, version), *(b"%b: %b" % header for header in kept)]
        return b"\r\n".join([*lines, *([b"connection: close"] if closes else []), b"", b""])

    def _check_sizes(self) -> None:
        if self._is_deaf:
            return
        if self._phase == _HEAD and self._head_fed > self._limits.head_bytes:
            self._refuse(filled(limits.HEAD_TOO_LARGE, self._limits.head_bytes), Broken.HEAD_SIZE)
        elif self._phase == _BODY and self._body_fed - 2 * self._body_received > self._limits.framing_bytes:
            self._refuse(filled(limits.MALFORMED, "chunks are too small or their extensions too long"))

    def _malformed(self, error: httptools.HttpParserError, data: bytes | memoryview) -> Refusal:
        if isinstance(error, httptools.HttpParserCallbackError) and not isinstance(error.__context__, _Refused):
            _log.error("the connection failed", exc_info=error)
        if bytes(data[:2]) == _TLS_HANDSHAKE:
            return limits.NO_PLAIN_HTTP
        return filled(limits.MALFORMED, str(error) or "the request line is not valid")

    def _reset_head(self) -> None:
        self._url, self._headers, self._head_size, self._hosts = b"", list[tuple[bytes, bytes]](), 0, 0
        self._expects_continue = self._is_chunked = False

    def _check_header(self, name: bytes, value: bytes) -> None:
        if name == b"host":
            self._hosts += 1
        elif name == b"expect":
            self._expects_continue = True
            if value != b"100-continue":
                self._stop(limits.UNKNOWN_EXPECTATION, Broken.UNSUPPORTED)
        else:
            self._is_chunked = True
            if value != b"chunked":
                self._stop(limits.UNKNOWN_CODING, Broken.UNSUPPORTED)

    def _check_head(self, version: str) -> None:
        """Raises _Refused, after it has sent a response."""
        allowed = self._limits
        if self._head_size > allowed.head_bytes:
            self._stop(filled(limits.HEAD_TOO_LARGE, allowed.head_bytes), Broken.HEAD_SIZE)
        if len(self._headers) > allowed.headers:
            self._stop(filled(limits.TOO_MANY_HEADERS, allowed.headers), Broken.HEAD_SIZE)
        if version not in ("1.1", "1.0"):
            self._stop(limits.UNKNOWN_VERSION, Broken.UNSUPPORTED)
        if self._hosts > 1 or (not self._hosts and version == "1.1"):
            self._stop(filled(limits.MALFORMED, "exactly one Host header is required"))
        if self._is_chunked and version == "1.0":
            self._stop(filled(limits.MALFORMED, "HTTP/1.0 has no transfer coding"))
        if self._parser.get_method() == b"CONNECT":
            self._stop(limits.NO_TUNNEL, Broken.UNSUPPORTED)

    def _stop(self, refusal: Refusal, broken: Broken = Broken.MALFORMED) -> NoReturn:
        """Refuse and end the parser's run."""
        self._refuse(refusal, broken)
        raise _Refused

    def _scope(self, version: str) -> dict[str, Any]:
        try:
            url = httptools.parse_url(self._url)
        except httptools.HttpParserInvalidURLError:
            self._stop(filled(limits.MALFORMED, "the request target is not valid"))
        path = url.path or b"/"
        text = path.decode("latin-1")
        if url.host and url.schema:  # a target in absolute form replaces the Host header (RFC 9112, 3.2.2)
            host = b"[%b]" % url.host if b":" in url.host else url.host
            authority = host if url.port is None else b"%b:%d" % (host, url.port)
            self._headers = [(n, authority if n == b"host" else v) for n, v in self._headers]
        method = self._parser.get_method()
        target = Target(
            url=self._url,
            method=method.decode("ascii"),
            path=unquote(text) if "%" in text else text,
            raw_path=path,
            query_string=url.query or b"",
        )
        targets = self._listener.targets
        if path == self._url and len(path) <= _MAX_TARGET_BYTES:
            if len(targets) >= _MAX_TARGETS:  # whoever asks for many paths must not keep out the common ones
                targets.clear()
            targets[b"%b %b HTTP/1.1" % (method, path)] = target
        return self._scope_of(target, version)

    def _scope_of(self, target: Target, version: str) -> dict[str, Any]:
        return {
            "type": "http",
            "asgi": _ASGI,
            "http_version": version,
            "server": self._server,
            "client": self._client,
            "scheme": "http",
            "root_path": "",
            "method": target.method,
            "path": target.path,
            "raw_path": target.raw_path,
            "query_string": target.query_string,
            "headers": self._headers,
            "state": self._app_state.copy(),
        }

    # Requests

    def start(self, cycle: RequestCycle) -> None:
        """Run the application for this request, in an empty context: the caller may belong to another request."""
        tasks = self._server_state.tasks
        # Made directly: `create_task` would make up a name, which takes half as long again as the rest of a task.
        task = asyncio.Task(cycle.run(self._app, tasks), loop=self._loop, name=_TASK, context=Context())
        cycle.task = task
        tasks.add(task)  # which takes itself out: a callback of the task would cost as much as a second task

    def _drop(self, cycle: RequestCycle) -> None:
        """This request, and those behind it, get no response of the application."""
        while self._open and self._open[-1] is not cycle:
            self._open.pop().disconnect()
        if self._open:
            self._open.pop()

    def _pause_reading(self) -> None:
        if not self._is_read_paused and not self._transport.is_closing():
            self._is_read_paused = True
            self._transport.pause_reading()

    def _refuse(self, refusal: Refusal, broken: Broken = Broken.MALFORMED) -> None:
        """Refuse the request that is arriving, behind the responses of earlier ones, and close."""
        self._is_deaf = True
        self._listener.on_broken(broken)
        cycle = self._parsing
        if cycle is not None:
            has_answer = cycle.has_started
            cycle.disconnect()
            if cycle in self._open:
                self._drop(cycle)
            if has_answer:  # the response has started, or is even complete: nothing can be added to it
                self._linger() if cycle.is_complete else self._transport.abort()
                return
        if self._open:
            self._final = refusal
        else:
            self._send_final(refusal, self._headers)

    @property
    def _head_s(self) -> float:
        return min(self._limits.head_s, DRAINING_HEAD_S) if self._is_draining else self._limits.head_s

    def _head_timed_out(self) -> None:
        if not self._has_begun:  # only line ends
            self._close()
        else:
            self._refuse(filled(limits.HEAD_TIMED_OUT, self._head_s), Broken.HEAD_TIMEOUT)

    def _send_final(self, refusal: Refusal, request_headers: Headers) -> None:
        """Send the last response of the connection, to a request with these headers, and close."""
        if not self._transport.is_closing():
            headers = [*self.default_headers, *self._listener.added_headers(request_headers)]
            self.write(refusal.response(STATUS_LINES[refusal.status], headers))
        self._is_deaf = True
        self._linger()

    # Closing

    def _linger(self) -> None:
        """Close after a response. While the client may still send, close only the write side and discard the rest."""
        if self._transport.is_closing() or self._closing_s is not None:
            return
        if self._phase == _IDLE or self._has_eof:
            self._close()
            return
        self._is_deaf = True
        self._closing_s = self._loop.time()
        if self._is_read_paused:
            self._is_read_paused = False
            self._transport.resume_reading()
        self._write_held()
        self._transport.write_eof()
        if self._is_draining:
            self._loop.call_later(QUIET_S, self._transport.abort)

    def _close(self) -> None:
        """Close when the queued bytes are sent; `check` aborts if the client does not take them."""
        if self._closing_s is None:
            self._closing_s = self._loop.time()
        self._write_held()
        self._transport.close()

    def _reset(self) -> None:
        """Close at once. Without a reset the kernel would keep what the client does not take."""
        self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self._transport.abort()

    def _close_when_quiet(self, quiet_s: float) -> None:
        """Close, unless a request arrives or waits in the socket, or the connection was used a moment ago."""
        if self._transport.is_closing() or self._closing_s is not None or self._open or self._phase != _IDLE:
            return
        used_ago_s = self._loop.time() - self._used_s
        if used_ago_s < quiet_s:
            self._loop.call_later(quiet_s - used_ago_s, self._close_when_quiet, quiet_s)
        elif _has_unread(self._transport):
            self._loop.call_later(RECHECK_S, self._close_when_quiet, quiet_s)
        else:
            self._close()

    def _has_left(self) -> bool:
        """Whether the client has left, found without reading. Its stream may end behind bytes that are not read yet."""
        if not self._has_eof and not self._has_probed and _poll(self._transport) & select.POLLRDHUP:
            self._probe()
        return self._abort_if_gone()

    def _probe(self) -> None:
        """The client's stream has ended: send what a living client ignores. See the module."""
        if self._transport.is_closing() or not self._open or self._abort_if_gone():
            return
        self._has_probed = True
        cycle = self._open[0]
        if cycle.may_send_interim:
            self.write(CONTINUE)
        elif cycle.is_between_chunks:
            self.write(b"0")
        self._loop.call_later(RECHECK_S, self._abort_if_gone)

    def _abort_if_gone(self) -> bool:
        """Abort if the client's machine has reset the connection, which is not read any longer."""
        is_gone = not self._transport.is_closing() and bool(_poll(self._transport) & (select.POLLERR | select.POLLHUP))
        if is_gone:
            self._transport.abort()
        return is_gone


def _address(transport: asyncio.Transport, which: str) -> tuple[str, int] | None:
    found = transport.get_extra_info(which)
    return (str(found[0]), int(found[1])) if isinstance(found, tuple) and len(found) > 1 else None


def _has_unread(transport: asyncio.BaseTransport) -> bool:
    """Whether the socket holds data, or the client's end of stream, that the loop has not read yet."""
    return bool(_poll(transport) & select.POLLIN)


def _poll(transport: asyncio.BaseTransport) -> int:
    """The state of the socket now; errors and hang-ups are always included."""
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN | select.POLLRDHUP)
    return next((state for _, state in poll.poll(0)), 0)
