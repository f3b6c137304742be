"""Tracing: which requests are traced, and the contents of a span."""

import subprocess
import sys
from typing import Any

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, DEFAULT_ON

from diffusion_worker.telemetry.tracing import Tracing
from diffusion_worker.types.timeline import MAX_EVENTS
from tests.worker.serving import Served, serving, toy_model
from twolane.process.tracing.span import Kind, Span
from twolane.process.tracing.tracer import Tracer

pytestmark = pytest.mark.anyio

SENDER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SECRET = "zebra"


class Kept:
    """A span processor that keeps all spans."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    def on_end(self, span: Span) -> None:
        self.spans.append(span)

    def shutdown(self) -> None:
        """Nothing to export."""


def traced(served: Served, sampler: Any = DEFAULT_ON) -> list[Span]:
    """Enable tracing in the worker; returns its spans."""
    kept = Kept()
    served.worker.serving_state.tracing = Tracing(Tracer(sampler, kept, Resource({"service.name": "test"})))
    return kept.spans


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_sampled_request_tells_waiting_prefill_and_every_step(is_stream: bool) -> None:
    async with serving(toy_model()) as served:
        spans = traced(served)
        answer = await served.ask(SECRET, headers={"traceparent": SENDER}, stream=is_stream, max_tokens=20)
    (span,) = spans
    assert answer.headers["traceresponse"] == f"00-{span.trace_id:032x}-{span.span_id:016x}-01"
    assert (span.kind, span.name) == (Kind.SERVER, "chat toy")
    assert f"{span.trace_id:032x}" == SENDER[3:35]
    assert f"{span.parent_id:016x}" == SENDER[36:52]
    names = [event.name for event in span.events]
    assert names[:2] == ["placed", "prefilled"]
    assert names.count("step") == span.attributes["twolane.worker.denoising_steps"] > 0
    assert span.start_ns <= span.events[0].at_ns <= span.events[-1].at_ns <= span.end_ns
    assert span.attributes["gen_ai.usage.output_tokens"] > 0
    assert span.attributes["twolane.worker.queue"] >= 0
    assert SECRET not in repr(span)


async def test_what_is_not_sampled_leaves_no_span_and_no_header() -> None:
    async with serving(toy_model()) as served:
        spans = traced(served)
        answer = await served.ask(headers={"traceparent": SENDER[:-2] + "00"})
        assert "traceresponse" not in answer.headers
        spans_off = traced(served, ALWAYS_OFF)
        await served.ask()
    assert spans == spans_off == []


async def test_without_tracing_nothing_is_noted() -> None:
    async with serving(toy_model()) as served:
        assert "traceresponse" not in (await served.ask(headers={"traceparent": SENDER})).headers


async def test_a_request_that_fails_says_why() -> None:
    async with serving(toy_model()) as served:
        spans = traced(served, ALWAYS_ON)
        assert (await served.ask(max_tokens=-1)).status_code == 400
    (span,) = spans
    assert span.attributes["error.type"] == "invalid_value"
    assert span.events == ()


@pytest.mark.slow
async def test_a_long_answer_has_a_bounded_number_of_events() -> None:
    async with serving(toy_model("a" * 300)) as served:
        spans = traced(served, ALWAYS_ON)
        await served.ask(model="toy:autoregressive", max_tokens=290)
    (span,) = spans
    assert len(span.events) == MAX_EVENTS
    assert span.attributes["twolane.worker.events_dropped"] > 0


@pytest.mark.slow  # a start of the worker
def test_without_an_exporter_nothing_of_opentelemetrys_sdk_is_imported() -> None:
    code = "import sys, diffusion_worker.app; print([m for m in sys.modules if m.startswith('opentelemetry.sdk')])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert told.stdout.strip() == "[]"
