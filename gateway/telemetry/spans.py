"""Converts a Decision to spans: the request (SERVER) with each attempt as a child (CLIENT); skipped targets are events.

Spans are created after the request has ended, with the ids that were sent to targets: a request that is not recorded
costs no span. Spans contain no prompt and no response text.
"""

from collections.abc import Callable, Iterator

from gateway.decision import AttemptRecord, Decision
from gateway.enums import AttemptOutcome, Outcome, Reason
from gateway.telemetry import semantic_conventions as c
from gateway.types import Usage
from twolane.process.tracing.span import Event, Kind, Span, Value

Attributes = dict[str, Value]
_NO_ERROR = frozenset({AttemptOutcome.OK, AttemptOutcome.CANCELLED, Reason.HEDGE})


def spans_of(decision: Decision, provider_of: Callable[[str], str]) -> Iterator[Span]:
    """All spans of a recorded request; none for other requests. `provider_of` a target by its name."""
    trace = decision.trace
    if trace is None or not trace.is_recorded:
        return
    start_ns = round((decision.time_s - decision.timings_ms.get("classify", 0.0) / 1000) * 1e9)
    trace_id, span_id, operation = trace.trace_id, trace.span_id, c.operation_of(decision.api_path)
    yield Span(
        name=f"{operation} {decision.route}".rstrip(),
        trace_id=trace_id,
        span_id=span_id,
        parent_id=trace.parent_id,
        is_parent_remote=True,
        kind=Kind.SERVER,
        start_ns=start_ns,
        end_ns=_at(start_ns, decision.total_ms),
        attributes=_request(decision, operation),
        events=tuple(_skip(attempt, start_ns) for attempt in decision.attempts if attempt.skipped),
        is_error=decision.outcome is Outcome.ERROR,
    )
    for attempt in decision.attempts:
        if attempt.skipped:
            continue
        yield Span(
            name=f"{operation} {attempt.target}",
            trace_id=trace_id,
            span_id=attempt.span_id,
            parent_id=span_id,
            kind=Kind.CLIENT,
            start_ns=_at(start_ns, attempt.started_ms),
            end_ns=_at(start_ns, attempt.ended_ms),
            attributes=_attempt(attempt, operation, provider_of(attempt.target)),
            events=_first_byte(attempt, start_ns),
            is_error=attempt.outcome not in _NO_ERROR,
        )


def _at(start_ns: int, ms: float) -> int:
    return start_ns + round(ms * 1e6)


def _request(decision: Decision, operation: str) -> Attributes:
    attributes: Attributes = {
        c.OPERATION: operation,
        c.PROVIDER: c.TWOLANE,
        c.HTTP_METHOD: "POST",
        c.URL_PATH: decision.api_path,
        c.REQUEST_ID: decision.query_id,
        c.TASK: decision.classification.task.value,
        c.CONFIDENCE: decision.classification.confidence,
        c.EVIDENCE: decision.classification.evidence,
        c.ROUTE: decision.route,
        c.POLICY: decision.policy,
        c.PRIVATE: decision.private,
        c.OUTCOME: decision.outcome.value,
        c.OVERHEAD: decision.overhead_ms / 1000,
        c.COST: decision.cost,
    }
    if decision.locations is not None:
        attributes[c.LOCATIONS] = tuple(sorted(decision.locations))
    if decision.target is not None:
        attributes[c.TARGET] = decision.target
    if decision.fallback is not None:
        attributes[c.FALLBACK] = decision.fallback.value
    if decision.schema_check is not None:
        attributes[c.SCHEMA] = decision.schema_check.value
    if decision.status is not None:
        attributes[c.HTTP_STATUS] = decision.status
    if decision.stream:
        attributes[c.REQUEST_STREAM] = True
    if decision.stream and decision.first_byte_ms is not None:
        attributes[c.FIRST_CHUNK] = decision.first_byte_ms / 1000
    if decision.outcome is Outcome.ERROR:
        attributes[c.ERROR_TYPE] = decision.attempts[-1].outcome.value if decision.attempts else "no_route"
    return attributes | _used(decision.usage)


def _attempt(attempt: AttemptRecord, operation: str, provider: str) -> Attributes:
    attributes: Attributes = {
        c.OPERATION: operation,
        c.PROVIDER: provider,
        c.REQUEST_MODEL: attempt.target,
        c.TARGET: attempt.target,
        c.OUTCOME: attempt.outcome.value,
        c.HEDGE: attempt.hedge,
        c.PROBE: attempt.probe,
    }
    if attempt.detail:
        attributes[c.DETAIL] = attempt.detail
    if attempt.outcome not in _NO_ERROR:
        attributes[c.ERROR_TYPE] = attempt.outcome.value
    if attempt.status is not None:
        attributes[c.HTTP_STATUS] = attempt.status
    if attempt.stream:
        attributes[c.REQUEST_STREAM] = True
    if attempt.stream and attempt.first_byte_ms is not None:
        attributes[c.FIRST_CHUNK] = (attempt.first_byte_ms - attempt.started_ms) / 1000
    return attributes | _used(attempt.usage)


def _used(usage: Usage | None) -> Attributes:
    if usage is None:
        return {}
    pairs = (
        (c.INPUT_TOKENS, usage.input_tokens),
        (c.OUTPUT_TOKENS, usage.output_tokens),
        (c.ANSWER_CONFIDENCE, usage.confidence),
    )
    return {name: value for name, value in pairs if value is not None}


def _skip(attempt: AttemptRecord, start_ns: int) -> Event:
    attributes: Attributes = {c.TARGET: attempt.target, c.OUTCOME: attempt.outcome.value, c.DETAIL: attempt.detail}
    return Event(name=c.SKIPPED, at_ns=_at(start_ns, attempt.started_ms), attributes=attributes)


def _first_byte(attempt: AttemptRecord, start_ns: int) -> tuple[Event, ...]:
    if attempt.first_byte_ms is None:
        return ()
    return (Event(name=c.FIRST_BYTE, at_ns=_at(start_ns, attempt.first_byte_ms)),)
