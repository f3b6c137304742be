"""The HttpClient of ours: plain HTTP/1.1 over connections that are kept open."""

import asyncio
import socket
from collections import deque
from collections.abc import Coroutine, Mapping
from typing import Any, Final

import aiohappyeyeballs
from yarl import URL

from gateway.upstreams.http_client.client import CannotConnect, HttpResponse, HungUp
from gateway.upstreams.http_client.connection import Connection, NotReceived
from gateway.upstreams.http_client.limits import ClientLimits
from twolane.process.http.turn_writes import TurnWrites

_NEXT_ADDRESS_S: Final = 0.25  # RFC 8305, section 5: until the next address of a name is tried beside the first
_PORT: Final = 80
_START_LINES: Final = 2  # the request line and the host
_LINE: Final = "%s: %s\r\n".__mod__  # of a name and a value, without a call of Python

Origin = tuple[str, int]


class PooledDestination:
    """A Destination. What all requests have is encoded once."""

    __slots__ = ("_client", "_origin", "_start")

    def __init__(self, client: "PooledClient", origin: Origin, start: bytes) -> None:
        self._client, self._origin, self._start = client, origin, start

    def post(
        self, body: bytes, headers: Mapping[str, str], *, is_bodiless: bool = False
    ) -> Coroutine[Any, Any, HttpResponse]:
        """See `PooledClient.post`. `is_bodiless`: see `Connection.send`."""
        request = b"".join((self._start, _lines(headers), b"Content-Length: %d\r\n\r\n" % len(body), body))
        return self._client.exchange(self._origin, request, is_bodiless=is_bodiless)


