"""Event loop lag: for how long the loop did not turn, so that this time is not counted against a target.

Marks show the turns of the loop: while the loop is idle, one by a timer every `MARK_EVERY_S`; while it is busy, one in
every turn. If a mark comes later than it was due, the loop was busy with other work in between (a *stall*), and a
response that arrived meanwhile waited in its socket. How long it waited cannot be seen from user space, so the lower
bound of the target's time is taken: an attempt passes a handful of turns of its own (connect, send, read, wake up), and
each can have cost at most the stall that it met. Time spent in more stalls than that was spent waiting for the target.

Callers pass the time (`now_s`).
"""

from collections import deque
from heapq import nlargest
from math import inf
from typing import Final

MARK_EVERY_S: Final = 0.005
_NEGLIGIBLE_S: Final = 0.001  # timers are this coarse
_OWN_TURNS: Final = 8  # of one attempt: two each to connect, to create the transport, to read and to wake up the task
_KEPT: Final = 256
_SUSTAINED: Final = 4  # a single long turn is a hiccup


class LoopLag:
    """The recent stalls of one event loop."""

    def __init__(self) -> None:
        self._due_s = inf  # of the next mark
        self._stalls: deque[tuple[float, float]] = deque(maxlen=_KEPT)  # begin and end, in order
        self._lates: deque[float] = deque((0.0,) * _SUSTAINED, maxlen=_SUSTAINED)
        self.late_s = 0.0  # by how much the last mark was late
        self.sustained_s = 0.0  # the lag that all of the last few turns exceeded

    def mark(self, now_s: float, *, every_s: float = MARK_EVERY_S) -> float:
        """The loop turns. Returns the seconds until the next mark is due: `every_s`, or 0 for the next turn."""
        late_s = self.late_s = max(0.0, now_s - self._due_s)
        self._lates.append(late_s)
        self.sustained_s = min(self._lates) if late_s else 0.0
        if late_s > _NEGLIGIBLE_S:
            self._stalls.append((now_s - late_s, now_s))
            self._due_s = now_s
            return 0.0
        self._due_s = now_s + every_s
        return every_s

    def stalled_s(self, since_s: float, now_s: float) -> float:
        """The most that stalls can have delayed an attempt that ran from `since_s` until now."""
        late_s, all_s = now_s - self._due_s, now_s - since_s
        total_s = 0.0 if late_s <= 0.0 else late_s if late_s < all_s else all_s
        stalls = self._stalls
        if not stalls or stalls[-1][1] <= since_s:
            return total_s
        found = [total_s]
        for begin_s, end_s in reversed(stalls):  # no two overlap
            if begin_s <= since_s:
                if end_s > since_s:
                    total_s += end_s - since_s
                    found.append(end_s - since_s)
                break
            total_s += end_s - begin_s
            found.append(end_s - begin_s)
        return total_s if len(found) <= _OWN_TURNS else sum(nlargest(_OWN_TURNS, found))
