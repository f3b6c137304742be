"""A Decision as spans: the request (SERVER), below it each attempt (CLIENT); passed-over targets are its events.

Made when all is over, with the ids that targets were told: a request that is not recorded never costs a span. Says no
more than the decision does, so no prompt and no answer.
"""

from collections.abc import Iterator

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.util.types import AttributeValue

from gateway import __version__
from gateway.decision import AttemptRecord, Decision
from gateway.enums import AttemptOutcome, Outcome, Reason
from gateway.telemetry import semantic_conventions as c
from gateway.trace_context import SAMPLED, TraceContext
from gateway.types import Usage

Attributes = dict[str, AttributeValue]
_SCOPE = InstrumentationScope("twolane.gateway", __version__)
_NO_ERROR = frozenset({AttemptOutcome.OK, AttemptOutcome.CANCELLED, Reason.HEDGE})


def spans_of(decision: Decision, resource: Resource) -> Iterator[ReadableSpan]:
    """All spans of a request that is recorded; none of any other."""
    trace = decision.trace
    if trace is None or not trace.is_recorded:
        return
    zero_ns = round((decision.time_s - decision.timings_ms.get("classify", 0.0) / 1000) * 1e9)
    own = _context(trace, trace.span_id)
    called = [attempt for attempt in decision.attempts if not attempt.skipped]
    yield ReadableSpan(
        f"{c.CHAT} {decision.route}".rstrip(),
        context=own,
        parent=_context(trace, trace.parent_id, is_remote=True) if trace.parent_id else None,
        resource=resource,
        attributes=_request(decision),
        events=[_skip(attempt, zero_ns) for attempt in decision.attempts if attempt.skipped],
        kind=SpanKind.SERVER,
        status=Status(StatusCode.ERROR if decision.outcome is Outcome.ERROR else StatusCode.UNSET),
        start_time=zero_ns,
        end_time=_at(zero_ns, decision.total_ms),
        instrumentation_scope=_SCOPE,
    )
    for attempt in called:
        yield ReadableSpan(
            f"{c.CHAT} {attempt.target}",
            context=_context(trace, attempt.span_id),
            parent=own,
            resource=resource,
            attributes=_attempt(attempt),
            events=_first_byte(attempt, zero_ns),
            kind=SpanKind.CLIENT,
            status=Status(StatusCode.UNSET if attempt.outcome in _NO_ERROR else StatusCode.ERROR),
            start_time=_at(zero_ns, attempt.started_ms),
            end_time=_at(zero_ns, attempt.ended_ms),
            instrumentation_scope=_SCOPE,
        )


def _context(trace: TraceContext, span_id: int, *, is_remote: bool = False) -> SpanContext:
    return SpanContext(trace.trace_id, span_id, is_remote=is_remote, trace_flags=TraceFlags(SAMPLED))


def _at(zero_ns: int, ms: float) -> int:
    return zero_ns + round(ms * 1e6)


def _request(decision: Decision) -> Attributes:
    told: Attributes = {
        c.OPERATION: c.CHAT,
        c.PROVIDER: c.US,
        c.HTTP_METHOD: "POST",
        c.URL_PATH: "/v1/chat/completions",
        c.REQUEST_ID: decision.query_id,
        c.REQUEST_STREAM: decision.stream,
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
    if decision.target is not None:
        told[c.TARGET] = decision.target
    if decision.fallback is not None:
        told[c.FALLBACK] = decision.fallback.value
    if decision.schema_check is not None:
        told[c.SCHEMA] = decision.schema_check.value
    if decision.first_byte_ms is not None:
        told[c.FIRST_CHUNK] = decision.first_byte_ms / 1000
    if decision.outcome is Outcome.ERROR:
        told[c.ERROR_TYPE] = decision.attempts[-1].outcome.value if decision.attempts else "no_route"
    return told | _used(decision.usage)


def _attempt(attempt: AttemptRecord) -> Attributes:
    told: Attributes = {
        c.OPERATION: c.CHAT,
        c.PROVIDER: c.US,
        c.REQUEST_MODEL: attempt.target,
        c.REQUEST_STREAM: attempt.stream,
        c.TARGET: attempt.target,
        c.OUTCOME: attempt.outcome.value,
        c.HEDGE: attempt.hedge,
        c.PROBE: attempt.probe,
    }
    if attempt.detail:
        told[c.DETAIL] = attempt.detail
    if attempt.outcome not in _NO_ERROR:
        told[c.ERROR_TYPE] = attempt.outcome.value
    if attempt.first_byte_ms is not None:
        told[c.FIRST_CHUNK] = (attempt.first_byte_ms - attempt.started_ms) / 1000
    return told | _used(attempt.usage)


def _used(usage: Usage | None) -> Attributes:
    if usage is None:
        return {}
    pairs = (
        (c.INPUT_TOKENS, usage.input_tokens),
        (c.OUTPUT_TOKENS, usage.output_tokens),
        (c.ANSWER_CONFIDENCE, usage.confidence),
    )
    return {name: value for name, value in pairs if value is not None}


def _skip(attempt: AttemptRecord, zero_ns: int) -> Event:
    told: Attributes = {c.TARGET: attempt.target, c.OUTCOME: attempt.outcome.value, c.DETAIL: attempt.detail}
    return Event(c.SKIPPED, told, _at(zero_ns, attempt.started_ms))


def _first_byte(attempt: AttemptRecord, zero_ns: int) -> list[Event]:
    return [] if attempt.first_byte_ms is None else [Event(c.FIRST_BYTE, {}, _at(zero_ns, attempt.first_byte_ms))]
