"""What has happened to one request so far: grows attempt by attempt, and becomes a Decision whenever somebody asks.

Knows no clock (`now_s` comes with each call) and decides nothing itself.
"""

from gateway.decision import AttemptRecord, Decision
from gateway.enums import SHARED_REASONS, AttemptOutcome, Outcome, Reason, SchemaCheck
from gateway.errors import (
    AttemptFailed,
    DeadlineExceeded,
    GatewayError,
    InvalidOutput,
    NoPrivateTarget,
    NoRoute,
    NotResident,
    Overloaded,
    Unsupported,
)
from gateway.types import Candidate, Classification, Plan, Query, Usage, Verdict

_RETRY_S = 1.0


class RequestContext:
    """One request's way from target to target."""

    def __init__(
        self, query: Query, classification: Classification, plan: Plan, *, wall_s: float, now_s: float
    ) -> None:
        self.query = query
        self.plan = plan
        self.failed: dict[str, tuple[str, Reason]] = {}  # base URL -> who failed there, and why
        self.outcome = Outcome.OK
        self.is_counted = False  # by the limit of its key
        self.schema_check: SchemaCheck | None = None
        self.classification = classification
        self._wall_s = wall_s
        self._attempts: list[AttemptRecord] = []
        self._fault: AttemptFailed | None = None
        self._usage: Usage | None = None
        self._target: str | None = None
        self._server: str | None = None
        self._first_byte_ms: float | None = None
        self._timings_ms = {"classify": self.at_ms(now_s)}
        self._taken_ms = 0.0
        self._calls = 0
        self._is_settled = True  # is there no call under way whose answer was taken?

    def at_ms(self, now_s: float) -> float:
        """Milliseconds since the request arrived."""
        return (now_s - self.query.received_s) * 1000

    def left_ms(self, now_s: float) -> float | None:
        """What remains of the request's deadline; None: it has none."""
        return None if self.plan.deadline_ms is None else self.plan.deadline_ms - self.at_ms(now_s)

    def limit_ms(self, now_s: float, *, is_last: bool) -> float | None:
        """How long an attempt may take until its answer is ready: so that time is left for the others, if any are."""
        left_ms, attempt_ms = self.left_ms(now_s), self.plan.attempt_ms
        if is_last or left_ms is None or attempt_ms is None:
            return left_ms
        return min(left_ms, attempt_ms)

    @property
    def rejected(self) -> str | None:
        """Why the last answer was not good enough, if whoever is asked next is to know."""
        checks, fault = self.plan.checks, self._fault
        is_told = checks is not None and checks.send_error_to_fallback and isinstance(fault, InvalidOutput)
        return fault.detail if is_told and fault is not None else None

    def next_span_id(self) -> int:
        """One for the attempt that sets out now; 0 if the request is not recorded."""
        trace = self.query.trace
        if trace is None or not trace.is_recorded:
            return 0
        self._calls += 1
        return trace.child_id(self._calls)

    def skip(self, candidate: Candidate, verdict: Verdict, now_s: float) -> None:
        """The candidate was not called."""
        assert verdict.reason is not None
        at_ms = self.at_ms(now_s)
        self._note(
            candidate,
            AttemptRecord(
                target=candidate.target.title,
                url=candidate.target.server,
                started_ms=at_ms,
                ended_ms=at_ms,
                outcome=verdict.reason,
                detail=verdict.detail,
                skipped=True,
            ),
        )

    def end(self, candidate: Candidate, attempt: AttemptRecord, fault: AttemptFailed | None = None) -> None:
        """A call came to its end, well or not; once an answer is taken, only that one is left to end."""
        self._fault = fault
        self._is_settled = True
        self._note(candidate, attempt)

    def take(self, candidate: Candidate, started_ms: float, usage: Usage | None, now_s: float) -> None:
        """The candidate's answer may leave: from here on there is no other."""
        self._target = candidate.target.title
        self._server = candidate.target.server
        self._taken_ms = started_ms
        self._is_settled = False
        self._usage = usage
        self._first_byte_ms = self.at_ms(now_s)
        self._timings_ms["queue"] = started_ms - self._timings_ms["classify"]
        self._timings_ms["upstream"] = self._first_byte_ms - started_ms

    def checked(self, check: SchemaCheck | None, took_ms: float) -> None:
        """The answer that is served was validated; None: it was not, or not yet."""
        if check is None:
            return
        self.schema_check = check
        self._timings_ms["validate"] = took_ms

    def used(self, usage: Usage) -> None:
        """The account of a stream came behind its text."""
        self._usage = usage

    def decision(self, now_s: float) -> Decision:
        """All of it, as of now. A stream still running counts as an attempt that is well."""
        query, plan, total_ms = self.query, self.plan, self.at_ms(now_s)
        attempts = self._attempts if self._is_settled else [*self._attempts, self._running(total_ms)]
        if len(attempts) > 1:  # a hedge may end before the attempt that it was made beside
            attempts = sorted(attempts, key=_started_ms)
        return Decision(
            time_s=self._wall_s,
            query_id=query.request_id,
            policy=plan.policy,
            principal=query.principal,
            classification=self.classification,
            route=plan.route,
            private=query.private or plan.private,
            stream=query.stream,
            schema=query.expectation.digest if query.expectation else None,
            attempts=tuple(attempts),
            target=self._target,
            outcome=self.outcome,
            schema_check=self.schema_check,
            usage=self._usage,
            first_byte_ms=self._first_byte_ms,
            total_ms=total_ms,
            overhead_ms=max(0.0, total_ms - _waited_ms(attempts)),
            cost=sum(attempt.usage.cost or 0.0 for attempt in attempts if attempt.usage),
            trace=query.trace,
            timings_ms=dict(self._timings_ms),
        )

    def nobody_left(self) -> GatewayError:
        """The one answer of a request that no candidate answered: the last call's fault, or why nobody was called.

        A private request is told that nobody inside could serve it, unless it was itself at fault or out of time.
        """
        error = self._last_error()
        if self.plan.private and error.status >= 500 and not isinstance(error, DeadlineExceeded):
            return NoPrivateTarget("No target inside the cluster could answer.", retry_after_s=_RETRY_S)
        return error

    def _last_error(self) -> GatewayError:
        if not self._attempts:
            return NoRoute("The route has no target.")
        last = self._attempts[-1]
        if self._fault is None or last.outcome is Reason.DEADLINE:  # that time ran out outweighs what was lost in it
            return _of_skip(last)
        return self._fault

    def _running(self, now_ms: float) -> AttemptRecord:
        assert self._target is not None
        return AttemptRecord(
            target=self._target,
            url=self._server,
            started_ms=self._taken_ms,
            ended_ms=now_ms,
            outcome=AttemptOutcome.OK,
        )

    def _note(self, candidate: Candidate, attempt: AttemptRecord) -> None:
        self._attempts.append(attempt)
        if isinstance(attempt.outcome, Reason) and attempt.outcome in SHARED_REASONS:
            self.failed.setdefault(candidate.target.url, (candidate.target.name, attempt.outcome))


