"""HTTP/1.1 message framing over asyncio streams: heads, and bodies by content-length, chunks or end of connection.

Knows RFC 9112 as far as a relay needs it (keep-alive, no trailers, no upgrades); knows nothing of what bodies mean.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

MAX_HEAD_BYTES = 64 * 1024
READ_BYTES = 64 * 1024
BODILESS_STATUS = (204, 304)


class BrokenFramingError(Exception):
    """The peer ended a message early or wrote something that is not HTTP/1.1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The first line and the header fields of a message, names in lower case, in their order on the wire."""

    first_line: str
    fields: tuple[tuple[str, str], ...]

    def value(self, name: str) -> str | None:
        """Return the last value of a field, or None."""
        found = [value for field, value in self.fields if field == name]
        return found[-1] if found else None

    @property
    def words(self) -> tuple[str, str, str]:
        """The three words of the first line: method, path, version; or version, status, reason."""
        first, second, third = [*self.first_line.split(" ", 2), "", ""][:3]
        return first, second, third

    @property
    def is_chunked(self) -> bool:
        """Whether the body comes in chunks."""
        return "chunked" in (self.value("transfer-encoding") or "").lower()

    @property
    def keeps_alive(self) -> bool:
        """Whether the sender wants the connection to go on after this message."""
        return "close" not in (self.value("connection") or "").lower() and "HTTP/1.0" not in self.first_line

    def replace(self, fields: Iterable[tuple[str, str]]) -> "Head":
        """Return this head with the named fields set to new values and every other field kept."""
        new = tuple(fields)
        names = {name for name, _ in new}
        return Head(first_line=self.first_line, fields=(*(kv for kv in self.fields if kv[0] not in names), *new))

    def without(self, *names: str) -> "Head":
        """Return this head less the named fields."""
        return Head(first_line=self.first_line, fields=tuple(kv for kv in self.fields if kv[0] not in names))

    def encode(self) -> bytes:
        """Return the bytes of the head, with the empty line that ends it."""
        lines = [self.first_line, *(f"{name}: {value}" for name, value in self.fields), "", ""]
        return "\r\n".join(lines).encode("latin-1")


class Wire:
    """One side of a connection, with a buffer of its own so that waiting for the peer to leave loses no byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._buffer = bytearray()
        self.writer = writer

    async def read_head(self) -> Head | None:
        """Return the next head, or None when the peer closed between two messages."""
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if len(self._buffer) > MAX_HEAD_BYTES:
                raise BrokenFramingError("the head is too long")
            if not await self._fill():
                if self._buffer:
                    raise BrokenFramingError("the peer closed inside a head")
                return None
        lines = self._take(end + 4)[:end].decode("latin-1").split("\r\n")
        pairs = (line.partition(":")[::2] for line in lines[1:])
        return Head(first_line=lines[0], fields=tuple((name.strip().lower(), value.strip()) for name, value in pairs))

    async def request_body(self, head: Head) -> bytes:
        """Return the whole body of a request; without length and chunks there is none."""
        return b"".join([piece async for piece in self._body(head, length_unknown=0)])

    def response_body(self, head: Head, *, asked_by: str) -> AsyncIterator[bytes]:
        """Yield the body of a response as it comes, one piece a chunk; without a length it runs to the end."""
        status = int(head.words[1]) if head.words[1].isdecimal() else 0
        if asked_by == "HEAD" or status in BODILESS_STATUS:
            return pieces_of()
        return self._body(head, length_unknown=None)

    async def wait_until_gone(self) -> None:
        """Return when the peer has closed its side; bytes that come before that are kept for the next read."""
        while len(self._buffer) < MAX_HEAD_BYTES and await self._fill():
            pass

    async def send(self, data: bytes) -> None:
        """Write and wait until the transport takes more."""
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        """Close so that the peer sees a reset and not an orderly end: lingering for zero seconds sends RST."""
        connection = self.writer.get_extra_info("socket")
        with contextlib.suppress(OSError):  # the peer was quicker
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def _body(self, head: Head, *, length_unknown: int | None) -> AsyncIterator[bytes]:
        declared = head.value("content-length")
        if head.is_chunked:
            async for piece in self._chunks():
                yield piece
            return
        left = int(declared) if declared is not None and declared.isdecimal() else length_unknown
        while left is None or left > 0:
            if not self._buffer and not await self._fill():
                if left is None:
                    return
                raise BrokenFramingError("the peer closed inside a body")
            piece = self._take(len(self._buffer) if left is None else min(left, len(self._buffer)))
            left = None if left is None else left - len(piece)
            yield piece

    async def _chunks(self) -> AsyncIterator[bytes]:
        while True:
            text = (await self._line()).partition(b";")[0].strip()
            try:
                size = int(text, 16)
            except ValueError:
                raise BrokenFramingError("a chunk without a size") from None
            if size == 0:
                while await self._line():
                    pass
                return
            while len(self._buffer) < size + 2:
                await self._fill_or_break()
            yield self._take(size + 2)[:size]

    async def _line(self) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0:
            await self._fill_or_break()
        return self._take(end + 2)[:end]

    def _take(self, count: int) -> bytes:
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    async def _fill(self) -> bool:
        data = await self._reader.read(READ_BYTES)
        self._buffer += data
        return bool(data)

    async def _fill_or_break(self) -> None:
        if not await self._fill():
            raise BrokenFramingError("the peer closed inside a chunk")


def as_chunk(data: bytes) -> bytes:
    """Frame one piece of a chunked body; the empty piece is the end of the body."""
    return b"%x\r\n%s\r\n" % (len(data), data)


async def pieces_of(*data: bytes) -> AsyncIterator[bytes]:
    """Yield the given pieces: a body that is already known."""
    for piece in data:
        yield piece
