"""What happened to one request: its attempts, and the decision that tells them. Made once, frozen, without any prompt.

Times are milliseconds since the request arrived, unless a name says otherwise.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from gateway.enums import AttemptOutcome, Likeness, Outcome, Reason, SchemaCheck, SloOutcome
from gateway.types import Classification, Usage
from twolane.process.trace_context import Trace

# A whole answer came, whatever it was worth: its latency counts.
ANSWERED = frozenset({AttemptOutcome.OK, Reason.INVALID_OUTPUT, Reason.LOW_CONFIDENCE})
# Given up unfinished: counts once it outlasted the budget.
ABANDONED = frozenset({AttemptOutcome.CANCELLED, Reason.DEADLINE, Reason.HEDGE})
# The request's own fault, or its luck: says nothing of the lane.
_NO_FAULT = frozenset({Reason.UNSUPPORTED, Reason.REFUSED})


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRecord:
    """One candidate's share in a request; times count from the request's arrival. Skipped: no call was made."""

    target: str
    started_ms: float
    ended_ms: float
    outcome: Reason | AttemptOutcome
    first_byte_ms: float | None = None
    stream: bool = False
    first_token_ms: float | None = None  # of a stream: when its first word came
    url: str | None = None  # host:port of the server, if the target has several
    detail: str = ""  # keyword and place in a schema, status of a server; never a value from prompt or answer
    skipped: bool = False
    probe: bool = False
    hedge: bool = False  # made beside another one that took long
    usage: Usage | None = None
    span_id: int = 0  # in the request's trace; 0: none
    budget_ms: float | None = None  # what its lane promises; None: nothing

    @property
    def promise(self) -> SloOutcome | None:
        """What it says of its lane's promise, as the guard sees it and with faults beside; None: nothing."""
        if self.budget_ms is None or self.skipped or self.outcome in _NO_FAULT:
            return None
        if self.elapsed_ms > self.budget_ms and self.outcome in ANSWERED | ABANDONED:
            return SloOutcome.LATE
        if self.outcome in ANSWERED:
            return SloOutcome.MET
        return None if self.outcome in ABANDONED else SloOutcome.FAILED

    @property
    def elapsed_ms(self) -> float:
        """How long it took, or took so far when it was given up."""
        return self.ended_ms - self.started_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Everything that was decided about one request and why; rendered as headers, metrics and a log line.

    Grows by returning new values. `target` is who sends the bytes, None if nobody did.
    """

    time_s: float  # wall clock, seconds since the epoch
    query_id: str
    policy: str
    principal: str | None
    classification: Classification
    route: str
    private: bool
    stream: bool
    schema: str | None = None
    attempts: tuple[AttemptRecord, ...] = ()
    target: str | None = None
    outcome: Outcome = Outcome.OK
    schema_check: SchemaCheck | None = None
    usage: Usage | None = None
    first_byte_ms: float | None = None  # when the first byte left us
    total_ms: float = 0.0
    overhead_ms: float = 0.0  # our own time: total without waiting for targets
    cost: float = 0.0
    trace: Trace | None = None
    timings_ms: Mapping[str, float] = field(default_factory=dict)  # classify, queue, upstream, validate

    @property
    def tokens(self) -> int:
        """In and out, of all attempts, as far as targets told."""
        used = (attempt.usage for attempt in self.attempts if attempt.usage)
        return sum((usage.input_tokens or 0) + (usage.output_tokens or 0) for usage in used)

    @property
    def path(self) -> tuple[AttemptRecord, ...]:
        """The attempts up to the one that answers, or all if none did; hedges that lost to it are beside the path."""
        for place in range(len(self.attempts), 0, -1):
            last = self.attempts[place - 1]
            if last.target == self.target and not last.skipped:
                return self.attempts[:place]
        return self.attempts

    @property
    def changes(self) -> tuple[tuple[str, str, Reason], ...]:
        """Every change of target on the path: from, to, and why."""
        if len(self.attempts) < 2:
            return ()
        return tuple(
            (left.target, taken.target, left.outcome)
            for left, taken in pairwise(self.path)
            if left.target != taken.target and isinstance(left.outcome, Reason)
        )

    @property
    def fallback(self) -> Reason | None:
        """The reason of the last change of target, None if the first candidate answered (or nobody was left to)."""
        changes = self.changes
        return changes[-1][2] if changes else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirrored:
    """A request was asked of a shadow target as well."""

    route: str
    target: str
    likeness: Likeness
