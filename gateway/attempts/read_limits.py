"""Time limits of one attempt's reads: an end for all of them, and a longest pause between two chunks of a stream.

`asyncio.timeout` around every read would create a timer per chunk. One timer per attempt is enough: a read notes when
it began, and the timer, when it fires, compares that with the limits and is set again for the next possible moment.
"""

import asyncio
from enum import Enum
from math import inf
from types import TracebackType


class Expired(Enum):
    """Which limit ended a read."""

    UNTIL = "until"
    IDLE = "idle"


class ReadLimits:
    """`with limits:` around each await of the target; when one takes too long, it raises TimeoutError.

    Then `expired` tells which limit it was. Between reads nothing expires: a client that reads slowly is not the
    target's fault. Times are those of the running loop, in seconds.
    """

    expired: Expired | None = None
    _until_s = _idle_s = inf
    _since_s: float | None = None  # when the current read began
    _task: asyncio.Task[object] | None = None
    _cancelling = 0
    _timer: asyncio.TimerHandle | None = None

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def end_in(self, seconds: float) -> None:
        """Replace the end of all reads: `seconds` from now."""
        self._until_s = self._loop.time() + seconds
        if self._timer is not None:
            self.close()

    def limit_pauses(self, seconds: float) -> None:
        """From now on, a read may take at most `seconds`."""
        self._idle_s = seconds
        self.close()

    def close(self) -> None:
        """Cancel the timer; the next read sets it again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def read_on(self) -> None:
        """The current read has brought something, and goes on."""
        self._since_s = self._loop.time()

    def __enter__(self) -> None:
        self._since_s = now_s = self._loop.time()
        if now_s >= self._until_s:
            self.expired = Expired.UNTIL
            raise TimeoutError
        self._task = task = asyncio.current_task(self._loop)
        assert task is not None
        self._cancelling = task.cancelling()
        if self._timer is None:
            self._set_timer(now_s)

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, _: TracebackType | None) -> None:
        self._since_s = None
        if self.expired is None or self._task is None:
            return
        # As in asyncio.timeout: the cancellation is ours unless somebody else has cancelled the task as well.
        if self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from fault

    def _set_timer(self, since_s: float) -> None:
        due_s = min(self._until_s, since_s + self._idle_s)
        if due_s < inf:
            self._timer = self._loop.call_at(due_s, self._check)

    def _check(self) -> None:
        """The timer fired. Between reads there is nothing to do: the next one sets it again."""
        self._timer = None
        if self._since_s is None:
            return
        now_s = self._loop.time()
        if now_s >= self._until_s:
            self._expire(Expired.UNTIL)
        elif now_s >= self._since_s + self._idle_s:
            self._expire(Expired.IDLE)
        else:
            self._set_timer(self._since_s)

    def _expire(self, limit: Expired) -> None:
        assert self._task is not None
        self.expired = limit
        self._task.cancel()
