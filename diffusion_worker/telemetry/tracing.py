"""Tracing: the span of a request, created after it has ended, with the events of its timeline."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from diffusion_worker.types.timeline import TimelineEvent
from twolane.process.trace_context import SAMPLED, Trace
from twolane.process.tracing import Tracer, open_tracer

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan

Value = str | bool | int | float


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request that has ended. Times are monotonic seconds; `error` is an error code, or empty."""

    name: str
    started_s: float
    ended_s: float
    error: str = ""
    attributes: Mapping[str, Value] = field(default_factory=dict)
    moments: tuple[TimelineEvent, ...] = ()


class Tracing:
    """Starts the traces of requests and exports their spans when they end."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self.begin, self.close = tracer.begin, tracer.close

    def ended(self, trace: Trace, request: Request) -> None:
        """Export the span of a recorded request."""
        self._tracer.export([_span_of(trace, request, self._tracer.resource)])


def open_tracing(environment: Mapping[str, str]) -> Tracing | None:
    """None unless `OTEL_*` variables name an exporter. Raises ConfigurationError."""
    tracer = open_tracer(environment, service="twolane-worker")
    return Tracing(tracer) if tracer else None


def _span_of(trace: Trace, request: Request, resource: "Resource") -> "ReadableSpan":
    from opentelemetry.sdk.trace import Event, ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

    offset_s = time.time() - time.monotonic()

    def at(moment_s: float) -> int:
        return round((moment_s + offset_s) * 1e9)

    def context(span_id: int, *, is_remote: bool = False) -> SpanContext:
        return SpanContext(trace.trace_id, span_id, is_remote=is_remote, trace_flags=TraceFlags(SAMPLED))

    return ReadableSpan(
        request.name,
        context=context(trace.span_id),
        parent=context(trace.parent_id, is_remote=True) if trace.parent_id else None,
        resource=resource,
        attributes={**request.attributes, **({"error.type": request.error} if request.error else {})},
        events=[Event(each.name, dict(each.numbers), at(each.at_s)) for each in request.moments],
        kind=SpanKind.SERVER,
        status=Status(StatusCode.ERROR if request.error else StatusCode.UNSET),
        start_time=at(request.started_s),
        end_time=at(request.ended_s),
        instrumentation_scope=InstrumentationScope("twolane.worker"),
    )
