"""Hands accepted connections from the parent to its processes, over a Unix socket per process (SCM_RIGHTS). This is the
parent's end; `receiver` is the other one.

The parent keeps its copy of a connection until the process reports that it has taken it, which it does before it reads
from the connection. So a connection that was sent to a process that then stops or crashes is not lost: it is handed to
another one, and its client notices nothing. The same holds for one that arrives without its descriptor, because the
process has as many open files as it may have.
"""

import socket
import struct
from collections import deque
from typing import Final

# Connections received so far, connections that are open, and whether the last one arrived without its descriptor.
REPORT: Final = struct.Struct("!II?")
_SENT: Final = b"c"
_READ_BYTES: Final = 4096
_FULL_S: Final = 0.5  # for which a process that is out of descriptors gets no connections


class Handover:
    """The parent's end for one process."""

    def __init__(self, channel: socket.socket) -> None:
        channel.setblocking(False)
        self.channel = channel
        self.is_ready = False  # the process has reported for the first time
        self.waiting_since_s: float | None = None  # when the oldest connection was sent that it has not taken
        self.full_until_s = 0.0  # it has been out of descriptors
        self._sent: deque[tuple[socket.socket, float]] = deque()
        self._returned: list[socket.socket] = []
        self._received = 0
        self._open = 0
        self._unread = b""

    @property
    def connections(self) -> int:
        """Open connections, including those on their way."""
        return self._open + len(self._sent)

    @property
    def pending(self) -> int:
        """Connections on their way."""
        return len(self._sent)

    def send(self, connection: socket.socket, now_s: float) -> bool:
        """Hand a connection over; False if the process cannot take one now."""
        try:
            socket.send_fds(self.channel, [_SENT], [connection.fileno()])
        except OSError:  # full, closed, or too many descriptors on their way
            return False
        self._sent.append((connection, now_s))
        self._note_oldest()
        return True

    def read(self, now_s: float) -> bool:
        """Read all reports of the process; False if it has closed its end."""
        while True:
            try:
                data = self.channel.recv(_READ_BYTES)
            except BlockingIOError:
                return True
            except OSError:
                return False
            if not data:
                return False
            self._unread += data
            complete = len(self._unread) // REPORT.size * REPORT.size
            for report in REPORT.iter_unpack(self._unread[:complete]):
                self._apply(*report, now_s=now_s)
            self._unread = self._unread[complete:]

    def take_returned(self) -> list[socket.socket]:
        """The connections that the process could not take, for other processes."""
        returned, self._returned = self._returned, []
        return returned

    def close(self) -> list[socket.socket]:
        """Close the channel; returns the connections that the process has not taken."""
        self.channel.close()
        return [*self.take_returned(), *(connection for connection, _ in self._sent)]

    def _apply(self, received: int, is_open: int, is_lost: bool, *, now_s: float) -> None:
        self.is_ready, self._open = True, is_open
        while self._received < received:
            self._received += 1
            connection = self._sent.popleft()[0]
            if is_lost and self._received == received:
                self._returned.append(connection)
                self.full_until_s = now_s + _FULL_S
            else:
                connection.close()
        self._note_oldest()

    def _note_oldest(self) -> None:
        self.waiting_since_s = self._sent[0][1] if self._sent else None
