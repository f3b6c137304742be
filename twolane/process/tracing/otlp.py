"""Exports spans as OTLP over HTTP: OpenTelemetry's exporter, with an encoder that costs a tenth of its own.

The encoder writes protobuf's wire format (protobuf.dev/programming-guides/encoding) of `opentelemetry/proto/trace/v1`.
Resource and scope are encoded once, by OpenTelemetry; an attribute that spans repeat is encoded once and remembered.
Everything else stays OpenTelemetry's: the variables, headers, TLS, compression, limits, timeouts, retries and metrics.
"""

import struct
from collections.abc import Sequence
from functools import lru_cache
from types import FunctionType
from typing import Any, Final

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event as SdkEvent
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from twolane.process.tracing.span import Attributes, Event, Span, Value

_REMEMBERED: Final = 1024  # attributes
# What OpenTelemetry's exporter calls, and of the result.
_CALLED: Final = ("encode_spans", "SerializePartialToString")
_INT64: Final = 1 << 63
# A tag is a field's number << 3 | its type (0: varint, 1: 8 bytes, 2: a length and so many bytes, 5: 4 bytes).
_TRACE_AND_SPAN: Final = struct.Struct(">2sQQ2sQ").pack
_PARENT: Final = struct.Struct(">2sQ").pack
_KIND_AND_TIMES: Final = struct.Struct("<cBcQcQ").pack
_TIME: Final = struct.Struct("<cQ").pack
_DOUBLE: Final = struct.Struct("<d").pack
_LOW_BITS: Final = (1 << 64) - 1
_UNSET, _ERROR = b"\x7a\x00", b"\x7a\x02\x18\x02"  # statuses
_LOCAL_PARENT, _REMOTE_PARENT = b"\x85\x01\x00\x01\x00\x00", b"\x85\x01\x00\x03\x00\x00"  # flags


class _Message(bytes):
    """An encoded message, in place of a protobuf object that is serialized."""

    def SerializePartialToString(self) -> bytes:  # noqa: N802 - protobuf's name
        return self


class Encoder:
    """Encodes spans of this resource and scope."""

    def __init__(self, resource: Resource, scope: InstrumentationScope) -> None:
        span = Span(name="", trace_id=1, span_id=1, start_ns=1, end_ns=1)
        [group] = encode_spans([readable(span, resource, scope)]).resource_spans
        [spans] = group.scope_spans
        self._resource = b"\x0a" + _sized(group.resource.SerializeToString()) + b"\x12"
        self._scope = b"\x0a" + _sized(spans.scope.SerializeToString())
        self._scope_end, self._resource_end = _text(b"\x1a", spans.schema_url), _text(b"\x1a", group.schema_url)

    def __call__(self, spans: Sequence[Span]) -> _Message:
        """The request that exports them."""
        parts = [self._scope]
        for span in spans:
            parts += (b"\x12", _sized(encode(span)))
        parts.append(self._scope_end)
        group = b"".join((self._resource, _sized(b"".join(parts)), self._resource_end))
        return _Message(b"\x0a" + _sized(group))


def exporter_of(resource: Resource, scope: InstrumentationScope) -> SpanExporter:
    """Exports batches of our spans, as the `OTEL_EXPORTER_OTLP_*` variables say. Raises ValueError."""
    export = OTLPSpanExporter.export
    if not isinstance(export, FunctionType) or not set(_CALLED) <= set(export.__code__.co_names):
        return _Converting(resource, scope)  # a version that encodes in another way
    # The method has no parameter for the encoder: it is the same code with another function of that name.
    own = FunctionType(export.__code__, {**export.__globals__, _CALLED[0]: Encoder(resource, scope)}, export.__name__)
    exporter: SpanExporter = type("Exporter", (OTLPSpanExporter,), {"export": own})()
    return exporter


class _Converting(OTLPSpanExporter):
    """Leaves the encoding to OpenTelemetry."""

    def __init__(self, resource: Resource, scope: InstrumentationScope) -> None:
        super().__init__()
        self._ours = resource, scope

    def export(self, spans: Sequence[Any]) -> SpanExportResult:
        return super().export([readable(span, *self._ours) for span in spans])


