"""The mutable context of one request: collects its attempts, and renders them as a Decision at any time.

It fills one Decision from the request's arrival to its end. It makes no decisions and reads no clock; callers pass
`now_s`.
"""

from collections.abc import Collection
from typing import Final, Protocol

from gateway.attempts.decisions import DecisionAnswers
from gateway.attempts.error_source import error_source
from gateway.attempts.final_error import Failure, final_error
from gateway.decision import AttemptRecord, Decision
from gateway.enums import SHARED_REASONS, AttemptOutcome, Outcome, Reason, SchemaCheck
from gateway.errors import AttemptFailed, ContextLengthExceeded, GatewayError, InvalidOutput
from gateway.policy_types import Limit
from gateway.types import Candidate, Classification, Delta, Plan, Query, Usage, Verdict
from twolane.process.records import replaced

_OK: Final = Outcome.OK  # finding a member in its class takes 0.2 µs
_ATTEMPT_OK: Final = AttemptOutcome.OK


class UnsureAnswer(Protocol):
    """A complete answer that only the confidence gate refused."""

    @property
    def unsure_confidence(self) -> float | None:
        """Its confidence; None: unknown."""
        ...

    def commit_unsure(self) -> list[Delta]:
        """Serve it nevertheless; returns the deltas to send."""
        ...

    def forget(self) -> None:
        """It will not be served."""
        ...