def _started_ms(attempt: AttemptRecord) -> float:
    return attempt.started_ms


def _waited_ms(attempts: list[AttemptRecord]) -> float:
    """How long at least one attempt was under way. `attempts` in the order of their starts."""
    waited_ms = until_ms = 0.0
    for attempt in attempts:
        waited_ms += max(0.0, attempt.ended_ms - max(attempt.started_ms, until_ms))
        until_ms = max(until_ms, attempt.ended_ms)
    return waited_ms


def _of_skip(attempt: AttemptRecord) -> GatewayError:
    """The error for a request whose every candidate was passed over; the last one's reason speaks."""
    name, detail = attempt.target, attempt.detail
    if attempt.outcome is Reason.DEADLINE:
        return DeadlineExceeded(f"The deadline left no time for target {name!r}: {detail}.")
    if attempt.outcome is Reason.UNSUPPORTED:
        return Unsupported(f"Target {name!r} cannot honour this request: {detail}.")
    if attempt.outcome is Reason.OVERLOADED:
        return Overloaded(f"Target {name!r} is full: {detail}.", retry_after_s=_RETRY_S)
    if attempt.outcome is Reason.NOT_RESIDENT:
        return NotResident(f"Target {name!r} is not ready: {detail}.", retry_after_s=_RETRY_S)
    return NoRoute(f"No target can be called now; the last was {name!r}: {attempt.outcome}.", retry_after_s=_RETRY_S)