class PooledClient:
    """An HttpClient for http:// URLs without a proxy."""

    def __init__(self, limits: ClientLimits | None = None) -> None:
        self._limits = limits or ClientLimits()
        self._idle: dict[Origin, deque[Connection]] = {}  # the one used last is the last one
        self._idle_count = 0
        self._open: set[Connection] = set()
        self._writes = TurnWrites()  # of requests, unless no other is in progress
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False

    def at(self, url: URL, headers: Mapping[str, str], *, proxy: URL | None = None) -> PooledDestination:
        """See `HttpClient`. Raises ValueError as `post` does."""
        _check(url, proxy)
        origin, start = _address_of("POST", url)
        return PooledDestination(self, origin, start + _lines(headers))

    def post(
        self, url: URL, body: bytes, headers: Mapping[str, str], *, proxy: URL | None = None
    ) -> Coroutine[Any, Any, HttpResponse]:
        """See `HttpClient`. Raises CannotConnect, TimeoutError (of the connection), HungUp, InvalidResponse or
        ResponseTimeout; ValueError for headers that cannot be sent."""
        _check(url, proxy)
        return self.request("POST", url, headers, body)

    async def request(self, method: str, url: URL, headers: Mapping[str, str], body: bytes = b"") -> HttpResponse:
        """The same for any method."""
        destination = PooledDestination(self, *_address_of(method, url))
        return await destination.post(body, headers, is_bodiless=method == "HEAD")

    async def exchange(self, origin: Origin, request: bytes, *, is_bodiless: bool = False) -> HttpResponse:
        """Send an encoded request. One that met a connection which the server had closed is sent once more, on a new
        one, if the server received nothing of it."""
        writes = self._writes if len(self._open) > self._idle_count else None
        connection = self._take(origin, writes) or await self._connect(origin)
        while True:
            head = connection.send(request, is_bodiless=is_bodiless, writes=writes)
            try:
                return await head
            except NotReceived:  # only of a connection that was used before
                connection = await self._connect(origin)
            except asyncio.CancelledError:
                if head.cancelled() or not head.done():
                    connection.abort()
                elif head.exception() is None:  # it came first: a complete one has released the connection, which may
                    head.result().close()  # serve another request by now
                raise

    async def aclose(self) -> None:
        """Close all connections; requests in progress fail."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        for connection in tuple(self._open):
            connection.fail(HungUp("the client was closed"))
        while self._open:  # noqa: ASYNC110 - the loop closes them in its next iterations
            await asyncio.sleep(0)

    def _take(self, origin: Origin, writes: TurnWrites | None) -> Connection | None:
        """The connection used last; None if there is none that can be used. `writes`: see `Connection.send`."""
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()
            self._idle_count -= 1
            if connection.is_usable(writes):
                return connection
            connection.abort()
        return None

    async def _connect(self, origin: Origin) -> Connection:
        if self._is_closed:
            raise CannotConnect("the client is closed")
        try:
            async with asyncio.timeout(self._limits.connect_s):
                return await self._opened(origin)
        except TimeoutError:
            raise
        except (OSError, UnicodeError) as error:  # UnicodeError: a name that cannot be looked up
            raise CannotConnect(type(error).__name__) from error

    async def _opened(self, origin: Origin) -> Connection:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(*origin, type=socket.SOCK_STREAM)
        connected = await aiohappyeyeballs.start_connection(found, happy_eyeballs_delay=_NEXT_ADDRESS_S, loop=loop)
        try:
            _, connection = await loop.create_connection(
                lambda: Connection(origin, self._limits, self._release, self._forget), sock=connected
            )
        except BaseException:  # whatever ends the attempt, such as a cancellation
            connected.close()
            raise
        if self._is_closed:  # in the meantime
            connection.abort()
            raise ConnectionAbortedError
        self._open.add(connection)
        return connection

    def _release(self, connection: Connection) -> None:
        """The connection is idle."""
        if self._is_closed or self._idle_count >= self._limits.idle_connections:
            connection.abort()
            return
        idle = self._idle.get(connection.origin)
        if idle is None:
            idle = self._idle[connection.origin] = deque()
        idle.append(connection)
        self._idle_count += 1
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._limits.idle_s, self._expire)

    def _forget(self, connection: Connection) -> None:
        """The connection is closed."""
        self._open.discard(connection)
        idle = self._idle.get(connection.origin)
        if idle and connection in idle:
            idle.remove(connection)
            self._idle_count -= 1
        if idle is not None and not idle:
            del self._idle[connection.origin]

    def _expire(self) -> None:
        """Close connections that have been idle for too long, and come back when the next one will have been."""
        self._timer = None
        loop = asyncio.get_running_loop()
        oldest_s = loop.time() - self._limits.idle_s
        next_s: float | None = None
        for idle in tuple(self._idle.values()):
            for connection in tuple(idle):
                if connection.idle_since_s <= oldest_s:
                    connection.abort()
                elif next_s is None or connection.idle_since_s < next_s:
                    next_s = connection.idle_since_s
        if next_s is not None:
            self._timer = loop.call_at(next_s + self._limits.idle_s, self._expire)


def _check(url: URL, proxy: URL | None) -> None:
    if url.scheme != "http" or proxy is not None:
        raise ValueError("only http:// URLs without a proxy")


def _address_of(method: str, url: URL) -> tuple[Origin, bytes]:
    """Where to connect, and how requests begin."""
    host = url.raw_host or ""
    named = f"[{host}]" if ":" in host else host
    at = named if url.port in (None, _PORT) else f"{named}:{url.port}"
    start = f"{method} {url.raw_path_qs} HTTP/1.1\r\nHost: {at}\r\n"
    if len(start.splitlines()) != _START_LINES or "\0" in start:
        raise ValueError("the URL contains a line break")
    return (host, url.port or _PORT), start.encode()


def _lines(headers: Mapping[str, str]) -> bytes:
    if len(headers) == 1:  # most requests have one of their own
        [(name, value)] = headers.items()
        line = f"{name}: {value}"
        if line.isprintable():
            return f"{line}\r\n".encode()
    lines, count = "".join(map(_LINE, headers.items())), len(headers)
    if lines.count("\n") != count or lines.count("\r") != count or "\0" in lines:
        raise ValueError("a header contains a line break")
    return lines.encode()
