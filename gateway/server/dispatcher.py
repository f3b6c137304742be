"""Accepts the connections of all processes, and hands each to one of them.

A process that accepts for itself takes whatever waits when it happens to be awake, so a busy loop of one process takes
all of a burst. And where each process has a listening socket of its own (SO_REUSEPORT), those that wait at one that
stops are reset. One process that only accepts does neither, and costs nothing per request.
"""

import contextlib
import selectors
import socket
import time
from collections import deque
from typing import Final

from gateway.server.balance import Balance
from gateway.server.handover import Handover
from twolane.process.sockets import HANDSHAKES_S, has_waiting, refuse_new_connections

ACCEPTS_PER_TURN: Final = 64
READY_WITHIN_S: Final = 30.0  # after that, connections are accepted although some process has not started
EXHAUSTED_S: Final = 0.01
STALLED_S: Final = 1.0  # a process that takes no connection for this long gets no more


class Dispatcher:
    """Registers its events with `selector`; call `handle` for each. `expected`: processes that will start at first."""

    def __init__(self, listener: socket.socket, selector: selectors.BaseSelector, *, expected: int) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._selector = selector
        self._processes: dict[int, Handover] = {}
        self._balance = Balance()
        self._unplaced: deque[socket.socket] = deque()
        self._expected = expected
        self._is_accepting = False
        self._closing_s: float | None = None
        self._is_finished = False
        self._began_s = time.monotonic()

    @property
    def pending(self) -> int:
        """Accepted connections that no process has taken yet."""
        return len(self._unplaced) + sum(each.pending for each in self._processes.values())

    @property
    def is_done(self) -> bool:
        """Whether it is closing, and a process has taken every connection that was begun before."""
        if self._closing_s is None or time.monotonic() - self._closing_s < HANDSHAKES_S:
            return False
        return self._is_finished or (not self.pending and not has_waiting(self._listener))

    def add(self, number: int) -> socket.socket:
        """A new process; returns its end of the channel."""
        ours, theirs = socket.socketpair()
        self._processes[number] = Handover(ours)
        self._selector.register(ours, selectors.EVENT_READ, number)
        return theirs

    def remove(self, number: int) -> None:
        """A process takes no more connections: it closed its end, or has died. What it has not taken goes to others."""
        process = self._processes.pop(number, None)
        if process is None:
            return
        self._expected = 0  # do not wait for it
        process.read(time.monotonic())  # its last reports
        self._selector.unregister(process.channel)
        self._unplaced.extend(process.close())
        self._balance.forget(number)
        self.update()

    def handle(self, number: int | None) -> None:
        """An event of a process's channel, or of the listening socket (None)."""
        if number is None:
            self._accept()
        elif (process := self._processes.get(number)) is not None:
            is_open = process.read(time.monotonic())
            self._unplaced.extend(process.take_returned())
            if not is_open:
                self.remove(number)
        self.update()

    def update(self) -> None:
        """Place waiting connections, and accept while a process can take them. Call it at least every second."""
        while self._unplaced and self._place(self._unplaced[0]):
            self._unplaced.popleft()
        ready = sum(process.is_ready for process in self._processes.values())
        is_started = ready >= max(1, self._expected) or (ready and time.monotonic() - self._began_s > READY_WITHIN_S)
        if is_started:
            self._expected = 0
        self._accept_if(bool(is_started) and not self._unplaced and not self._is_finished)

    def close(self) -> None:
        """Let no new connection begin. Those that wait are still handed over: go on until `is_done`."""
        self._closing_s = time.monotonic()
        refuse_new_connections(self._listener)

    def finish(self) -> None:
        """Close the listening socket; call `close` before."""
        self._accept_if(False)
        self._is_finished = True
        self._listener.close()

    def _accept(self) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                connection, _ = self._listener.accept()
            except ConnectionAbortedError:
                continue
            except BlockingIOError:
                return
            except OSError:  # too many open files: some will be closed
                time.sleep(EXHAUSTED_S)
                return
            with contextlib.suppress(OSError):  # the client has left already
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._unplaced or not self._place(connection):
                self._unplaced.append(connection)

    def _place(self, connection: socket.socket) -> bool:
        now_s = time.monotonic()
        able = {number: each.connections for number, each in self._processes.items() if _takes(each, now_s)}
        while able:
            picked = self._balance.pick(able)
            if self._processes[picked].send(connection, now_s):
                self._balance.sent(picked)
                return True
            del able[picked]
        return False

    def _accept_if(self, accepts: bool) -> None:
        if accepts and not self._is_accepting:
            self._selector.register(self._listener, selectors.EVENT_READ, None)
        elif not accepts and self._is_accepting:
            self._selector.unregister(self._listener)
        self._is_accepting = accepts


def _takes(process: Handover, now_s: float) -> bool:
    """Whether a process takes connections: it has started, has descriptors left, and does not hang."""
    since_s = process.waiting_since_s
    return process.is_ready and now_s >= process.full_until_s and (since_s is None or now_s - since_s <= STALLED_S)
