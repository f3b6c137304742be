"""When one sequence got where, and, for a traced one, the moments on its way. Seconds of whatever clock is passed in.

The last portion of a prompt shares an iteration with the first step, and counts as part of it. Knows no span and no
metric.
"""

from dataclasses import dataclass, field
from typing import Final

MAX_EVENTS: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineEvent:
    """Something that happened to a traced sequence at `at_s`, with its numbers; never a text or a token."""

    name: str
    at_s: float
    numbers: tuple[tuple[str, int | float], ...] = ()


@dataclass(slots=True)
class Timeline:
    """The moments of a traced request, at most MOST_MOMENTS. One thread notes, whoever made it reads, at any time."""

    events: list[TimelineEvent] = field(default_factory=list)
    dropped: int = 0

    def record(self, name: str, at_s: float, **numbers: float) -> None:
        """One more moment, unless there are too many."""
        if len(self.events) < MAX_EVENTS:
            self.events.append(TimelineEvent(name=name, at_s=at_s, numbers=tuple(numbers.items())))
        else:
            self.dropped += 1


@dataclass(slots=True)
class Times:
    """Of one sequence. The first time of everything holds: it may be parked and placed again."""

    submitted: float
    timeline: Timeline | None = None
    scheduled: float | None = None
    stepping: float | None = None  # the beginning of the iteration that took its first step
    first_block: float | None = None

    def schedule(self, now: float) -> None:
        """It has got a slot."""
        self.scheduled = now if self.scheduled is None else self.scheduled
        if self.timeline:
            self.timeline.record("placed", now)

    def preempt(self, now: float) -> None:
        """It has lost its slot for a time."""
        if self.timeline:
            self.timeline.record("parked", now)

    def step(self, began: float, now: float, **numbers: float) -> None:
        """It has advanced by one step or token, in an iteration that lasted from `began` to `now`."""
        if self.stepping is None:
            self.stepping = began
            if self.timeline:
                self.timeline.record("prefilled", began)
        if self.timeline:
            self.timeline.record("step", now, **numbers)

    def emit(self, now: float) -> None:
        """Something of its answer is final."""
        self.first_block = now if self.first_block is None else self.first_block

    @property
    def queue_s(self) -> float | None:
        """Until it first had a slot; None: it never had."""
        return None if self.scheduled is None else self.scheduled - self.submitted

    @property
    def prefill_s(self) -> float | None:
        """From then until its first step; None: it took none."""
        return None if self.scheduled is None or self.stepping is None else self.stepping - self.scheduled

    @property
    def first_block_s(self) -> float | None:
        """Until something was final."""
        return None if self.first_block is None else self.first_block - self.submitted
