"""One connection to a server, over llhttp (Node's parser): one request at a time, and one response to each.

Bytes that nobody asked for end the connection: a second response in the same read must never become a part of the first
one, or the answer to the next request (response splitting).
"""

import asyncio
import socket
import struct
import sys
from collections.abc import Callable
from typing import Final

import httptools

from gateway.upstreams.http_client.client import HttpResponse, HungUp, InvalidResponse, ResponseTimeout
from gateway.upstreams.http_client.limits import ClientLimits
from gateway.upstreams.http_client.response import ArrivedResponse, Headers, PooledResponse
from twolane.process.http.compiled import is_readable, read_chunks, read_response
from twolane.process.http.turn_writes import TurnWrites

_BODILESS: Final = frozenset({204, 304})
_OK_STATUS: Final = 200
_CHUNKED_HEAD: Final = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
_UNUSED: Final = httptools.HttpResponseParser(object())  # of connections that are closed
_BYTES_ACKED_AT: Final = 120  # in Linux's struct tcp_info


class NotReceived(Exception):  # noqa: N818 - says what happened
    """The server had closed the connection before it received any byte of the request."""


class Connection(asyncio.Protocol):
    """`on_idle` is called when a response has arrived completely and the connection can be used again, `on_lost` when
    the connection is closed."""

    __slots__ = (
        "_answered",
        "_fileno",
        "_has_begun",
        "_has_eof",
        "_head_fed",
        "_header_count",
        "_headers",
        "_is_bodiless",
        "_is_common",
        "_is_framed",
        "_is_interim",
        "_is_over",
        "_is_paused",
        "_is_reused",
        "_keeps",
        "_loop",
        "_on_idle",
        "_on_lost",
        "_parser",
        "_response",
        "_seen",
        "_sent",
        "_timer",
        "_transport",
        "_unsent",
        "_waiter",
        "idle_since_s",
        "limits",
        "origin",
    )

    def __init__(
        self,
        origin: tuple[str, int],
        limits: ClientLimits,
        on_idle: "Callable[[Connection], None]",
        on_lost: "Callable[[Connection], None]",
    ) -> None:
        self.origin, self.limits, self._on_idle, self._on_lost = origin, limits, on_idle, on_lost
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        # What aiohttp and browsers accept as well: folded headers and bare line feeds of old servers.
        self._parser.set_dangerous_leniencies(
            lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )
        self._fileno = -1
        self._transport: asyncio.Transport = None  # type: ignore[assignment]  # set before anything else is called
        self._waiter: asyncio.Future[HttpResponse] | None = None  # for the head
        self._response: PooledResponse | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._unsent = b""
        self._answered = self._sent = 0  # bytes of earlier requests, and of the current one
        self._headers: Headers = {}
        self._is_reused = self._has_eof = self._is_paused = self._is_bodiless = False
        self._has_begun = self._is_common = False
        self.idle_since_s = 0.0
        self._expect()

    def is_usable(self, writes: TurnWrites | None) -> bool:
        """Whether its last response was complete a short time ago, and nothing has arrived since: neither the server's
        close, nor bytes that would be taken for the next response. `writes`: those of the request, see `send`."""
        if self._transport.is_closing() or self._loop.time() - self.idle_since_s > self.limits.idle_s:
            return False
        return writes is not None or not is_readable(self._fileno)  # asked when the request is written

    def send(
        self, request: bytes, *, is_bodiless: bool = False, writes: TurnWrites | None = None
    ) -> "asyncio.Future[HttpResponse]":
        """Send a request, now or with these `writes`. The result is set when the head of its response has arrived:
        HungUp, InvalidResponse, ResponseTimeout, or NotReceived, after which the request can be sent again.
        `is_bodiless`: the response to this method has no body, whatever its headers say (HEAD)."""
        self._is_bodiless = is_bodiless
        self._waiter = waiter = self._loop.create_future()
        if self.limits.head_s is not None:
            self._timer = self._loop.call_later(self.limits.head_s, self.fail, ResponseTimeout())
        self._sent = len(request)
        if writes is None:
            self._transport.write(request)
        else:
            self._unsent = request
            writes.add(self._write, self._loop)
        return waiter

    def _write(self) -> None:
        """The end of the turn in which the request was to be sent. By then it may have been cancelled, or the server
        may have closed."""
        if self._transport.is_closing() or self._waiter is None or self._waiter.done():
            return
        request, self._unsent = self._unsent, b""
        if self._is_reused and is_readable(self._fileno):
            self.fail(NotReceived())
        else:
            self._transport.write(request)

    def abort(self) -> None:
        """Close at once. Nobody is told."""
        self._stop_timer()
        self._waiter = self._response = None
        self._transport.abort()

    def resume_reading(self) -> None:
        """The reader of the response has taken what was buffered."""
        if self._is_paused and not self._transport.is_closing():
            self._is_paused = False
            self._transport.resume_reading()

    # The transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is open."""
        self._transport = transport  # type: ignore[assignment]  # uvloop's is no subclass
        self._fileno = transport.get_extra_info("socket").fileno()

    def data_received(self, data: bytes) -> None:
        """Bytes from the server."""
        if self._response is None:
            if self._waiter is None:  # idle
                self.abort()
                return
            if self._unsent:  # nobody has asked yet
                self.fail(NotReceived() if self._is_reused else InvalidResponse("a response before the request"))
                return
            if not self._has_begun and self._take_common(data):
                return
        elif self._is_common and (self._response.feed_text(data) or self._take_chunks(data)):
            return
        self._has_begun = True
        self._seen += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            if not self._is_over:
                self.fail(_cause(error))
                return
            self._transport.abort()  # there is more than the response
        if self._is_over:
            self._finish()
        elif self._seen > self.limits.head_bytes + len(data):
            self.fail(InvalidResponse("the headers or trailers are too large"))
        elif self._response is not None:
            self._response.wake()

    def eof_received(self) -> bool:
        """The server has closed its side."""
        self._has_eof = True
        if self._transport.get_write_buffer_size():  # the transport would wait until the server takes the rest
            self._transport.abort()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed, by either side."""
        is_end = self._has_eof and exc is None
        if self._response is not None and is_end and not self._is_framed:
            self._response.end()  # the end of the connection is the end of the body
        elif self._waiter is not None and self._is_reused and (self._unsent or (is_end and self._is_unreceived())):
            self.fail(NotReceived())
        else:
            self.fail(HungUp("in the response" if self._has_begun else "before the response"))
        self._on_lost(self)
        self._parser = _UNUSED  # its own refers to the connection, whose memory is free at once this way

    # Common responses

    def _take_common(self, data: bytes) -> bool:
        """Read the head of a response in the form that servers commonly send, with the beginning of its body, or all
        of it. False: the parser must read it."""
        waiter, allowed = self._waiter, self.limits
        if waiter is None or waiter.done() or self._is_bodiless:
            return False
        found = read_response(data, allowed.head_bytes, allowed.body_bytes)
        if found is None:
            return False
        headers, part, is_end = found
        if self._timer is not None:
            self._stop_timer()
        self._waiter = None
        if is_end:
            waiter.set_result(ArrivedResponse(headers, part))
            self._rest()
            return True
        self._has_begun = self._is_common = self._is_framed = True
        self._response = response = PooledResponse(self, _OK_STATUS, headers, allowed.body_bytes)
        waiter.set_result(response)
        self._take(response, part, is_end)
        return True

    def _take_chunks(self, data: bytes) -> bool:
        """Read whole chunks; False: the parser reads them and what follows."""
        chunks, response = read_chunks(data), self._response
        if chunks is not None and response is not None:
            part, is_end = chunks
            if is_end or not response.feed_sink(part):
                self._take(response, part, is_end)
            return True
        self._is_common = False
        self._parser.feed_data(_CHUNKED_HEAD)  # to the place where the body begins, or goes on
        self._is_framed = True
        return False

    def _take(self, response: PooledResponse, part: bytes, is_end: bool) -> None:
        """A part of the body of a common response, and whether it is the last one."""
        if part:
            try:
                is_full = response.feed(part)
            except InvalidResponse as error:
                self.fail(error)
                return
            if is_full and not self._is_paused and not is_end:
                self._is_paused = True
                self._transport.pause_reading()
        if is_end:
            self._is_over = self._keeps = True
            self._finish()
        else:
            response.wake()

    # The parser

    def on_message_begin(self) -> None:
        """A response begins. Behind the final one there must not be another."""
        if self._is_over:
            raise InvalidResponse("a second response")
        self._headers, self._is_framed = {}, False

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer, which is ignored."""
        self._header_count += 1
        self._head_fed += len(name) + len(value) + 4
        if self._head_fed > self.limits.head_bytes or self._header_count > self.limits.headers:
            raise InvalidResponse("the headers are too large")
        if self._response is not None:
            return
        key, text = name.lower(), value.strip()
        if key == b"transfer-encoding":
            self._is_framed = True
            if text.lower() != b"chunked" or key in self._headers:
                raise InvalidResponse("a transfer coding other than chunked")
        elif key == b"content-length":
            self._is_framed = True
            if int(text) > self.limits.body_bytes:
                raise InvalidResponse("the body is too large")
        elif key == b"content-encoding" and key in self._headers:
            text = b"%b,%b" % (self._headers.pop(key), text)
        self._headers.setdefault(key, text)  # of several, the first one counts

    def on_headers_complete(self) -> None:
        """The head is complete: hand over the response, unless it is an interim one."""
        status = self._parser.get_status_code()
        self._is_interim = 100 <= status < 200
        if self._is_interim:
            if status == 101:
                raise InvalidResponse("another protocol was not asked for")
            return
        if self._waiter is None or self._waiter.done():  # failed, or cancelled: nobody takes the response
            return
        if self._timer is not None:
            self._stop_timer()
        self._seen = 0
        response = PooledResponse(self, status, self._headers, self.limits.body_bytes)
        self._is_framed = self._is_framed or status in _BODILESS or self._is_bodiless
        self._waiter.set_result(response)
        self._response, self._waiter = response, None
        if self._is_bodiless:  # the parser may expect a body, so the connection is not used again
            self._is_over = True

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._seen = 0
        if self._response is None or self._is_bodiless:
            return
        if self._response.feed(body) and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        """The response is complete, or an interim one is."""
        if not self._is_interim and not self._is_bodiless:
            self._is_over, self._keeps = True, self._parser.should_keep_alive()

    # Ends

    def _finish(self) -> None:
        """The response has arrived completely."""
        response, self._response = self._response, None
        if self._is_paused:
            self.resume_reading()
        if response is not None and not response.is_over:
            response.end()
        keeps = self._keeps and response is not None and not self._transport.is_closing()
        self._expect()
        if keeps:
            self._rest()
        else:
            self._transport.abort()

    def _expect(self) -> None:
        """Nothing of the next response is known."""
        self._head_fed = self._header_count = self._seen = 0
        self._keeps = self._has_begun = self._is_over = self._is_interim = self._is_framed = False
        self._is_common = False  # chunks of the current response are read without the parser

    def _rest(self) -> None:
        """The connection can be used again, if the request was sent completely."""
        if self._transport.get_write_buffer_size():
            self._transport.abort()
            return
        self._is_reused = True
        self._answered += self._sent
        self.idle_since_s = self._loop.time()
        self._on_idle(self)

    def fail(self, error: Exception) -> None:
        """Tell whoever waits, and close."""
        waiter, response = self._waiter, self._response
        self.abort()
        if waiter is not None and not waiter.done():
            waiter.set_exception(error)
        if response is not None:
            response.end(error)

    def _is_unreceived(self) -> bool:
        """Whether nothing has arrived, and the server's machine has acknowledged all earlier requests, and not one byte
        of this one.

        The end of its stream acknowledges everything that it had received (RFC 9293, 3.10.7), so it had closed before.
        It cannot answer, and the request may be sent again (RFC 9112, 9.3.1). False if the system does not say.
        """
        if self._has_begun or sys.platform != "linux":
            return False
        try:
            known = self._transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
            acked: int = struct.unpack_from("=Q", known, _BYTES_ACKED_AT)[0]
        except (OSError, AttributeError, struct.error):
            return False
        return self._answered <= acked <= self._answered + 1  # the opening of the connection counts as one

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _cause(error: httptools.HttpParserError) -> Exception:
    """What a callback raised, or what the parser says."""
    cause = error.__context__ or error.__cause__
    return cause if isinstance(cause, InvalidResponse) else InvalidResponse(str(error))
