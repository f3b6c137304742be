"""Client connections: uvicorn's HTTP/1.1 protocol, closed without resetting the client.

A TCP socket that is closed while it holds unread bytes sends a reset, and the client loses its request or the
response. Uvicorn does this in three situations, which are handled here:

* The keep-alive timeout ends just as the next request arrives. * The process shuts down while a client with pooled
connections sends its next request. * A response is sent before the end of the request's body (401, 413) and the
connection is then closed.

A request that is in transit when an idle connection is closed is lost in any case (RFC 9112, 9.5): only a timeout
longer than the client's avoids that.
"""

import asyncio
import select
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# Longer than clients and load balancers keep idle connections (Go 90 s, cloud load balancers up to 600 s): the side
# that sends requests must be the one that closes.
KEEP_ALIVE_S: Final = 620
QUIET_S: Final = 0.5  # a connection used more recently is likely to be used again
RECHECK_S: Final = 0.05  # for the loop to read the socket
LINGER_S: Final = 30.0  # for the rest of a request whose response has been sent


class ClientConnection(HttpToolsProtocol):
    """One client connection. Closes only when no request is arriving, in progress or waiting to be read."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Takes the arguments of uvicorn's protocols."""
        super().__init__(*args, **kwargs)
        self._used_s = self.loop.time()
        self._is_draining = False
        self._linger_timer: asyncio.TimerHandle | None = None
        self._lingering_transport = _LingeringTransport(self)

    def data_received(self, data: bytes) -> None:
        """Bytes from the client."""
        self._used_s = self.loop.time()
        super().data_received(data)

    def on_headers_complete(self) -> None:
        """A request starts; during shutdown it is the last of its connection."""
        super().on_headers_complete()
        self.cycle.transport = self._lingering_transport  # type: ignore[assignment]
        if self._is_draining:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        """The request's body is complete; the response may have been sent before."""
        super().on_message_complete()
        if self._linger_timer is not None:
            self.transport.close()
        elif self.cycle.response_complete:  # the bytes of the body cancelled the keep-alive timeout
            self._close_later(QUIET_S if self._is_draining else self.timeout_keep_alive)

    def on_response_complete(self) -> None:
        """A response has been written."""
        self._used_s = self.loop.time()
        if self._linger_timer is None:
            super().on_response_complete()

    def shutdown(self) -> None:
        """Shut down: finish responses in progress and requests that arrive within a moment."""
        self._is_draining = True
        if self.cycle is None or self.cycle.response_complete:
            self.timeout_keep_alive_handler()
        else:
            super().shutdown()

    def timeout_keep_alive_handler(self) -> None:
        """Close, unless the connection was used a moment ago or a request is waiting in the socket."""
        quiet_s = self.loop.time() - self._used_s
        if self.transport.is_closing() or self._linger_timer is not None:
            return
        if quiet_s < QUIET_S:
            self._close_later(QUIET_S - quiet_s)
        elif _has_unread(self.transport):
            self._close_later(RECHECK_S)
        else:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed, by either side."""
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        if self._linger_timer is not None:
            self._linger_timer.cancel()

    def linger(self) -> None:
        """Close after a response. While the client still sends, close only the write side and discard the rest."""
        if not self.cycle.more_body or self.transport.is_closing():
            self.transport.close()
            return
        self.flow.resume_reading()
        self.transport.write_eof()
        self._linger_timer = self.loop.call_later(LINGER_S, self.transport.close)

    def _close_later(self, seconds: float) -> None:
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)


class _LingeringTransport:
    """The transport that responses are written to; closing it lingers."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    def write(self, data: bytes) -> None:
        self._connection.transport.write(data)

    def is_closing(self) -> bool:
        return self._connection.transport.is_closing()

    def close(self) -> None:
        self._connection.linger()


def _has_unread(transport: asyncio.BaseTransport) -> bool:
    """Whether the socket holds data, or the client's end of stream, that the loop has not read yet."""
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
    return bool(poll.poll(0))
