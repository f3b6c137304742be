"""Tracing: when it is enabled, which requests are sampled, and their position in a trace."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    DEFAULT_OFF,
    DEFAULT_ON,
    Decision,
    ParentBased,
    Sampler,
    TraceIdRatioBased,
)
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

from twolane.process.errors import ConfigurationError
from twolane.process.trace_context import trace_of
from twolane.process.tracing.span import Span
from twolane.process.tracing.tracer import Tracer, open_tracer

CALLER = trace_of(f"{0xABC:032x}", f"{0xDEF:016x}", flags=1, state="vendor=1")
SAMPLERS: list[Sampler] = [
    *(TraceIdRatioBased(0.25), ParentBased(TraceIdRatioBased(0.75)), TraceIdRatioBased(1.0)),
    *(DEFAULT_ON, DEFAULT_OFF, ALWAYS_ON, ALWAYS_OFF),
]
ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}


class Kept:
    """A span processor that keeps all spans."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.is_closed = False

    def on_end(self, span: Span) -> None:
        self.spans.append(span)

    def shutdown(self) -> None:
        self.is_closed = True


def tracer(sampler: Any = ALWAYS_ON, processor: Kept | None = None) -> Tracer:
    return Tracer(sampler, processor or Kept(), Resource({}))


def test_a_sampled_request_stands_below_its_caller_or_at_a_root_of_its_own() -> None:
    below, root = tracer().begin(CALLER), tracer().begin(None)
    assert (below.trace_id, below.parent_id, below.state) == (CALLER.trace_id, CALLER.span_id, "vendor=1")
    assert (below.flags, below.is_recorded, root.parent_id) == (1, True, 0)
    assert below.span_id not in (0, CALLER.span_id)


def test_one_that_is_not_sampled_stays_invisible_and_says_so() -> None:
    below, root = tracer(ALWAYS_OFF).begin(CALLER), tracer(ALWAYS_OFF).begin(None)
    assert below == CALLER.unsampled()
    assert (root.is_recorded, root.traceparent[-3:]) == (False, "-00")


def test_a_parent_decides_for_its_children_and_a_ratio_for_roots() -> None:
    sampling = tracer(ParentBased(TraceIdRatioBased(0.25)))
    assert sampling.begin(CALLER).is_recorded
    assert not sampling.begin(CALLER.unsampled()).is_recorded
    assert 150 < sum(sampling.begin(None).is_recorded for _ in range(1000)) < 350


@pytest.mark.parametrize(
    "sampler",
    [*SAMPLERS, ParentBased(ALWAYS_ON, ALWAYS_OFF, ALWAYS_ON), ParentBased(ALWAYS_ON, TraceIdRatioBased(0.5))],
)
def test_a_request_of_a_caller_is_sampled_if_the_sampler_would_sample_it(sampler: Sampler) -> None:
    for flags in (0, 1):
        caller = trace_of(f"{3 << 62:032x}", f"{1:016x}", flags=flags)
        span = NonRecordingSpan(SpanContext(caller.trace_id, 1, is_remote=True, trace_flags=TraceFlags(flags)))
        asked = sampler.should_sample(set_span_in_context(span, Context()), caller.trace_id, "request")
        made = tracer(sampler).begin(caller)
        assert made.is_recorded is (asked.decision is Decision.RECORD_AND_SAMPLE)
        assert (made.hex_id, made.flags) == (caller.hex_id, int(made.is_recorded))
        assert made.is_recorded is (made.span_id != caller.span_id)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_root_is_sampled_if_the_sampler_would_sample_its_id(sampler: Sampler) -> None:
    for root in (tracer(sampler).begin(None) for _ in range(100)):
        asked = sampler.should_sample(Context(), root.trace_id, "request")
        assert root.is_recorded is (asked.decision is Decision.RECORD_AND_SAMPLE)
        assert root.traceparent[-2:] == ("01" if root.is_recorded else "00")
        assert root.span_id


def test_roots_are_told_apart() -> None:
    made = tracer()
    assert len({made.begin(None).trace_id for _ in range(100)}) == 100


def test_spans_go_to_the_processor_until_it_is_closed() -> None:
    kept = Kept()
    made = tracer(processor=kept)
    spans = [Span(name=name, trace_id=1, span_id=2, start_ns=3, end_ns=4) for name in "ab"]
    made.export(iter(spans))
    made.close()
    assert (kept.spans, kept.is_closed) == (spans, True)


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER: 'zipkin' is not one of otlp, none"),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "OTEL_EXPORTER_OTLP_PROTOCOL: 'grpc' is not supported; use http/protobuf",
        ),
        (
            {**ENDPOINT, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/json"},
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL: 'http/json' is not supported; use http/protobuf",
        ),
        ({**ENDPOINT, "OTEL_TRACES_SAMPLER": "sometimes"}, "OTEL_TRACES_SAMPLER: 'sometimes' is not one of always_on"),
    ],
)
def test_what_would_be_ignored_in_silence_is_refused_by_name(environment: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        open_tracer(environment, service="x", scope="y")
    assert str(refused.value).startswith(says)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_TRACES_EXPORTER": "none", **ENDPOINT},
        {"OTEL_SDK_DISABLED": "true", "OTEL_TRACES_EXPORTER": "otlp"},
        {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://127.0.0.1:1"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
    ],
)
def test_without_an_exporter_there_is_no_tracer(environment: dict[str, str]) -> None:
    assert open_tracer(environment, service="x", scope="y") is None


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Tracer]:
    """A tracer with an exporter configured by the environment; OpenTelemetry reads the variables of the process."""
    environment = {**ENDPOINT, **request.param}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    made = open_tracer(environment, service="ours", scope="y")
    assert made is not None
    yield made
    made.close()


@pytest.mark.parametrize(
    ("opened", "name"), [({}, "ours"), ({"OTEL_SERVICE_NAME": "theirs"}, "theirs")], indirect=["opened"]
)
def test_an_endpoint_is_enough_for_a_tracer_of_this_service(opened: Tracer, name: str) -> None:
    assert opened.resource.attributes["service.name"] == name


@pytest.mark.parametrize("opened", [{"OTEL_TRACES_SAMPLER": "always_off"}], indirect=True)
def test_the_sampler_is_the_one_of_the_environment(opened: Tracer) -> None:
    assert not opened.begin(CALLER).is_recorded


def test_without_an_exporter_nothing_of_the_sdk_is_imported() -> None:
    code = (
        "import sys; from twolane.process.tracing.tracer import open_tracer; open_tracer({}, service='x', scope='y');"
        "print([m for m in sys.modules if m.startswith('opentelemetry')])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert told.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("attributes", "instance"),
    [("", "pod-1"), ("deployment.environment=a", "pod-1"), ("service.instance.id=own", "own")],
)
def test_the_instance_is_the_replica_unless_the_environment_names_one(
    monkeypatch: pytest.MonkeyPatch, attributes: str, instance: str
) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", attributes)
    made = open_tracer(
        ENDPOINT | {"OTEL_RESOURCE_ATTRIBUTES": attributes}, service="gateway", scope="y", instance="pod-1"
    )
    assert made is not None
    assert made.resource.attributes["service.instance.id"] == instance
    assert made.resource.attributes["service.name"] == "gateway"
    made.close()
