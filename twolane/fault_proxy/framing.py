"""One side of a proxied HTTP/1.1 connection: h11's state machine over asyncio streams."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Iterable
from typing import Final

import h11

READ_BYTES: Final = 64 * 1024
MAX_BUFFERED_BYTES: Final = 64 * 1024  # pipelined by a client that waits for a response
HOP_BY_HOP: Final = (b"connection", b"keep-alive")
Header = tuple[bytes, bytes]


class Peer:
    """A client (`role` is h11.SERVER, ours) or an upstream (h11.CLIENT)."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, role: type[h11.CLIENT] | type[h11.SERVER]
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._state = h11.Connection(our_role=role)

    async def receive_request(self) -> tuple[h11.Request, bytes] | None:
        """Return the next request with its whole body, or None when the client closed between two requests."""
        event = await self._next_event()
        if not isinstance(event, h11.Request):
            return None
        if self._state.they_are_waiting_for_100_continue:
            await self.send(h11.InformationalResponse(status_code=100, headers=[]))
        return event, b"".join([piece async for piece in self.body()])

    async def receive_response(self) -> h11.Response:
        """Return the head of the response; interim responses (1xx) are dropped."""
        while True:
            event = await self._next_event()
            if isinstance(event, h11.Response):
                return event
            if not isinstance(event, h11.InformationalResponse):
                raise h11.RemoteProtocolError("the upstream closed the connection without a response")

    async def body(self) -> AsyncIterator[bytes]:
        """Yield the body of the current message as it arrives. Raises h11.RemoteProtocolError if it is cut short."""
        while isinstance(event := await self._next_event(), h11.Data):
            yield bytes(event.data)

    async def send(self, *events: h11.Event) -> None:
        """Write the events and wait until the transport accepts more."""
        for event in events:
            self._writer.write(self._state.send(event) or b"")
        await self._writer.drain()

    async def send_response(self, status: int, headers: Iterable[Header], body: bytes) -> None:
        """Send a whole response."""
        fields = [*headers, (b"content-length", b"%d" % len(body))]
        await self.send(h11.Response(status_code=status, headers=fields), h11.Data(data=body), h11.EndOfMessage())

    def reuse(self) -> bool:
        """Prepare for the next request; return False if this connection cannot carry one."""
        if self._state.our_state is not h11.DONE or self._state.their_state is not h11.DONE:
            return False
        self._state.start_next_cycle()
        return True

    async def wait_until_closed(self) -> None:
        """Return when the peer has closed its side; bytes received before that are kept for the next message."""
        while len(self._state.trailing_data[0]) < MAX_BUFFERED_BYTES and await self._receive():
            pass

    def close(self) -> None:
        """Close once everything written has been sent."""
        self._writer.close()

    def abort(self) -> None:
        """Close at once, without sending what is still buffered."""
        self._writer.transport.abort()

    def reset(self) -> None:
        """Close so that the peer sees a reset and not an orderly end: SO_LINGER of zero seconds sends RST."""
        connection = self._writer.get_extra_info("socket")
        with contextlib.suppress(OSError):  # the peer closed first
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.abort()

    async def _next_event(self) -> h11.Event | type[h11.PAUSED]:
        while (event := self._state.next_event()) is h11.NEED_DATA:
            await self._receive()
        assert event is not h11.NEED_DATA
        return event  # type: ignore[return-value]

    async def _receive(self) -> bool:
        data = await self._reader.read(READ_BYTES)
        self._state.receive_data(data)
        return bool(data)


def without(headers: Iterable[Header], *names: bytes) -> list[Header]:
    """Return the header fields without the named ones, and without those that concern one connection only."""
    return [(name, value) for name, value in headers if name not in (*names, *HOP_BY_HOP)]


def value_of(headers: Iterable[Header], name: bytes) -> bytes:
    """Return the last value of a header field, b"" if it is absent."""
    return next((value for field, value in reversed(list(headers)) if field == name), b"")
