"""Hands accepted connections from the parent to its processes, over a Unix socket per process (SCM_RIGHTS).

The parent keeps its copy of a connection until the process reports that it has taken it, which it does before it reads
from the connection. So a connection that was sent to a process that then stops or crashes is not lost: it is handed to
another one, and its client notices nothing. The same holds for one that arrives without its descriptor, because the
process has as many open files as it may have.
"""

import asyncio
import contextlib
import socket
import struct
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final

# Connections received so far, connections that are open, and whether the last one arrived without its descriptor.
_REPORT: Final = struct.Struct("!II?")
_SENT: Final = b"c"
_READ_BYTES: Final = 4096
_TAKEN_PER_TURN: Final = 64
_REPORT_EVERY_S: Final = 0.1
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
            complete = len(self._unread) // _REPORT.size * _REPORT.size
            for report in _REPORT.iter_unpack(self._unread[:complete]):
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


class Receiver:
    """A process's end. `adopt` serves a connection, `connections` counts the open ones, and `on_parent_gone` is called
    when the parent has ended."""

    def __init__(
        self,
        channel: socket.socket,
        *,
        adopt: Callable[[socket.socket], Coroutine[Any, Any, None]],
        connections: Callable[[], int],
        on_parent_gone: Callable[[], None],
    ) -> None:
        channel.setblocking(False)
        self._channel = channel
        self._adopt = adopt
        self._connections = connections
        self._on_parent_gone = on_parent_gone
        self._received = 0
        self._reported: tuple[int, int] | None = None
        self._unreported: list[socket.socket] = []  # taken; read from once the parent knows
        self._adopting: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._unsent = b""
        self._is_reading = False

    def start(self) -> None:
        """Take connections from now on."""
        self._loop = asyncio.get_running_loop()
        self._tick()

    def close(self) -> None:
        """Take no more connections: the parent hands those on their way to other processes."""
        if self._timer is None:
            return
        self._timer.cancel()
        self._timer = None
        self._stop_reading()
        self._channel.close()
        for connection in self._unreported:  # the parent has them, and does not know that this process had them, too
            connection.close()
        self._unreported = []

    def _read(self) -> None:
        for _ in range(_TAKEN_PER_TURN):
            if self._unsent:  # the parent does not read now: take no more that it does not know of
                self._stop_reading()
                break
            try:
                data, descriptors, _, _ = socket.recv_fds(self._channel, 1, 1)
            except BlockingIOError:
                break
            except OSError:
                data, descriptors = b"", []
            if not data:
                self.close()
                self._on_parent_gone()
                return
            self._received += 1
            if descriptors:
                self._unreported.append(socket.socket(fileno=descriptors[0]))
            else:
                self._report(is_lost=True)
        self._report()

    def _stop_reading(self) -> None:
        if self._is_reading:
            self._is_reading = False
            self._loop.remove_reader(self._channel.fileno())

    def _tick(self) -> None:
        self._report()
        if not self._is_reading and not self._unsent:
            self._is_reading = True
            self._loop.add_reader(self._channel.fileno(), self._read)
        self._timer = self._loop.call_later(_REPORT_EVERY_S, self._tick)

    def _report(self, *, is_lost: bool = False) -> None:
        """Report if anything has changed. What the channel has no room for is sent later."""
        report = (self._received, self._connections() + len(self._adopting) + len(self._unreported))
        if report != self._reported:
            self._reported = report
            self._unsent += _REPORT.pack(*report, is_lost)
        if self._unsent:
            with contextlib.suppress(OSError):
                self._unsent = self._unsent[self._channel.send(self._unsent) :]
        if not self._unsent:
            self._adopt_all()

    def _adopt_all(self) -> None:
        """Serve the connections that have been reported."""
        for connection in self._unreported:
            connection.setblocking(False)
            task = self._loop.create_task(self._adopt(connection))
            self._adopting.add(task)
            task.add_done_callback(self._adopting.discard)
        self._unreported = []
