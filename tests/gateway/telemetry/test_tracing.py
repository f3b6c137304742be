"""Tracing: when it is enabled, which requests are recorded, and the contents of their spans."""

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON

from gateway.enums import Outcome
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.tracing import Tracing
from twolane.process.trace_context import Trace, trace_of
from twolane.process.tracing.span import Kind, Span
from twolane.process.tracing.tracer import Tracer

CALLER = trace_of(f"{0xABC:032x}", f"{0xDEF:016x}", flags=1, state="vendor=1")


class Kept:
    """A span processor that keeps all spans."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    def on_end(self, span: Span) -> None:
        self.spans.append(span)

    def shutdown(self) -> None:
        """Nothing to export."""


def tracing(sampler: Any = ALWAYS_ON) -> tuple[Tracing, list[Span]]:
    kept = Kept()
    tracer = Tracer(sampler, kept, Resource({"service.name": "test"}))
    return Tracing(tracer, {"fast": "twolane", "quality": "openai"}.__getitem__), kept.spans


def traced(decision: Any, trace: Trace, **changes: Any) -> Any:
    """The decision of a recorded request, with the span ids of its attempts."""
    plain = decision(trace=trace, **changes)
    attempts = [replace(each, span_id=trace.child_id(n)) for n, each in enumerate(plain.attempts, 1)]
    return replace(plain, attempts=tuple(attempts))


def test_a_sampled_request_stands_below_its_caller_and_above_its_attempts(decision: Any) -> None:
    tracer, spans = tracing()
    trace = tracer.begin(CALLER)
    tracer.decided_all([traced(decision, trace)])
    request, *attempts = spans
    assert (request.kind, request.parent_id) == (Kind.SERVER, CALLER.span_id)
    assert {span.trace_id for span in spans} == {CALLER.trace_id}
    assert [(span.kind, span.parent_id) for span in attempts] == [(Kind.CLIENT, trace.span_id)] * 2
    assert [span.name for span in spans] == ["chat edits", "chat fast", "chat quality"]
    assert [span.is_error for span in attempts] == [True, False]
    assert attempts[0].attributes["error.type"] == "invalid_output"
    assert attempts[1].attributes["gen_ai.usage.output_tokens"] == 40
    assert [event.attributes["twolane.outcome"] for event in request.events] == ["circuit_open"]
    assert len({span.span_id for span in spans}) == 3


@pytest.mark.parametrize(
    ("path", "operation"),
    [
        ("/v1/chat/completions", "chat"),
        ("/v1/edit/completions", "chat"),
        ("/v1/completions", "text_completion"),
        ("/v1/fim/completions", "text_completion"),
        ("/v1/embeddings", "embeddings"),
    ],
)
def test_spans_say_which_api_was_called(decision: Any, path: str, operation: str) -> None:
    tracer, spans = tracing()
    tracer.decided_all([traced(decision, tracer.begin(None), api_path=path)])
    assert spans[0].attributes["url.path"] == path
    assert [span.attributes["gen_ai.operation.name"] for span in spans] == [operation] * 3
    assert [span.name for span in spans] == [f"{operation} {name}" for name in ("edits", "fast", "quality")]


def test_spans_last_as_long_as_the_decision_says(decision: Any) -> None:
    tracer, spans = tracing()
    tracer.decided_all([traced(decision, tracer.begin(None), timings_ms={"classify": 2.0})])
    request, first, _ = spans
    assert abs(request.start_ns - (1767225600 * 10**9 - 2 * 10**6)) < 1000
    assert request.end_ns - request.start_ns == 212 * 10**6
    assert first.start_ns - request.start_ns == 400_000
    assert first.end_ns - first.start_ns == pytest.approx(57.8 * 10**6)


def test_a_root_has_no_parent_and_an_error_says_so(decision: Any) -> None:
    tracer, spans = tracing()
    tracer.decided_all([traced(decision, tracer.begin(None), attempts=(), target=None, outcome=Outcome.ERROR)])
    assert (spans[0].parent_id, spans[0].is_error) == (0, True)
    assert spans[0].attributes["error.type"] == "no_route"


def test_one_that_is_not_sampled_costs_no_span_and_tells_its_targets_so(decision: Any) -> None:
    tracer, spans = tracing(ALWAYS_OFF)
    below, root = tracer.begin(CALLER), tracer.begin(None)
    tracer.decided_all([traced(decision, below)])
    tracer.decided_all([decision()])
    assert spans == []
    assert below.traceparent == f"00-{CALLER.trace_id:032x}-{CALLER.span_id:016x}-00"
    assert root.traceparent.endswith("-00")


def test_samples_of_a_recorded_request_point_to_its_trace(decision: Any) -> None:
    metrics, (tracer, _) = Metrics(), tracing()
    trace = tracer.begin(None)
    metrics.decided_all([decision(trace=trace)])
    metrics.decided_all([decision(trace=CALLER)])
    metrics.gauges.refresh()
    page, _ = metrics.render("application/openmetrics-text")
    assert f'# {{trace_id="{trace.hex_id}"}}'.encode() in page
    assert CALLER.hex_id.encode() not in page
    assert b"trace_id" not in metrics.render()[0]


@pytest.mark.slow
def test_without_an_exporter_nothing_of_opentelemetrys_sdk_is_imported() -> None:
    """FastAPI imports OpenTelemetry's API itself."""
    code = "import sys, gateway.app; print([m for m in sys.modules if m.startswith(('opentelemetry.sdk', 'requests'))])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout.strip() == "[]"
    )


def test_an_attempt_names_its_provider_and_the_status_that_it_sent(decision: Any) -> None:
    tracer, spans = tracing()
    first, _, last = decision().attempts
    attempts = (replace(first, status=503, stream=True), last)
    tracer.decided_all([traced(decision, tracer.begin(None), attempts=attempts)])
    request, *others = spans
    assert request.attributes["gen_ai.provider.name"] == "twolane"
    assert [span.attributes["gen_ai.provider.name"] for span in others] == ["twolane", "openai"]
    assert [span.attributes.get("http.response.status_code") for span in spans] == [200, 503, None]


def test_what_the_conventions_have_for_streams_is_said_of_streams_alone(decision: Any) -> None:
    names = {"gen_ai.request.stream", "gen_ai.response.time_to_first_chunk"}
    for stream in (False, True):
        tracer, spans = tracing()
        *_, last = decision().attempts
        attempts = (replace(last, stream=stream),)
        tracer.decided_all([traced(decision, tracer.begin(None), attempts=attempts, stream=stream)])
        for span in spans:
            assert names & set(span.attributes) == (names if stream else set())
