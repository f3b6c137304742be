"""Timestamps of a sequence and, for a traced one, its timeline of events. Times are seconds of the caller's clock.

The last prompt chunk shares an iteration with the first step and counts as part of that step.
"""

from dataclasses import dataclass, field
from typing import Final

MAX_EVENTS: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineEvent:
    """An event of a traced sequence at `at_s`, with numeric attributes; never text or tokens."""

    name: str
    at_s: float
    numbers: tuple[tuple[str, int | float], ...] = ()


@dataclass(slots=True)
class Timeline:
    """Events of a traced request, at most MAX_EVENTS. The engine thread records, any thread may read."""

    events: list[TimelineEvent] = field(default_factory=list)
    dropped: int = 0

    def record(self, name: str, at_s: float, **numbers: float) -> None:
        """Append an event; beyond MAX_EVENTS it is only counted as dropped."""
        if len(self.events) < MAX_EVENTS:
            self.events.append(TimelineEvent(name=name, at_s=at_s, numbers=tuple(numbers.items())))
        else:
            self.dropped += 1


@dataclass(slots=True)
class Times:
    """Timestamps of one sequence. The first occurrence counts: a preempted sequence is scheduled again."""

    submitted: float
    timeline: Timeline | None = None
    scheduled: float | None = None
    stepping: float | None = None  # start of the iteration of its first step
    first_block: float | None = None

    def schedule(self, now: float) -> None:
        """Record that the sequence was scheduled."""
        self.scheduled = now if self.scheduled is None else self.scheduled
        if self.timeline:
            self.timeline.record("placed", now)

    def preempt(self, now: float) -> None:
        """Record that the sequence was preempted."""
        if self.timeline:
            self.timeline.record("preempted", now)

    def step(self, began: float, now: float, **numbers: float) -> None:
        """Record one step or token, of an iteration from `began` to `now`."""
        if self.stepping is None:
            self.stepping = began
            if self.timeline:
                self.timeline.record("prefilled", began)
        if self.timeline:
            self.timeline.record("step", now, **numbers)

    def seal(self, now: float) -> None:
        """Record that a block was sealed; a decoded token counts as one."""
        self.first_block = now if self.first_block is None else self.first_block

    @property
    def queue_s(self) -> float | None:
        """Time from submission until first scheduled; None if it never was."""
        return None if self.scheduled is None else self.scheduled - self.submitted

    @property
    def prefill_s(self) -> float | None:
        """Time from scheduling until its first step; None if it took none."""
        return None if self.scheduled is None or self.stepping is None else self.stepping - self.scheduled

    @property
    def first_block_s(self) -> float | None:
        """Time from submission until the first sealed block; None before that."""
        return None if self.first_block is None else self.first_block - self.submitted
