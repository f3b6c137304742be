"""Traces, as the standard `OTEL_*` variables say: whether, which requests, and where to. Without an exporter nothing of
OpenTelemetry is imported, and contexts travel through as they came.

An Observer. What is sampled is decided once per request, before anything is known of it but its caller's context.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Protocol

from gateway.decision import Decision, Mirrored
from gateway.errors import BadSetting
from gateway.trace_context import SAMPLED, TraceContext

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.sampling import Sampler

_EXPORTER: Final = "OTEL_TRACES_EXPORTER"
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_SAMPLER: Final = "OTEL_TRACES_SAMPLER"
_HTTP: Final = "http/protobuf"
_SAMPLERS: Final = ("always_on", "always_off", "traceidratio")

Begin = Callable[[TraceContext | None], TraceContext | None]


class Processor(Protocol):
    """Where ended spans go; opentelemetry's BatchSpanProcessor is one."""

    def on_end(self, span: "ReadableSpan") -> None:
        """Take it; never wait."""
        ...

    def shutdown(self) -> None:
        """Send what is left."""
        ...


def passing(caller: TraceContext | None) -> TraceContext | None:
    """Without tracing: what came goes on."""
    return caller


class Tracing:
    """Begins the traces of requests and tells what became of them."""

    def __init__(self, sampler: "Sampler", processor: Processor, resource: "Resource") -> None:
        from gateway.telemetry.spans import spans_of

        self._sampler, self._processor, self._resource = sampler, processor, resource
        self._spans_of = spans_of

    def begin(self, caller: TraceContext | None) -> TraceContext:
        """A request's place below its caller, or at the root of a new trace. One that is not sampled says so to its
        targets, so that they do not begin traces of their own."""
        from opentelemetry.sdk.trace.sampling import Decision as Verdict

        trace_id = caller.trace_id if caller else random.getrandbits(128) or 1
        sampled = self._sampler.should_sample(_context_of(caller), trace_id, "chat")
        if sampled.decision is not Verdict.RECORD_AND_SAMPLE:
            return replace(caller, flags=0) if caller else TraceContext(trace_id=trace_id, span_id=_span_id())
        return TraceContext(
            trace_id=trace_id,
            span_id=_span_id(),
            parent_id=caller.span_id if caller else 0,
            flags=SAMPLED,
            state=caller.state if caller else "",
            is_recorded=True,
        )

    def decided(self, decision: Decision) -> None:
        """See `ports.Observer`."""
        if decision.trace is not None and decision.trace.is_recorded:
            for span in self._spans_of(decision, self._resource):
                self._processor.on_end(span)

    def mirrored(self, mirrored: Mirrored) -> None:
        """Nobody waited for it: it is in no trace."""

    def close(self) -> None:
        """Send what is left, for as long as the exporter's own time-outs allow."""
        self._processor.shutdown()


def open_tracing(environment: Mapping[str, str]) -> Tracing | None:
    """None unless there is an exporter: `OTEL_TRACES_EXPORTER=otlp`, or an endpoint for OTLP. Raises BadSetting."""
    if not _is_wanted(environment):
        return None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create({} if "OTEL_SERVICE_NAME" in environment else {"service.name": "twolane-gateway"})
    try:
        sampler = TracerProvider(resource=resource, shutdown_on_exit=False).sampler  # as OTEL_TRACES_SAMPLER says
        processor = BatchSpanProcessor(OTLPSpanExporter())  # as OTEL_BSP_* and OTEL_EXPORTER_OTLP_* say
    except ValueError as fault:
        raise BadSetting(f"OTEL_*: {fault}") from fault
    return Tracing(sampler, processor, resource)


def _is_wanted(environment: Mapping[str, str]) -> bool:
    """Raises BadSetting for what would otherwise be ignored in silence."""
    chosen = environment.get(_EXPORTER, "").strip().lower()
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or chosen == "none":
        return False
    if chosen not in ("", "otlp"):
        raise BadSetting(f"{_EXPORTER}: {chosen!r} is neither otlp nor none")
    if not chosen and not any(environment.get(name) for name in _ENDPOINTS):
        return False
    for name in _PROTOCOLS:
        if environment.get(name, _HTTP).strip() not in ("", _HTTP):
            raise BadSetting(f"{name}: only {_HTTP} is spoken here, not {environment[name]!r}")
    sampler = environment.get(_SAMPLER, "").strip().lower()
    if sampler not in ("", *(parent + kind for parent in ("", "parentbased_") for kind in _SAMPLERS)):
        raise BadSetting(f"{_SAMPLER}: {sampler!r} is not a sampler of OpenTelemetry")
    return True


def _span_id() -> int:
    return random.getrandbits(64) or 1


def _context_of(caller: TraceContext | None) -> "Context":
    """The caller as the SDK's samplers know him; nobody is an empty context."""
    from opentelemetry.context import Context
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

    if caller is None:
        return Context()
    flags = TraceFlags(caller.flags)
    span = SpanContext(caller.trace_id, caller.span_id, is_remote=True, trace_flags=flags)
    return set_span_in_context(NonRecordingSpan(span), Context())