class RequestContext:
    """The state of one request while its candidates are tried."""

    __slots__ = (
        *("_attempts", "_calls", "_counted", "_decision", "_failures", "_spent_ms", "_streaming", "_timings_ms"),
        *("classification", "decisions", "error", "failed", "last_error", "limit", "needed_tokens", "outcome", "plan"),
        *("query", "skipped", "surest"),
    )

    def __init__(
        self, query: Query, classification: Classification, plan: Plan, *, wall_s: float, now_s: float
    ) -> None:
        self.query = query
        self.plan = plan
        self.outcome = _OK
        self.error: GatewayError | None = None  # that the client received, if the outcome is an error
        self.surest: UnsureAnswer | None = None  # kept if the route serves it
        self.limit: Limit | None = None  # of its API key, whose quota is to be released at the end
        self.needed_tokens = 0  # at least, as far as targets that found the request too long reported
        self.last_error: AttemptFailed | None = None  # of the attempt that ended last
        self._calls = 0
        self._spent_ms = 0.0  # in the attempts of the decision, and waiting for them
        self._counted = 0  # attempts of the decision; -1: one of them was in progress
        self._streaming: AttemptRecord | None = None  # the committed attempt, until it ends
        self.failed: dict[str, tuple[str, Reason]] = {}  # base URL -> the target that failed there, and the reason
        self.skipped: list[tuple[Candidate, Verdict]] = []
        self.decisions: DecisionAnswers | None = None
        if query.beyond_chat.decision is not None:
            self.decisions = DecisionAnswers(query.beyond_chat.decision)
        self.classification = classification
        self._attempts: list[AttemptRecord] = []
        self._failures: list[Failure] = []
        self._timings_ms = {"classify": (now_s - query.received_s) * 1000}
        self._decision = Decision(
            time_s=wall_s,
            query_id=query.request_id,
            policy=plan.policy,
            principal=query.principal,
            classification=classification,
            route=plan.route,
            private=query.private or plan.private,
            locations=plan.locations,
            stream=query.stream,
            schema=query.output_format.digest if query.output_format else None,
            trace=query.trace,
            timings_ms=self._timings_ms,
            api_path=query.beyond_chat.path,
        )

    def at_ms(self, now_s: float) -> float:
        """Milliseconds since the request arrived."""
        return (now_s - self.query.received_s) * 1000

    def left_ms(self, now_s: float) -> float | None:
        """The time left until the request's deadline; None without a deadline."""
        return None if self.plan.deadline_ms is None else self.plan.deadline_ms - self.at_ms(now_s)

    def total_left_ms(self, now_s: float) -> float:
        """The time left for a stream as a whole."""
        return self.plan.total_ms - self.at_ms(now_s)

    def limits_ms(self, at_ms: float, *, is_last: bool) -> tuple[float, float]:
        """How long an attempt that starts now may take until its response is ready, so that time is left for later
        candidates; and the time left for a stream as a whole."""
        plan = self.plan
        limit_ms = total_ms = plan.total_ms - at_ms
        if plan.deadline_ms is not None:
            limit_ms = min(limit_ms, plan.deadline_ms - at_ms)
        return limit_ms if is_last or plan.attempt_ms is None else min(limit_ms, plan.attempt_ms), total_ms

    @property
    def validation_error(self) -> str | None:
        """The validation error of the last response, if the policy sends it to the next target."""
        checks, error = self.plan.checks, self.last_error
        is_sent = checks is not None and checks.send_error_to_fallback and isinstance(error, InvalidOutput)
        return error.detail if is_sent and error is not None else None

    def next_span_id(self) -> int:
        """A span id for the next attempt; 0 if the request is not recorded."""
        trace = self.query.trace
        if trace is None or not trace.is_recorded:
            return 0
        self._calls += 1
        return trace.child_id(self._calls)

    def forgive_slowness(self, slow: Collection[Candidate]) -> None:
        """From now on, these candidates, which were skipped only for their latency, may be called."""
        self.skipped = [each for each in self.skipped if each[0] not in slow]
        self.failed = {url: failed for url, failed in self.failed.items() if failed[1] is not Reason.P95_BREACH}

    def skip(self, candidate: Candidate, verdict: Verdict, now_s: float, *, queued_ms: float | None = None) -> None:
        """Record that a candidate was skipped, if need be after waiting for a slot."""
        assert verdict.reason is not None
        at_ms = self.at_ms(now_s)
        name = candidate.target.policy_name
        self._failures.append(Failure(target=name, verdict=verdict, left_ms=self.left_ms(now_s)))
        self._append(
            candidate,
            AttemptRecord(
                target=name,
                url=candidate.target.address,
                location=candidate.target.location,
                started_ms=at_ms,
                ended_ms=at_ms,
                outcome=verdict.reason,
                detail=verdict.detail,
                skipped=True,
                queued_ms=queued_ms,
            ),
        )

    def end_attempt(self, candidate: Candidate, attempt: AttemptRecord, error: AttemptFailed | None = None) -> None:
        """Record the end of an attempt. After `commit`, only the committed attempt can end."""
        self.last_error = error
        if error is not None:
            left_ms = None if self.plan.deadline_ms is None else self.plan.deadline_ms - attempt.ended_ms
            self._failures.append(Failure(target=attempt.target, error=error, left_ms=left_ms))
            if isinstance(error, ContextLengthExceeded):
                self.needed_tokens = max(self.needed_tokens, error.needed or (error.limit or 0) + 1)
        self._streaming = None
        if attempt.outcome is _ATTEMPT_OK:
            self._attempts.append(attempt)
        else:
            self._append(candidate, attempt)

    def commit(self, attempt: AttemptRecord, usage: Usage | None, now_s: float) -> None:
        """The point of no return: the response of this attempt, which has not ended yet, is served."""
        decision, timings_ms, at_ms = self._decision, self._timings_ms, (now_s - self.query.received_s) * 1000
        decision.target = attempt.target
        decision.usage = usage
        decision.first_byte_ms = at_ms
        self._streaming = attempt
        timings_ms["queue"] = attempt.started_ms - timings_ms["classify"]
        timings_ms["upstream"] = at_ms - attempt.started_ms

    def keep_surest(self, answer: UnsureAnswer) -> None:
        """Keep an answer below the minimum if it is surer than the one that is kept."""
        known = self.surest
        if known is None or (answer.unsure_confidence or 0.0) > (known.unsure_confidence or 0.0):
            self.surest = answer
            if known is not None:
                known.forget()

    def forget_surest(self) -> None:
        """Another answer is served."""
        if self.surest is not None:
            self.surest.forget()
            self.surest = None

    def commit_surest(self, now_s: float) -> list[Delta]:
        """The point of no return, if no candidate is left: serve the surest answer below the minimum, or the doubtful
        answers of a decision. Empty if there is none."""
        if self.decisions is None or not self.decisions.is_complete:
            return [] if self.surest is None else self.surest.commit_unsure()
        merged = self.decisions.merged()
        self._decision.target, self._decision.usage = self.decisions.answered_by[-1][0], merged.usage
        self._decision.first_byte_ms = self.at_ms(now_s)
        return [merged]

    def mark_unsure(self, confidence: float | None) -> None:
        """The committed attempt ended below the minimum confidence, and is served as the surest answer."""
        self._decision.low_confidence, self._streaming = confidence, None

    def record_validation(self, check: SchemaCheck | None, took_ms: float) -> None:
        """Record the validation result of the served response; None if it was not validated, or not yet."""
        if check is None:
            return
        self._decision.schema_check = check
        self._timings_ms["validate"] = took_ms

    def record_usage(self, usage: Usage) -> None:
        """Record the usage of a stream, which follows its content."""
        self._decision.usage = usage

    def decision(self, now_s: float) -> Decision:
        """The decision as of now: one record, which later calls change. A stream in progress counts as a successful
        attempt, and its decision is a record of its own."""
        decision, streaming, attempts = self._decision, self._streaming, self._attempts
        decision.total_ms = total_ms = (now_s - self.query.received_s) * 1000
        if streaming is not None:
            self._spent_ms = _count_attempts(decision, [*attempts, replaced(streaming, ended_ms=total_ms)])
            self._counted = -1
        elif (count := len(attempts)) != self._counted:
            self._spent_ms = _count_attempts(decision, attempts)
            self._counted = count
        own_ms = total_ms - self._spent_ms
        decision.overhead_ms = own_ms if own_ms > 0.0 else 0.0
        if self.outcome is not _OK:  # once it is not, it is never again
            decision.outcome, decision.status = self.outcome, self._failed_status()
            decision.error_source = error_source(self.error, self.plan) if self.outcome is Outcome.ERROR else None
        if self.decisions is not None:
            decision.answered_by = self.decisions.answered_by
        return decision if streaming is None else replaced(decision, timings_ms=dict(self._timings_ms))

    def _failed_status(self) -> int | None:
        """A stream that breaks off has sent its status."""
        if self.outcome is Outcome.CLIENT_GONE:
            return None
        if self._decision.first_byte_ms is not None:
            return 200
        return GatewayError.status if self.error is None else self.error.status

    def final_error(self) -> GatewayError:
        """The error of a request that no candidate served."""
        return final_error(self._failures, private=self.plan.private, locations=self.plan.locations)

    def _append(self, candidate: Candidate, attempt: AttemptRecord) -> None:
        self._attempts.append(attempt)
        if isinstance(attempt.outcome, Reason) and attempt.outcome in SHARED_REASONS:
            self.failed.setdefault(candidate.target.url, (candidate.target.name, attempt.outcome))


def _count_attempts(decision: Decision, attempts: list[AttemptRecord]) -> float:
    """Put these attempts into the decision, with their cost. Returns the milliseconds in which any of them waited or
    was in progress."""
    if len(attempts) == 1:
        only = attempts[0]
        decision.attempts = (only,)
        if only.usage is not None:
            decision.cost = only.usage.cost or 0.0
        return only.ended_ms - only.started_ms + (only.queued_ms or 0.0)
    attempts = sorted(attempts, key=_started_ms)  # a hedge may end before the attempt that it hedges
    spent_ms, until_ms, cost = 0.0, 0.0, 0.0
    for attempt in attempts:
        if attempt.queued_ms is not None:
            spent_ms += attempt.queued_ms
        if attempt.ended_ms > until_ms:
            spent_ms += attempt.ended_ms - max(attempt.started_ms, until_ms)
            until_ms = attempt.ended_ms
        if attempt.usage is not None:
            cost += attempt.usage.cost or 0.0
    decision.attempts, decision.cost = tuple(attempts), cost
    return spent_ms


def _started_ms(attempt: AttemptRecord) -> float:
    return attempt.started_ms
