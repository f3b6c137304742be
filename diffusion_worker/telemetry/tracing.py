"""Traces, as the standard `OTEL_*` variables say: whether, which requests, and where to. Without an exporter nothing of
OpenTelemetry is imported.

A request's place is settled when it comes (W3C Trace Context); its span is made when all is over, and only if it is
sampled. Knows no HTTP but the two headers, and no text.
"""

import random
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from diffusion_worker.errors import BadSetting
from diffusion_worker.types.timeline import TimelineEvent

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.sampling import Sampler

_PARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_HTTP: Final = "http/protobuf"
_SAMPLERS: Final = ("always_on", "always_off", "traceidratio")

Value = str | bool | int | float


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Where a request stands: its own span if it is sampled, else that of whoever sent it."""

    trace_id: int
    span_id: int
    parent_id: int = 0  # 0: it is the root
    is_sampled: bool = False

    @property
    def hex_id(self) -> str:
        """The trace's id as logs spell it."""
        return f"{self.trace_id:032x}"

    @property
    def header(self) -> str:
        """As `traceparent` and `traceresponse` spell it."""
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{int(self.is_sampled):02x}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request when all is over. Times are monotonic seconds; `error` is a code, "" if there was none."""

    name: str
    started_s: float
    ended_s: float
    error: str = ""
    attributes: Mapping[str, Value] = field(default_factory=dict)
    moments: tuple[TimelineEvent, ...] = ()


class Processor(Protocol):
    """Where ended spans go; opentelemetry's BatchSpanProcessor is one."""

    def on_end(self, span: "ReadableSpan") -> None:
        """Take it; never wait."""
        ...

    def shutdown(self) -> None:
        """Send what is left."""
        ...


def read_trace(traceparent: str | None) -> Trace | None:
    """The sender's place, its `is_sampled` his wish; None if he says nothing, or nothing well formed."""
    found = _PARENT.fullmatch(traceparent or "")
    if found is None or found[1] == "ff":
        return None
    trace_id, span_id, flags = (int(part, 16) for part in found.groups()[1:])
    if not trace_id or not span_id:
        return None
    return Trace(trace_id=trace_id, span_id=span_id, is_sampled=bool(flags & 1))


class Tracing:
    """Decides which requests are traced, and tells of those."""

    def __init__(self, sampler: "Sampler", processor: Processor, resource: "Resource") -> None:
        self._sampler, self._processor, self._resource = sampler, processor, resource

    def begin(self, sender: Trace | None) -> Trace | None:
        """A place below the sender's, or at the root of a new trace; what is not sampled keeps the sender's."""
        from opentelemetry.sdk.trace.sampling import Decision

        trace_id = sender.trace_id if sender else random.getrandbits(128) or 1
        sampled = self._sampler.should_sample(_context_of(sender), trace_id, "request").decision
        if sampled is not Decision.RECORD_AND_SAMPLE:
            return sender and Trace(trace_id=trace_id, span_id=sender.span_id, is_sampled=False)
        span_id = random.getrandbits(64) or 1
        return Trace(trace_id=trace_id, span_id=span_id, parent_id=sender.span_id if sender else 0, is_sampled=True)

    def ended(self, trace: Trace, request: Request) -> None:
        """A sampled request is over: its span, its moments as events."""
        from opentelemetry.sdk.trace import Event, ReadableSpan
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope
        from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

        offset_s = time.time() - time.monotonic()

        def at(moment_s: float) -> int:
            return round((moment_s + offset_s) * 1e9)

        def context(span_id: int, *, is_remote: bool = False) -> SpanContext:
            return SpanContext(trace.trace_id, span_id, is_remote=is_remote, trace_flags=TraceFlags(1))

        span = ReadableSpan(
            request.name,
            context=context(trace.span_id),
            parent=context(trace.parent_id, is_remote=True) if trace.parent_id else None,
            resource=self._resource,
            attributes={**request.attributes, **({"error.type": request.error} if request.error else {})},
            events=[Event(each.name, dict(each.numbers), at(each.at_s)) for each in request.moments],
            kind=SpanKind.SERVER,
            status=Status(StatusCode.ERROR if request.error else StatusCode.UNSET),
            start_time=at(request.started_s),
            end_time=at(request.ended_s),
            instrumentation_scope=InstrumentationScope("twolane.worker"),
        )
        self._processor.on_end(span)

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

    resource = Resource.create({} if "OTEL_SERVICE_NAME" in environment else {"service.name": "twolane-worker"})
    try:
        sampler = TracerProvider(resource=resource, shutdown_on_exit=False).sampler  # as OTEL_TRACES_SAMPLER says
        processor = BatchSpanProcessor(OTLPSpanExporter())  # as OTEL_BSP_* and OTEL_EXPORTER_OTLP_* say
    except ValueError as fault:
        raise BadSetting(f"OTEL_*: {fault}") from fault
    return Tracing(sampler, processor, resource)


def _is_wanted(environment: Mapping[str, str]) -> bool:
    """Raises BadSetting for what would otherwise be ignored in silence."""
    chosen = environment.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or chosen == "none":
        return False
    if chosen not in ("", "otlp"):
        raise BadSetting(f"OTEL_TRACES_EXPORTER: {chosen!r} is neither otlp nor none")
    if not chosen and not any(environment.get(name) for name in _ENDPOINTS):
        return False
    for name in _PROTOCOLS:
        if environment.get(name, "").strip() not in ("", _HTTP):
            raise BadSetting(f"{name}: only {_HTTP} is spoken here, not {environment[name]!r}")
    sampler = environment.get("OTEL_TRACES_SAMPLER", "").strip().lower()
    if sampler not in ("", *(parent + kind for parent in ("", "parentbased_") for kind in _SAMPLERS)):
        raise BadSetting(f"OTEL_TRACES_SAMPLER: {sampler!r} is not a sampler of OpenTelemetry")
    return True


def _context_of(sender: Trace | None) -> "Context":
    """The sender as the SDK's samplers know him; nobody is an empty context."""
    from opentelemetry.context import Context
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

    if sender is None:
        return Context()
    flags = TraceFlags(int(sender.is_sampled))
    span = SpanContext(sender.trace_id, sender.span_id, is_remote=True, trace_flags=flags)
    return set_span_in_context(NonRecordingSpan(span), Context())
