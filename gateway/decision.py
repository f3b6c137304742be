"""Records of what happened to one request: its attempts and the decision. They contain no prompt and no response text.

Times are milliseconds since the request arrived, unless a name says otherwise.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from math import ceil

from gateway.beyond_chat import CHAT_PATH
from gateway.enums import AttemptOutcome, ErrorSource, Outcome, Reason, SchemaCheck, ShadowResult, SloOutcome
from gateway.policy_types import Price
from gateway.types import CHARS_PER_TOKEN, Classification, Usage
from twolane.process.records import mutable_record
from twolane.process.trace_context import Trace

# A complete response was received, valid or not: its latency counts.
ANSWERED = frozenset({AttemptOutcome.OK, Reason.INVALID_OUTPUT, Reason.LOW_CONFIDENCE})
# Cancelled before completion: counts only if it had already exceeded the objective.
ABANDONED = frozenset({AttemptOutcome.CANCELLED, Reason.DEADLINE, Reason.HEDGE})
# Caused by the request itself: not evidence about the lane.
_NO_FAULT = frozenset({Reason.UNSUPPORTED, Reason.CONTEXT_LENGTH_EXCEEDED, Reason.REFUSED})

_LATE = ANSWERED | ABANDONED  # if it exceeded the objective
_CHANGE = 2  # attempts at least
_MET = SloOutcome.MET  # finding a member in its class takes 0.2 µs


@mutable_record
class AttemptRecord:
    """One attempt of a request; times count from the request's arrival. If `skipped`, no call was made.

    The attempt fills it until it has ended; others change nothing.
    """

    target: str
    started_ms: float
    ended_ms: float = 0.0
    outcome: Reason | AttemptOutcome = AttemptOutcome.OK
    first_byte_ms: float | None = None
    stream: bool = False
    first_token_ms: float | None = None  # of a stream: when its first token came
    url: str | None = None  # host:port of the endpoint, if the target has several
    location: str | None = None  # of the target
    detail: str = ""  # schema keyword and masked pointer, or HTTP status; never text of the prompt or the response
    status: int | None = None  # HTTP status of the target; None: no response
    skipped: bool = False
    probe: bool = False
    hedge: bool = False  # a second attempt, made because another one was slow
    usage: Usage | None = None
    estimate: Usage | None = None  # of what a call has used whose target reported no usage
    span_id: int = 0  # in the request's trace; 0: none
    budget_ms: float | None = None  # the lane's p95 objective; None: no objective
    queued_ms: float | None = None  # time spent waiting for a slot of the target; None: did not wait
    ignored: tuple[str, ...] = ()  # parameters that the policy left out of the request
    is_hang: bool = False  # the target sent nothing for as long as the policy lets it
    retry_after_s: float | None = None  # the target asked not to be called again before
    is_quota: bool = False  # because of its provider's rate limit

    @property
    def slo_outcome(self) -> SloOutcome | None:
        """Whether the attempt met its lane's objective; None if it does not count. Failures count as well."""
        outcome = self.outcome
        if self.budget_ms is None or self.skipped or outcome in _NO_FAULT:
            return None
        if outcome in _LATE and self.ended_ms - self.started_ms > self.budget_ms:
            return SloOutcome.LATE
        if outcome in ANSWERED:
            return _MET
        return None if outcome in ABANDONED else SloOutcome.FAILED

    @property
    def is_fault(self) -> bool:
        """Whether the server itself failed, so that its breaker counts it. A deadline that the client chose, or that
        other attempts used up, proves nothing."""
        return self.outcome is Reason.UPSTREAM_ERROR or self.is_hang

    @property
    def elapsed_ms(self) -> float:
        """Duration of the attempt, until its end or until it was cancelled."""
        return self.ended_ms - self.started_ms


@mutable_record
class Decision:
    """Everything that was decided about one request, and why; rendered as headers, metrics and a log line.

    `RequestContext` fills it until the request has ended; whoever receives it changes nothing. `target` is the target
    whose response is served; None if there is none.
    """

    time_s: float  # wall clock, seconds since the epoch
    query_id: str
    policy: str
    principal: str | None
    classification: Classification
    route: str
    private: bool
    stream: bool
    locations: frozenset[str] | None = None  # to which request, key and route limit it; None: no limit
    schema: str | None = None
    attempts: tuple[AttemptRecord, ...] = ()
    target: str | None = None
    outcome: Outcome = Outcome.OK
    status: int | None = 200  # HTTP status that the client received; None: it had left
    error_source: ErrorSource | None = None  # of an error
    schema_check: SchemaCheck | None = None
    low_confidence: float | None = None  # of an answer that is served below the minimum
    usage: Usage | None = None
    first_byte_ms: float | None = None  # when the first byte was ready to be sent to the client
    total_ms: float = 0.0
    overhead_ms: float = 0.0  # the gateway's own time: the total without the time spent in attempts
    cost: float = 0.0
    trace: Trace | None = None
    timings_ms: Mapping[str, float] = field(default_factory=dict)  # classify, queue, upstream, validate
    api_path: str = CHAT_PATH  # that the client called
    answered_by: tuple[tuple[str, tuple[int, ...]], ...] = ()  # of a decision: targets and indices of questions

    @property
    def ignored(self) -> tuple[str, ...]:
        """The parameters that the policy left out of the request to the target that was served."""
        if self.target is None or not [True for attempt in self.attempts if attempt.ignored]:
            return ()
        return self.path[-1].ignored

    @property
    def charged(self) -> tuple[int, float]:
        """Tokens and dollars of all attempts that count for the limits of the key: as reported, otherwise estimated."""
        used = [usage for attempt in self.attempts if (usage := attempt.usage or attempt.estimate)]
        tokens = sum((usage.input_tokens or 0) + (usage.output_tokens or 0) for usage in used)
        return tokens, sum(usage.cost or 0.0 for usage in used)

    @property
    def path(self) -> tuple[AttemptRecord, ...]:
        """The attempts up to the one that was served, or all if none was. Hedges that started later are excluded."""
        for count in range(len(self.attempts), 0, -1):
            last = self.attempts[count - 1]
            if last.target == self.target and not last.skipped:
                return self.attempts[:count]
        return self.attempts

    @property
    def changes(self) -> tuple[tuple[str, str, Reason], ...]:
        """Every change of target on the path: from, to, and the reason."""
        if len(self.attempts) < _CHANGE:
            return ()
        return tuple(
            (left.target, taken.target, left.outcome)
            for left, taken in pairwise(self.path)
            if left.target != taken.target and isinstance(left.outcome, Reason)
        )

    @property
    def fallback(self) -> Reason | None:
        """The reason of the last change of target; None if the first candidate was served or no other was tried."""
        return self.changes[-1][2] if len(self.attempts) >= _CHANGE and self.changes else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirrored:
    """The result of sending a request to a shadow target as well."""

    route: str
    target: str
    result: ShadowResult


def estimate_usage(prompt_chars: int, output_chars: int, price: Price | None) -> Usage:
    """What a call has probably used, at four characters per token (OpenAI's rule of thumb for English)."""
    prompt, output = ceil(prompt_chars / CHARS_PER_TOKEN), ceil(output_chars / CHARS_PER_TOKEN)
    cost = None if price is None else price.cost(prompt, output)
    return Usage(input_tokens=prompt, output_tokens=output, cost=cost)
