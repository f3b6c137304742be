"""Hands accepted connections from the parent to its processes, over a Unix socket per process (SCM_RIGHTS).

The parent keeps its copy of a connection until the process reports that it has taken it. So a connection that was sent
to a process that then stops or crashes is not lost: it is handed to another one, and its client notices nothing.
"""

import asyncio
import contextlib
import socket
import struct
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final

_REPORT: Final = struct.Struct("!II")  # connections taken so far, connections that are open
_SENT: Final = b"c"
_TAKEN_PER_TURN: Final = 64
_REPORT_EVERY_S: Final = 0.1


class Handover:
    """The parent's end for one process."""

    def __init__(self, channel: socket.socket) -> None:
        channel.setblocking(False)
        self.channel = channel
        self.is_ready = False  # the process has reported for the first time
        self.waiting_since_s: float | None = None  # when the oldest connection was sent that it has not taken
        self._sent: deque[tuple[socket.socket, float]] = deque()
        self._taken = 0
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

    def read(self) -> bool:
        """Read the reports of the process; False if it has closed its end."""
        try:
            data = self.channel.recv(4096)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self._unread += data
        complete = len(self._unread) // _REPORT.size * _REPORT.size
        for taken, is_open in _REPORT.iter_unpack(self._unread[:complete]):
            self.is_ready, self._open = True, is_open
            while self._taken < taken:
                self._taken += 1
                self._sent.popleft()[0].close()
        self._unread = self._unread[complete:]
        self._note_oldest()
        return bool(data)

    def close(self) -> list[socket.socket]:
        """Close the channel; returns the connections that the process has not taken."""
        self.channel.close()
        return [connection for connection, _ in self._sent]

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
        self._taken = 0
        self._reported: tuple[int, int] | None = None
        self._adopting: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._unsent = b""

    def start(self) -> None:
        """Take connections from now on."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._channel.fileno(), self._read)
        self._tick()

    def close(self) -> None:
        """Take no more connections: the parent hands those on their way to other processes."""
        if self._timer is None:
            return
        self._timer.cancel()
        self._timer = None
        self._loop.remove_reader(self._channel.fileno())
        self._channel.close()

    def _read(self) -> None:
        for _ in range(_TAKEN_PER_TURN):
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
            for descriptor in descriptors:
                self._take(socket.socket(fileno=descriptor))
        self._report()

    def _take(self, connection: socket.socket) -> None:
        self._taken += 1
        connection.setblocking(False)
        task = self._loop.create_task(self._adopt(connection))
        self._adopting.add(task)
        task.add_done_callback(self._adopting.discard)

    def _tick(self) -> None:
        self._report()
        self._timer = self._loop.call_later(_REPORT_EVERY_S, self._tick)

    def _report(self) -> None:
        """Report if anything has changed. What the channel has no room for is sent later."""
        report = (self._taken, self._connections() + len(self._adopting))
        if report != self._reported:
            self._reported = report
            self._unsent += _REPORT.pack(*report)
        if self._unsent:
            with contextlib.suppress(OSError):
                self._unsent = self._unsent[self._channel.send(self._unsent) :]
