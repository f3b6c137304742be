"""A process's end of the channel on which its parent hands over connections; see `handover`."""

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any, Final

from gateway.server.handover import REPORT

_TAKEN_PER_TURN: Final = 64
_REPORT_EVERY_S: Final = 0.1


class Receiver:
    """`adopt` serves a connection, `connections` counts the open ones, and `on_parent_gone` is called
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
                self._lose_parent()
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
        self._timer = self._loop.call_later(_REPORT_EVERY_S, self._tick)
        self._report()
        if self._timer is not None and not self._is_reading and not self._unsent:
            self._is_reading = True
            self._loop.add_reader(self._channel.fileno(), self._read)

    def _lose_parent(self) -> None:
        if self._timer is not None:
            self.close()
            self._on_parent_gone()

    def _report(self, *, is_lost: bool = False) -> None:
        """Report if anything has changed. What the channel has no room for is sent later."""
        report = (self._received, self._connections() + len(self._adopting) + len(self._unreported))
        if report != self._reported:
            self._reported = report
            self._unsent += REPORT.pack(*report, is_lost)
        try:
            self._unsent = self._unsent[self._channel.send(self._unsent) :] if self._unsent else b""
        except BlockingIOError:
            return
        except OSError:
            self._lose_parent()
            return
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
