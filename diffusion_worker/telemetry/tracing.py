"""Tracing: the span of a request, created after it has ended, with the events of its timeline."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from diffusion_worker.types.timeline import TimelineEvent
from twolane.process.trace_context import Trace
from twolane.process.tracing.span import Event, Span
from twolane.process.tracing.tracer import Tracer, open_tracer

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
        self._tracer.export([_span_of(trace, request)])


def open_tracing(environment: Mapping[str, str]) -> Tracing | None:
    """None unless `OTEL_*` variables name an exporter. Raises ConfigurationError."""
    tracer = open_tracer(environment, service="twolane-worker", scope="twolane.worker")
    return Tracing(tracer) if tracer else None


def _span_of(trace: Trace, request: Request) -> Span:
    offset_s = time.time() - time.monotonic()

    def at(moment_s: float) -> int:
        return round((moment_s + offset_s) * 1e9)

    return Span(
        name=request.name,
        trace_id=trace.trace_id,
        span_id=trace.span_id,
        parent_id=trace.parent_id,
        is_parent_remote=True,
        start_ns=at(request.started_s),
        end_ns=at(request.ended_s),
        attributes={**request.attributes, **({"error.type": request.error} if request.error else {})},
        events=tuple(
            Event(name=each.name, at_ns=at(each.at_s), attributes=dict(each.numbers)) for each in request.moments
        ),
        is_error=bool(request.error),
    )
