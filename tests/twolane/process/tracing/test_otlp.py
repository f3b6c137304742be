"""Spans are exported as OpenTelemetry's own encoder and exporter do."""

import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, cast
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from twolane.process.tracing import otlp
from twolane.process.tracing.otlp import Encoder, exporter_of, readable
from twolane.process.tracing.span import Attributes, Event, Kind, Span

TEXTS = st.text(max_size=6) | st.text("é", max_size=300)
NUMBERS = st.integers(-(1 << 63), (1 << 63) - 1)
ATTRIBUTES = st.dictionaries(
    st.text(max_size=3),
    TEXTS | st.booleans() | NUMBERS | st.integers(0, 1) | st.floats() | st.lists(TEXTS, max_size=3).map(tuple),
    max_size=4,
)
TIMES, IDS = st.integers(1, (1 << 64) - 1), st.integers(1, (1 << 64) - 1)
SPANS = st.builds(
    Span,
    name=TEXTS,
    trace_id=st.integers(1, (1 << 128) - 1),
    span_id=IDS,
    parent_id=IDS | st.just(0),
    is_parent_remote=st.booleans(),
    kind=st.sampled_from(Kind),
    start_ns=TIMES,
    end_ns=TIMES,
    attributes=ATTRIBUTES,
    events=st.lists(st.builds(Event, name=TEXTS, at_ns=TIMES, attributes=ATTRIBUTES), max_size=3).map(tuple),
    is_error=st.booleans(),
)
OWNERS = st.tuples(
    st.builds(Resource, ATTRIBUTES, TEXTS), st.builds(InstrumentationScope, TEXTS, TEXTS, TEXTS, ATTRIBUTES)
)

OWN = Resource({"service.name": "test"}), InstrumentationScope("twolane.test", "1")


def span(**changes: Any) -> Span:
    return Span(**{"name": "a", "trace_id": 1, "span_id": 2, "start_ns": 3, "end_ns": 4} | changes)


@given(st.lists(SPANS, min_size=1, max_size=4), OWNERS)
def test_spans_are_encoded_as_opentelemetry_encodes_them(
    spans: list[Span], owners: tuple[Resource, InstrumentationScope]
) -> None:
    theirs = encode_spans([readable(span, *owners) for span in spans]).SerializePartialToString()
    assert Encoder(*owners)(spans).SerializePartialToString() == theirs


@pytest.mark.parametrize("attributes", [{"n": 1 << 63}, {"n": -(1 << 63) - 1}])
def test_numbers_that_otlp_cannot_represent_are_left_out(attributes: Attributes) -> None:
    made = ExportTraceServiceRequest.FromString(Encoder(*OWN)([span(attributes=attributes | {"after": 1})]))
    assert [each.key for each in made.resource_spans[0].scope_spans[0].spans[0].attributes] == ["after"]


def test_text_that_is_not_unicode_does_not_cost_the_batch() -> None:
    made = ExportTraceServiceRequest.FromString(Encoder(*OWN)([span(name="\ud800", attributes={"x": "a\udfff"})]))
    [found] = made.resource_spans[0].scope_spans[0].spans
    assert (found.name, found.attributes[0].value.string_value) == ("?", "a?")


class Collector(HTTPServer):
    """Refuses the first request for a moment, and keeps what it receives."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Posted)
        self.heads: list[dict[str, str]] = []
        self.bodies: list[bytes] = []


class Posted(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        kept = self.server
        kept.heads.append({name.lower(): value for name, value in self.headers.items()} | {"path": self.path})
        kept.bodies.append(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(503 if len(kept.bodies) == 1 else 200)
        self.send_header("retry-after", "0")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Silence."""


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with Collector() as made:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{made.server_port}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=a")
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield made
        finally:
            made.shutdown()
            thread.join()


@pytest.mark.parametrize("is_known", [True, False])
def test_an_export_is_opentelemetrys_with_its_headers_compression_and_retries(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, is_known: bool
) -> None:
    if not is_known:  # a version of OpenTelemetry that encodes in another way
        monkeypatch.setattr(otlp, "_CALLED", ("encode_spans", "with_another_name"))
    exporter = exporter_of(*OWN)
    assert isinstance(exporter, otlp._Converting) is not is_known
    assert exporter.export([span()]) is SpanExportResult.SUCCESS
    exporter.shutdown()
    assert exporter.export([span()]) is SpanExportResult.FAILURE
    first, second = (gzip.decompress(body) for body in collector.bodies)
    assert first == second == encode_spans([readable(span(), *OWN)]).SerializeToString()
    for head in collector.heads:
        assert (head["path"], head["x-tenant"]) == ("/v1/traces", "a")
        assert (head["content-type"], head["content-encoding"]) == ("application/x-protobuf", "gzip")


def test_the_installed_exporter_takes_our_encoder() -> None:
    assert not isinstance(exporter_of(*OWN), otlp._Converting)


def test_the_batch_processor_queues_our_spans_and_exports_them_at_shutdown() -> None:
    exported: list[Any] = []
    exporter = Mock(export=exported.extend)
    processor = BatchSpanProcessor(exporter)
    processor.on_end(cast("Any", span()))
    processor.shutdown()
    assert exported == [span()]
