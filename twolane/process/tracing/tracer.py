"""Tracing with OpenTelemetry. The standard `OTEL_*` variables configure whether and where spans are exported, and which
requests are sampled.

Without an exporter, OpenTelemetry's SDK is not imported. A request is sampled or not when it arrives; each program
creates its spans when a request has ended and passes them to a batch processor of its own. There is no global provider.
"""

import random
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

from twolane.process.errors import ConfigurationError
from twolane.process.trace_context import SAMPLED, Trace, trace_of
from twolane.process.tracing.span import Span

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace.sampling import Sampler

_EXPORTER: Final = "OTEL_TRACES_EXPORTER"
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_SAMPLER: Final = "OTEL_TRACES_SAMPLER"
_INSTANCE: Final = "service.instance.id"
_HTTP: Final = "http/protobuf"
_LOW_BITS: Final = (1 << 64) - 1  # as many as TraceIdRatioBased looks at
_ROOTS: Final = 32  # made together
_NO_ID: Final = "0" * 16
_SAMPLERS: Final = tuple(
    parent + kind for parent in ("", "parentbased_") for kind in ("always_on", "always_off", "traceidratio")
)


class Processor(Protocol):
    """Receives ended spans; OpenTelemetry's BatchSpanProcessor implements it."""

    def on_end(self, span: Any) -> None:
        """Accept a Span without waiting."""
        ...

    def shutdown(self) -> None:
        """Export what is left."""
        ...


class Tracer:
    """Assigns requests to traces and exports their spans. `resource` is what all of them are of."""

    def __init__(self, sampler: "Sampler", processor: Processor, resource: "Resource") -> None:
        self._sampler, self._processor, self.resource = sampler, processor, resource
        self._bound = _bound_of(sampler)
        self._follows_callers = _follows_callers(sampler)
        self._roots: list[Trace] = []

    def begin(self, caller: Trace | None) -> Trace:
        """The context of a request: a child of its caller, or the root of a new trace. The context of an unsampled
        request states that, so that the servers it calls do not start traces of their own."""
        if caller is not None and self._follows_callers:
            return _child(caller) if caller.flags else caller
        if caller is not None or self._bound is None:
            return self._begin(caller)
        roots = self._roots
        if not roots:
            roots += _new_roots(self._bound)
        return roots.pop()

    def _begin(self, caller: Trace | None) -> Trace:
        """As the sampler says."""
        from opentelemetry.sdk.trace.sampling import Decision

        made = _child(caller) if caller else trace_of(_hex_id(128), _hex_id(64), flags=SAMPLED, is_recorded=True)
        sampled = self._sampler.should_sample(_context_of(caller), made.trace_id, "request")
        if sampled.decision is Decision.RECORD_AND_SAMPLE:
            return made
        return (caller or made).unsampled()

    def export(self, spans: Iterable[Span]) -> None:
        """Queue ended spans; never waits."""
        for span in spans:
            self._processor.on_end(span)

    def close(self) -> None:
        """Export the remaining spans, within the exporter's own timeouts."""
        self._processor.shutdown()


def open_tracer(
    environment: Mapping[str, str],
    *,
    service: str,
    scope: str,
    version: str | None = None,
    instance: str | None = None,
) -> Tracer | None:
    """None unless an exporter is configured: `OTEL_TRACES_EXPORTER=otlp`, or an endpoint for OTLP. `service` is the
    service name if OTEL_SERVICE_NAME is not set, `instance` the ID of this process among those of the service unless
    OTEL_RESOURCE_ATTRIBUTES has one; `scope` and `version` are those of the code. Raises ConfigurationError."""
    if not _has_exporter(environment):
        return None
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    from twolane.process.tracing.otlp import exporter_of

    resource = Resource.create({} if "OTEL_SERVICE_NAME" in environment else {"service.name": service})
    if instance is not None and _INSTANCE not in environment.get("OTEL_RESOURCE_ATTRIBUTES", ""):
        resource = resource.merge(Resource({_INSTANCE: instance}))
    try:
        sampler = TracerProvider(resource=resource, shutdown_on_exit=False).sampler  # configured by OTEL_TRACES_SAMPLER
        processor = BatchSpanProcessor(exporter_of(resource, InstrumentationScope(scope, version)))  # by OTEL_BSP_*
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
    """New traces with a smaller number in the low bits of their id are sampled, by OpenTelemetry's usual samplers,
    which cost more than everything else that a request pays for not being sampled. None for other samplers."""
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, TraceIdRatioBased

    root = getattr(sampler, "_root", None) if isinstance(sampler, ParentBased) else sampler
    if root is ALWAYS_ON or root is ALWAYS_OFF:
        return 0 if root is ALWAYS_OFF else 1 << 64
    return root.bound if type(root) is TraceIdRatioBased else None


def _new_roots(bound: int) -> list[Trace]:
    """Several, in less than half of the time that they take one by one. Ids are random texts, and compared as texts."""
    limit = f"{bound:016x}" if bound <= _LOW_BITS else "g"  # no digit is as large
    digits, roots = _NO_ID, []
    while _NO_ID in digits:  # an id, or what looks like one
        digits = random.randbytes(_ROOTS * 24).hex()  # noqa: S311 - ids are no secrets
    for at in range(0, len(digits), 48):
        hex_id, hex_span = digits[at : at + 32], digits[at + 32 : at + 48]
        if hex_id[16:] < limit:
            roots.append(trace_of(hex_id, hex_span, flags=SAMPLED, is_recorded=True))
        else:
            roots.append(Trace(traceparent=f"00-{hex_id}-{hex_span}-00"))
    return roots


def _hex_id(bits: int) -> str:
    return f"{random.getrandbits(bits) or 1:0{bits // 4}x}"


def _child(caller: Trace) -> Trace:
    """A recorded span below its caller's."""
    hex_span, parent_id = _hex_id(64), caller.span_id
    return trace_of(caller.hex_id, hex_span, flags=SAMPLED, parent_id=parent_id, state=caller.state, is_recorded=True)


def _follows_callers(sampler: "Sampler") -> bool:
    """Whether the sampler records what the caller does, as all that begin with `parentbased_` do."""
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased

    ways = [getattr(sampler, f"_remote_parent_{name}", None) for name in ("sampled", "not_sampled")]
    return type(sampler) is ParentBased and ways[0] is ALWAYS_ON and ways[1] is ALWAYS_OFF


def _context_of(caller: Trace | None) -> "Context":
    """The caller's context in the form that the SDK's samplers expect; empty without a caller."""
    from opentelemetry.context import Context
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

    if caller is None:
        return Context()
    flags = TraceFlags(caller.flags)
    span = SpanContext(caller.trace_id, caller.span_id, is_remote=True, trace_flags=flags)
    return set_span_in_context(NonRecordingSpan(span), Context())
