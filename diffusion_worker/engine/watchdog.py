"""Notices a device that hangs: a step without progress for far longer than its work explains.

A step reports progress at each pass and each constrained row, so that requests can make a step long, but never silent.
The limit of a step is the larger of a fixed time and a multiple of the longest step so far, in proportion if it has
more positions than any before; the warm-up gives the first observation. The cost per position of a small step says
nothing about a large one: a single token takes nearly as long as hundreds. Pure: `now`, in seconds, is an argument. One
thread steps, another one checks.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

FACTOR: Final = 10.0  # times the expected cost
TICK_S: Final = 1.0  # between two checks, at most


@dataclass(frozen=True, slots=True, eq=False)
class _Progress:
    """The last sign of life of a step, and how long the next one may take. Each is an object of its own."""

    limit_s: float


class StepWatchdog:
    """The progress of one device thread. `timeout_s`: no shorter silence counts as hanging."""

    def __init__(self, timeout_s: float, clock: Callable[[], float]) -> None:
        self.tick_s = min(TICK_S, timeout_s / 4)
        self._timeout_s = timeout_s
        self._clock = clock
        self._longest_s, self._most_positions = 0.0, 1  # of the steps so far
        self._last: _Progress | None = None  # None: no step runs
        self._seen: _Progress | None = None
        self._silence_s, self._checked_at = 0.0, 0.0

    @contextlib.contextmanager
    def step(self, positions: int = 0) -> Iterator[None]:
        """Watch a step over `positions` positions, and learn from its duration; 0: other work of the device."""
        began = self._clock()
        expected_s = self._longest_s * max(1.0, positions / self._most_positions)
        self._last = _Progress(max(self._timeout_s, FACTOR * expected_s))
        try:
            yield
        finally:
            self._last = None
        if positions:
            self._longest_s = max(self._longest_s, self._clock() - began)
            self._most_positions = max(self._most_positions, positions)

    def progress(self) -> None:
        """Report that the current step advances."""
        if self._last is not None:
            self._last = _Progress(self._last.limit_s)

    def silence_s(self, now: float) -> float | None:
        """Seconds without progress, if they exceed the limit of the step. Call it every `tick_s`: time in which the
        whole process was suspended does not count."""
        passed, self._checked_at = min(now - self._checked_at, 2 * self.tick_s), now
        if self._last is None or self._last is not self._seen:
            self._seen, self._silence_s = self._last, 0.0
            return None
        self._silence_s += passed
        return self._silence_s if self._silence_s > self._seen.limit_s else None
