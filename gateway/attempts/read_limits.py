"""Time limits of one attempt's reads: an end for all of them, and a longest pause between two chunks of a stream.

`asyncio.timeout` around every read would create a timer per chunk, and even one timer per attempt costs more than most
of its other steps. All attempts of an event loop share a timer: a few times a second it looks for limits that pass
before it looks again. Only those get timers of their own, so limits are exact.
"""

import asyncio
from enum import Enum
from math import inf
from threading import get_ident
from types import TracebackType
from typing import Final

LOOK_EVERY_S: Final = 0.25


class Expired(Enum):
    """Which limit ended a read."""

    UNTIL = "until"
    IDLE = "idle"


class _Watch:
    """The reads in progress on one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop, self.thread = loop, get_ident()
        self.reads: dict[ReadLimits, None] = {}
        self.is_looking = False
        self.next_s = -inf  # when it looks next

    def start(self) -> None:
        """Look at the reads in progress, as long as there are any."""
        self.is_looking = True
        self.next_s = self.loop.time() + LOOK_EVERY_S
        self.loop.call_at(self.next_s, self._look)

    def _look(self) -> None:
        if not self.reads:
            self.is_looking = False
            return
        self.start()
        for limits in self.reads:
            limits.look(self.next_s)


_latest: _Watch | None = None  # of the loop that asked last: a process has one that serves


class ReadLimits:
    """`with limits:` around each await of the target; when one takes too long, it raises TimeoutError.

    Then `expired` tells which limit it was. Between reads nothing expires: a client that reads slowly is not the
    target's fault. All reads end `seconds` from now. Times are those of the running loop, in seconds.
    """

    __slots__ = ("_cancelling", "_idle_s", "_task", "_timer", "_until_s", "_watch", "expired", "since_s", "time_s")

    since_s: float  # when the current read began, or has brought something

    def __init__(self, seconds: float) -> None:
        global _latest  # noqa: PLW0603 - a map from loops would cost each attempt two calls
        watch = _latest
        # Asking asyncio for the running loop takes a system call.
        if watch is None or watch.thread != get_ident() or not watch.loop.is_running():
            watch = _latest = _Watch(asyncio.get_running_loop())
        self.expired: Expired | None = None
        self._watch = watch
        self.time_s = time_s = watch.loop.time
        self._until_s = time_s() + seconds
        self._idle_s = inf
        self._timer: asyncio.TimerHandle | None = None

    def end_in(self, seconds: float) -> None:
        """Replace the end of all reads: `seconds` from now."""
        self._until_s = self._watch.loop.time() + seconds

    def limit_pauses(self, seconds: float) -> None:
        """From now on, a read may take at most `seconds`, also the current one."""
        self._idle_s = seconds
        if self in self._watch.reads:
            self.look(self._watch.next_s)

    def read_on(self) -> None:
        """The current read has brought something, and goes on."""
        self.since_s = self.time_s()

    def __enter__(self) -> None:
        watch = self._watch
        self.since_s = now_s = self.time_s()
        if now_s >= self._until_s:
            self.expired = Expired.UNTIL
            raise TimeoutError
        task = asyncio.current_task(watch.loop)
        assert task is not None
        self._task, self._cancelling = task, task.cancelling()
        watch.reads[self] = None
        if not watch.is_looking:
            watch.start()
        next_s = watch.next_s
        if self._until_s < next_s or now_s + self._idle_s < next_s:
            self.look(next_s)

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, _: TracebackType | None) -> None:
        del self._watch.reads[self]
        timer = self._timer
        if timer is not None:
            timer.cancel()
            self._timer = None
        # As in asyncio.timeout: the cancellation is ours unless somebody else has cancelled the task as well.
        if self.expired is not None and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from fault
        if kind is None and timer is not None and self._watch.loop.time() >= self._until_s:  # at the same moment
            self.expired = Expired.UNTIL
            raise TimeoutError

    def look(self, next_s: float) -> None:
        """Set a timer if a limit passes before `next_s`."""
        due_s = min(self._until_s, self.since_s + self._idle_s)
        if due_s < next_s and self._timer is None:
            self._timer = self._watch.loop.call_at(due_s, self._expire)

    def _expire(self) -> None:
        self._timer = None
        now_s = self._watch.loop.time()
        is_over = now_s >= self._until_s
        if not is_over and now_s < self.since_s + self._idle_s:  # the timer was a little early
            self.look(inf)
            return
        self.expired = Expired.UNTIL if is_over else Expired.IDLE
        self._task.cancel()
