"""Tracing with OpenTelemetry. The standard `OTEL_*` variables configure whether and where spans are exported, and which
requests are sampled.

Without an exporter, OpenTelemetry's SDK is not imported. A request is sampled or not when it arrives; each program
creates its spans when a request has ended and passes them to a batch processor of its own. There is no global provider.
"""

import random
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Protocol

from twolane.process.errors import ConfigurationError
from twolane.process.trace_context import SAMPLED, Trace

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.sampling import Sampler

_EXPORTER: Final = "OTEL_TRACES_EXPORTER"
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_SAMPLER: Final = "OTEL_TRACES_SAMPLER"
_INSTANCE: Final = "service.instance.id"
_HTTP: Final = "http/protobuf"
_LOW_BITS: Final = (1 << 64) - 1  # as many as TraceIdRatioBased looks at
_SAMPLERS: Final = tuple(
    parent + kind for parent in ("", "parentbased_") for kind in ("always_on", "always_off", "traceidratio")
)


class Processor(Protocol):
    """Receives ended spans; OpenTelemetry's BatchSpanProcessor implements it."""

    def on_end(self, span: "ReadableSpan") -> None:
        """Accept a span without waiting."""
        ...

    def shutdown(self) -> None:
        """Export what is left."""
        ...


class Tracer:
    """Assigns requests to traces and exports their spans. Every span has the given `resource`."""

    def __init__(self, sampler: "Sampler", processor: Processor, resource: "Resource") -> None:
        self._sampler, self._processor, self.resource = sampler, processor, resource
        self._bound = _bound_of(sampler)

    def begin(self, caller: Trace | None) -> Trace:
        """The context of a request: a child of its caller, or the root of a new trace. The context of an unsampled
        request states that, so that the servers it calls do not start traces of their own."""
        if caller is None and self._bound is not None:
            bits = random.getrandbits(192)
            trace_id, span_id = bits >> 64, bits & _LOW_BITS
            if not trace_id or not span_id:  # no ids
                return self.begin(caller)
            text = "%048x" % bits  # noqa: UP031 - in half of the time, and of that of both ids
            if trace_id & _LOW_BITS >= self._bound:
                return Trace(trace_id=trace_id, span_id=span_id, ids_text=text)
            return Trace(trace_id=trace_id, span_id=span_id, flags=SAMPLED, is_recorded=True, ids_text=text)
        return self._begin(caller)

    def _begin(self, caller: Trace | None) -> Trace:
        """As the sampler says."""
        from opentelemetry.sdk.trace.sampling import Decision

        trace_id = caller.trace_id if caller else random.getrandbits(128) or 1
        sampled = self._sampler.should_sample(_context_of(caller), trace_id, "request")
        if sampled.decision is not Decision.RECORD_AND_SAMPLE:
            return replace(caller, flags=0) if caller else Trace(trace_id=trace_id, span_id=_span_id())
        return Trace(
            trace_id=trace_id,
            span_id=_span_id(),
            parent_id=caller.span_id if caller else 0,
            flags=SAMPLED,
            state=caller.state if caller else "",
            is_recorded=True,
        )

    def export(self, spans: "Iterable[ReadableSpan]") -> None:
        """Queue ended spans; never waits."""
        for span in spans:
            self._processor.on_end(span)

    def close(self) -> None:
        """Export the remaining spans, within the exporter's own timeouts."""
        self._processor.shutdown()


def open_tracer(environment: Mapping[str, str], *, service: str, instance: str | None = None) -> Tracer | None:
    """None unless an exporter is configured: `OTEL_TRACES_EXPORTER=otlp`, or an endpoint for OTLP. `service` is the
    service name if OTEL_SERVICE_NAME is not set, `instance` the ID of this process among those of the service unless
    OTEL_RESOURCE_ATTRIBUTES has one. Raises ConfigurationError."""
    if not _has_exporter(environment):
        return None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create({} if "OTEL_SERVICE_NAME" in environment else {"service.name": service})
    if instance is not None and _INSTANCE not in environment.get("OTEL_RESOURCE_ATTRIBUTES", ""):
        resource = resource.merge(Resource({_INSTANCE: instance}))
    try:
        sampler = TracerProvider(resource=resource, shutdown_on_exit=False).sampler  # configured by OTEL_TRACES_SAMPLER
        processor = BatchSpanProcessor(OTLPSpanExporter())  # configured by OTEL_BSP_* and OTEL_EXPORTER_OTLP_*
    except ValueError as error:
        raise ConfigurationError(f"OTEL_*: {error}") from error
    return Tracer(sampler, processor, resource)


def _has_exporter(environment: Mapping[str, str]) -> bool:
    """Raises ConfigurationError for values that OpenTelemetry would replace by a default."""
    chosen = environment.get(_EXPORTER, "").strip().lower()
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or chosen == "none":
        return False
    if chosen not in ("", "otlp"):
        raise ConfigurationError(f"{_EXPORTER}: {chosen!r} is not one of otlp, none")
    if not chosen and not any(environment.get(name) for name in _ENDPOINTS):
        return False
    for name in _PROTOCOLS:
        if environment.get(name, "").strip() not in ("", _HTTP):
            raise ConfigurationError(f"{name}: {environment[name]!r} is not supported; use {_HTTP}")
    sampler = environment.get(_SAMPLER, "").strip().lower()
    if sampler not in ("", *_SAMPLERS):
        raise ConfigurationError(f"{_SAMPLER}: {sampler!r} is not one of {', '.join(_SAMPLERS)}")
    return True


def _bound_of(sampler: "Sampler") -> int | None:
    """New traces with a smaller number in the low bits of their id are sampled, by OpenTelemetry's usual sampler, which
    costs more than everything else that a request pays for not being sampled. None for other samplers."""
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

    root = getattr(sampler, "_root", None) if isinstance(sampler, ParentBased) else sampler
    return root.bound if type(root) is TraceIdRatioBased else None


def _span_id() -> int:
    return random.getrandbits(64) or 1


def _context_of(caller: Trace | None) -> "Context":
    """The caller's context in the form that the SDK's samplers expect; empty without a caller."""
    from opentelemetry.context import Context
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

    if caller is None:
        return Context()
    flags = TraceFlags(caller.flags)
    span = SpanContext(caller.trace_id, caller.span_id, is_remote=True, trace_flags=flags)
    return set_span_in_context(NonRecordingSpan(span), Context())
