"""Converts a Decision to spans: the request (SERVER) with each attempt as a child (CLIENT); skipped targets are events.

Spans are created after the request has ended, with the ids that were sent to targets: a request that is not recorded
costs no span. Spans contain no prompt and no response text.
"""

from collections.abc import Callable, Iterator

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.util.types import AttributeValue

from gateway import __version__
from gateway.decision import AttemptRecord, Decision
from gateway.enums import AttemptOutcome, Outcome, Reason
from gateway.telemetry import semantic_conventions as c
from gateway.types import Usage
from twolane.process.trace_context import SAMPLED, Trace

Attributes = dict[str, AttributeValue]
_SCOPE = InstrumentationScope("twolane.gateway", __version__)
_NO_ERROR = frozenset({AttemptOutcome.OK, AttemptOutcome.CANCELLED, Reason.HEDGE})


def spans_of(decision: Decision, resource: Resource, provider_of: Callable[[str], str]) -> Iterator[ReadableSpan]:
    """All spans of a recorded request; none for other requests. `provider_of` a target by its name."""
    trace = decision.trace
    if trace is None or not trace.is_recorded:
        return
    start_ns = round((decision.time_s - decision.timings_ms.get("classify", 0.0) / 1000) * 1e9)
    own, operation = _context(trace, trace.span_id), c.operation_of(decision.api_path)
    called = [attempt for attempt in decision.attempts if not attempt.skipped]
    yield ReadableSpan(
        f"{operation} {decision.route}".rstrip(),
        context=own,
        parent=_context(trace, trace.parent_id, is_remote=True) if trace.parent_id else None,
        resource=resource,
        attributes=_request(decision, operation),
        events=[_skip(attempt, start_ns) for attempt in decision.attempts if attempt.skipped],
        kind=SpanKind.SERVER,
        status=Status(StatusCode.ERROR if decision.outcome is Outcome.ERROR else StatusCode.UNSET),
        start_time=start_ns,
        end_time=_at(start_ns, decision.total_ms),
        instrumentation_scope=_SCOPE,
    )
    for attempt in called:
        yield ReadableSpan(
            f"{operation} {attempt.target}",
            context=_context(trace, attempt.span_id),
            parent=own,
            resource=resource,
            attributes=_attempt(attempt, operation, provider_of(attempt.target)),
            events=_first_byte(attempt, start_ns),
            kind=SpanKind.CLIENT,
            status=Status(StatusCode.UNSET if attempt.outcome in _NO_ERROR else StatusCode.ERROR),
            start_time=_at(start_ns, attempt.started_ms),
            end_time=_at(start_ns, attempt.ended_ms),
            instrumentation_scope=_SCOPE,
        )


def _context(trace: Trace, span_id: int, *, is_remote: bool = False) -> SpanContext:
    return SpanContext(trace.trace_id, span_id, is_remote=is_remote, trace_flags=TraceFlags(SAMPLED))


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
    return Event(c.SKIPPED, attributes, _at(start_ns, attempt.started_ms))


def _first_byte(attempt: AttemptRecord, start_ns: int) -> list[Event]:
    return [] if attempt.first_byte_ms is None else [Event(c.FIRST_BYTE, {}, _at(start_ns, attempt.first_byte_ms))]