def encode(span: Span) -> bytes:
    """The message `Span`."""
    parent_id, attributes, trace_id = span.parent_id, span.attributes, span.trace_id
    parts = [
        _TRACE_AND_SPAN(b"\x0a\x10", trace_id >> 64, trace_id & _LOW_BITS, b"\x12\x08", span.span_id),
        _PARENT(b"\x22\x08", parent_id) if parent_id else b"",
        _text(b"\x2a", span.name),
        _KIND_AND_TIMES(b"\x30", span.kind, b"\x39", span.start_ns, b"\x41", span.end_ns),
        _pairs(b"\x4a", attributes) if attributes else b"",
    ]
    for event in span.events:
        parts += (b"\x5a", _sized(_event(event)))
    parts.append(_ERROR if span.is_error else _UNSET)
    parts.append(_REMOTE_PARENT if parent_id and span.is_parent_remote else _LOCAL_PARENT)
    return b"".join(parts)


def _event(event: Event) -> bytes:
    return b"".join((_TIME(b"\x09", event.at_ns), _text(b"\x12", event.name), _pairs(b"\x1a", event.attributes)))


def _pairs(tag: bytes, attributes: Attributes) -> bytes:
    parts = [b""]
    for key, value in attributes.items():
        pair = _double_head(key) + _DOUBLE(value) if type(value) is float else _pair(key, value)
        if pair:
            parts.append(pair)
    return tag.join(parts)


@lru_cache(_REMEMBERED)
def _double_head(key: str) -> bytes:
    """The message `KeyValue` with its length, but for the eight bytes of a float."""
    name = _text(b"\x0a", key)
    return _varint(len(name) + 11) + name + b"\x12\x09\x21"


@lru_cache(_REMEMBERED, typed=True)  # True and 1 are equal
def _pair(key: str, value: Value) -> bytes:
    """The message `KeyValue` with its length. Empty for a number of more than 64 bits, which OTLP has none of."""
    if isinstance(value, int) and not -_INT64 <= value < _INT64:
        return b""
    return _sized(_text(b"\x0a", key) + b"\x12" + _sized(_any_value(value)))


def _any_value(value: Value) -> bytes:
    if isinstance(value, str):
        return b"\x0a" + _sized(value.encode(errors="replace"))
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, int):
        return b"\x18" + _varint(value & _LOW_BITS)
    if isinstance(value, float):
        return b"\x21" + _DOUBLE(value)
    return b"\x2a" + _sized(b"".join([b"\x0a" + _sized(_any_value(each)) for each in value]))


def _text(tag: bytes, text: str) -> bytes:
    """A field that is absent if it is empty."""
    return tag + _sized(text.encode(errors="replace")) if text else b""


def _sized(message: bytes) -> bytes:
    return _varint(len(message)) + message


def _varint(number: int) -> bytes:
    if number < 0x80:
        return number.to_bytes()
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)


def readable(span: Span, resource: Resource, scope: InstrumentationScope) -> ReadableSpan:
    """The span in OpenTelemetry's form."""

    def context(span_id: int, *, is_remote: bool = False) -> SpanContext:
        return SpanContext(span.trace_id, span_id, is_remote=is_remote, trace_flags=TraceFlags(TraceFlags.SAMPLED))

    return ReadableSpan(
        span.name,
        context=context(span.span_id),
        parent=context(span.parent_id, is_remote=span.is_parent_remote) if span.parent_id else None,
        resource=resource,
        attributes=span.attributes,
        events=[SdkEvent(event.name, event.attributes, event.at_ns) for event in span.events],
        kind=SpanKind(span.kind - 1),
        status=Status(StatusCode.ERROR if span.is_error else StatusCode.UNSET),
        start_time=span.start_ns,
        end_time=span.end_ns,
        instrumentation_scope=scope,
    )
