"""A response of the pooled client: what its connection has read, for a reader that asks for it or is called with it."""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from gateway.upstreams.http_client.client import PUSHED_BYTES, HungUp, InvalidResponse, RelayChunks
from gateway.upstreams.http_client.limits import ClientLimits
from twolane.process.http.compiled import read_text_chunks

_OK_STATUS: Final = 200

Headers = dict[bytes, bytes]  # names in lower case


class Source(Protocol):
    """The connection of a response."""

    @property
    def limits(self) -> ClientLimits: ...

    def abort(self) -> None:
        """Close at once."""
        ...

    def resume_reading(self) -> None:
        """What was buffered has been taken."""
        ...


class ArrivedResponse:
    """An HttpResponse with status 200 that arrived completely at once."""

    __slots__ = ("_body", "_headers", "content_encoding", "status")

    def __init__(self, headers: Headers, body: bytes) -> None:
        self.status, self._headers, self._body = _OK_STATUS, headers, body
        given = headers.get(b"content-encoding")
        self.content_encoding = _text(given) if given else ""  # see `HttpResponse`

    @property
    def headers(self) -> dict[str, str]:
        """See `HttpResponse`."""
        return _texts(self._headers)

    @property
    def is_complete(self) -> bool:
        """See `HttpResponse`."""
        return not self._body

    def whole(self, most: int) -> bytes | None:
        """See `HttpResponse`."""
        body = self._body
        if len(body) > most:
            return None
        self._body = b""
        return body or None

    async def read(self) -> bytes:
        """See `HttpResponse`."""
        body, self._body = self._body, b""
        return body

    def push(self, sink: Callable[[bytes], bool] | None, relay_text: RelayChunks | None = None) -> bool:  # noqa: ARG002
        """See `HttpResponse`. There is nothing to wait for."""
        return False

    def close(self) -> None:
        """See `HttpResponse`. Its connection may serve another request by now."""


class PooledResponse:
    """Any other HttpResponse. Its connection is reused as soon as the body has arrived completely, even if it is not
    read."""

    __slots__ = (
        *("_connection", "_error", "_headers", "_limit", "_parts", "_relay_text", "_sink", "_size", "_waiter"),
        *("content_encoding", "is_over", "status"),
    )

    def __init__(self, connection: Source, status: int, headers: Headers, limit: int) -> None:
        self._connection: Source | None = connection
        self.status, self._headers = status, headers
        given = headers.get(b"content-encoding")
        self.content_encoding = _text(given) if given else ""  # see `HttpResponse`
        self._parts: list[bytes] = []
        self._size = 0  # of the parts
        self._limit = limit  # of the rest of the body
        self._waiter: asyncio.Future[bytes] | None = None
        self._sink: Callable[[bytes], bool] | None = None
        self._relay_text: RelayChunks | None = None  # only if there is a sink
        self._error: Exception | None = None
        self.is_over = False  # all of the body has arrived, or none will any longer

    @property
    def headers(self) -> dict[str, str]:
        """See `HttpResponse`."""
        return _texts(self._headers)

    @property
    def is_complete(self) -> bool:
        """See `HttpResponse`."""
        return self.is_over and not self._parts and self._error is None

    def whole(self, most: int) -> bytes | None:
        """See `HttpResponse`."""
        if self.is_over and self._error is None and len(self._parts) == 1 and len(self._parts[0]) <= most:
            return self._parts.pop()
        return None

    def read(self) -> asyncio.Future[bytes]:
        """See `HttpResponse`. Raises HungUp or InvalidResponse, after what arrived before."""
        self._waiter = waiter = asyncio.get_running_loop().create_future()
        self.wake()
        return waiter

    def push(self, sink: Callable[[bytes], bool] | None, relay_text: RelayChunks | None = None) -> bool:
        """See `HttpResponse`."""
        self._sink, self._relay_text = sink, relay_text
        if sink is not None:
            self.wake()
        return True

    def close(self) -> None:
        """See `HttpResponse`."""
        if not self.is_over:
            if self._connection is not None:
                self._connection.abort()
            self.end(HungUp("the response was closed"))

    # What the connection calls

    def feed(self, part: bytes) -> bool:
        """A part of the body; returns whether too much is buffered. Raises InvalidResponse."""
        self._limit -= len(part)
        if self._limit < 0:
            raise InvalidResponse("the body is too large")
        self._parts.append(part)
        self._size += len(part)
        return self._connection is not None and self._size > self._connection.limits.buffered_bytes

    def feed_sink(self, part: bytes) -> bool:
        """Hand over a part of the body at once; False: that is not possible, `feed` it."""
        sink, size = self._sink, len(part)
        if sink is None or self._parts or not 0 < size <= PUSHED_BYTES or size > self._limit:
            return False
        self._limit -= size
        if not sink(part):
            self._sink = None
        return True

    def feed_text(self, chunks: bytes) -> bool:
        """Hand over whole chunks as they are, if they only bring text; False: that is not possible, read them."""
        relay, size = self._relay_text, len(chunks)
        if relay is None or self._sink is None or self._parts or size > PUSHED_BYTES or size > self._limit:
            return False
        found = read_text_chunks(chunks)
        if found is None:
            return False
        data_size, index, characters = found
        has_room = relay(chunks, index, characters)
        if has_room is None:
            return False
        self._limit -= data_size
        if not has_room:
            self._sink = None
        return True

    def wake(self) -> None:
        """The parts of one read have been fed: hand them over. A reader that was cancelled has left them."""
        waiter = self._waiter
        if self._sink is not None:
            self._push(self._sink)
            return
        if waiter is None or waiter.done():
            return
        if self._parts:
            data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
            self._parts.clear()
            self._size = 0
            waiter.set_result(data)
            if self._connection is not None:
                self._connection.resume_reading()
        elif self._error is not None:
            waiter.set_exception(self._error)
            waiter.exception()  # it is no defect if nobody waits any longer
        elif self.is_over:
            waiter.set_result(b"")

    def _push(self, sink: Callable[[bytes], bool]) -> None:
        if self._parts and self._size <= PUSHED_BYTES:
            data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
            self._parts.clear()
            self._size = 0
            if not sink(data):
                self._sink = None
                return
        if self._parts or self.is_over:
            self._sink = None
            sink(b"")

    def end(self, error: Exception | None = None) -> None:
        """Nothing more will arrive: the body is complete, or the connection has failed."""
        if not self.is_over:
            self.is_over, self._error, self._connection = True, error, None
            self.wake()


def _texts(headers: Headers) -> dict[str, str]:
    return {name.decode("latin-1"): _text(value) for name, value in headers.items()}


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")
