"""The confidence gate: which answers pass it, whoever gives them, and what is served where none does."""

from dataclasses import replace
from typing import Any

import pytest

from gateway.enums import Capability, Kind, OnLowConfidence, Outcome
from gateway.routing.engine_profiles import ENGINES
from gateway.routing.gates import Gate
from gateway.telemetry.decision_json import document_of
from gateway.upstreams.scripted import says
from gateway.web.headers import describe

pytestmark = pytest.mark.anyio
GATED = {"gate": Gate(minimum=0.8)}
SUREST = {"gate": Gate(minimum=0.8, otherwise=OnLowConfidence.SERVE_SUREST)}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("blank", ["", "  \n\t", "　", "\u200b\ufeff", "\x00\x07 ", "\u2800\u3164\u00ad"])
async def test_a_blank_answer_never_passes_however_sure_it_is(stage: Any, stream: bool, blank: str) -> None:
    scene = stage(fast=says(blank, confidence=0.9999), quality=says("hi"), route=GATED)
    assert (await scene.send(stream=stream)).text == "hi"
    assert scene.attempts == {"fast": "low_confidence", "quality": "ok"}
    assert scene.decision.attempts[0].detail == "blank answer"


async def test_a_tool_call_without_text_is_not_blank(stage: Any) -> None:
    call = {"content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
    scene = stage(fast=says(confidence=0.9, extra=call), quality=says("hi"), route=GATED)
    await scene.send(tools=[{"type": "function", "function": {"name": "f"}}])
    assert scene.attempts == {"fast": "ok"}


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
async def test_reasoning_without_an_answer_is_blank(stage: Any, name: str) -> None:
    thought = {"content": "", name: 'What is said of "audio": nothing.'}
    scene = stage(fast=says(confidence=0.9, extra=thought), quality=says("hi"), route=GATED)
    assert (await scene.send()).text == "hi"
    assert scene.decision.attempts[0].detail == "blank answer"


@pytest.mark.parametrize("extra", [{"audio": {"data": "UklG"}}, {"function_call": {"name": 1}}])
@pytest.mark.parametrize("thought", [{}, {"reasoning_content": "Well."}])
async def test_content_that_the_gateway_does_not_interpret_is_not_blank(
    stage: Any, extra: dict[str, Any], thought: dict[str, Any]
) -> None:
    scene = stage(fast=says(confidence=0.9, extra={"content": None, **extra, **thought}), route=GATED)
    await scene.send()
    assert scene.attempts == {"fast": "ok"}


@pytest.mark.parametrize("text", ["a", " .", "\u200d\U0001f600", "\ufffd", "é", "字"])
async def test_a_single_visible_character_is_not_blank(stage: Any, text: str) -> None:
    scene = stage(fast=says(text, confidence=0.9), route=GATED)
    assert (await scene.send()).text == text


@pytest.mark.parametrize(("confidence", "outcome"), [(0.9, "ok"), (0.7, "low_confidence")])
async def test_a_gap_between_two_texts_is_empty_if_the_target_is_sure(
    stage: Any, confidence: float, outcome: str
) -> None:
    scene = stage(fast=says("", confidence=confidence), quality=says("hi"), route=GATED)
    await scene.send(suffix="the end")
    assert scene.attempts["fast"] == outcome


async def test_a_gap_is_never_white_space_alone(stage: Any) -> None:
    """Only an empty text says that nothing is missing; how sure a target is of a space says nothing about that."""
    scene = stage(fast=says(" \n", confidence=0.99), quality=says("hi"), route=GATED)
    await scene.send(suffix="the end")
    assert scene.decision.attempts[0].detail == "blank answer"


async def test_the_gate_holds_for_a_worker_that_is_a_fallback(stage: Any) -> None:
    scene = stage(fast=says("eh", confidence=0.1), careful=says("oh", confidence=0.2), quality=says("hi"), route=GATED)
    assert (await scene.send()).text == "hi"
    assert scene.attempts == {"fast": "low_confidence", "careful": "low_confidence", "quality": "ok"}


async def test_where_nobody_passes_the_error_says_so(stage: Any) -> None:
    scene = stage(fast=says("eh", confidence=0.1), careful=says("oh", confidence=0.2), route=GATED)
    sent = await scene.send()
    assert (sent.error.status, sent.error.code, sent.error.retryable) == (502, "low_confidence", False)
    assert scene.decision.target is None


@pytest.mark.parametrize("stream", [False, True])
async def test_a_policy_may_serve_the_surest_answer_marked_as_such(stage: Any, stream: bool) -> None:
    scene = stage(fast=says("eh", confidence=0.3), careful=says("oh", confidence=0.2), route=SUREST)
    sent = await scene.send(stream=stream)
    assert sent.text == "eh"
    assert scene.decision.outcome is Outcome.OK
    assert (scene.decision.target, scene.decision.low_confidence) == ("fast", 0.3)
    assert scene.attempts == {"fast": "low_confidence", "careful": "low_confidence"}
    assert dict(describe(scene.decision))[b"x-twolane-low-confidence"] == b"0.300"
    assert document_of(scene.decision)["low_confidence"] == 0.3


async def test_the_surest_answer_is_not_served_if_it_is_blank(stage: Any) -> None:
    scene = stage(fast=says(" ", confidence=0.9), careful=says("oh", confidence=0.2), route=SUREST)
    assert (await scene.send()).text == "oh"
    alone = stage(fast=says(" ", confidence=0.9), route=SUREST)
    assert (await alone.send()).error.code == "low_confidence"


async def test_an_answer_that_passes_is_preferred_to_the_surest_and_bears_no_mark(stage: Any) -> None:
    scene = stage(fast=says("eh", confidence=0.7), careful=says("oh", confidence=0.9), route=SUREST)
    assert (await scene.send()).text == "oh"
    assert scene.decision.low_confidence is None
    assert "low_confidence" not in document_of(scene.decision)


OWN = {"fast_target": {"min_confidence": 0.8}}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("answer", "confidence"), [("eh", 0.3), (" ", 0.99)])
async def test_a_request_that_names_a_target_is_held_to_the_gate_of_the_target(
    stage: Any, stream: bool, answer: str, confidence: float
) -> None:
    scene = stage(fast=says(answer, confidence=confidence), quality=says("hi"), **OWN)
    sent = await scene.send(model="fast", stream=stream)
    assert (sent.error.status, sent.error.code) == (502, "low_confidence")
    assert scene.targets["fast"].calls[0].min_confidence == 0.8
    sure = stage(fast=says("oh", confidence=0.9), **OWN)
    assert (await sure.send(model="fast", stream=stream)).text == "oh"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_target_may_serve_whoever_names_it_a_doubtful_answer_marked_as_such(stage: Any, stream: bool) -> None:
    target = {"fast_target": {"min_confidence": 0.8, "serves_surest": True}}
    scene = stage(fast=says("eh", confidence=0.3), quality=says("hi"), **target)
    assert (await scene.send(model="fast", stream=stream)).text == "eh"
    assert dict(describe(scene.decision))[b"x-twolane-low-confidence"] == b"0.300"
    routed = stage(fast=says("eh", confidence=0.3), quality=says("hi"), **target)
    assert (await routed.send(stream=stream)).text == "hi"  # on a route, the route decides


@pytest.mark.parametrize(("route", "minimum"), [(GATED, 0.8), (SUREST, None)])
async def test_a_worker_is_told_the_minimum_unless_its_answer_may_be_served_below_it(
    stage: Any, route: Any, minimum: float | None
) -> None:
    scene = stage(fast=says("hi", confidence=0.9), route=route)
    await scene.send()
    assert scene.targets["fast"].calls[0].min_confidence == minimum


def with_logprobs(text: str, *logprobs: float) -> Any:
    """A whole answer of a server that reports log-probabilities."""
    return says(text, choice={"logprobs": {"content": [{"token": "x", "logprob": each} for each in logprobs]}})


VLLM = {"vllm_target": {"kind": Kind.OPENAI, "capabilities": ENGINES["vllm_diffusion"]}}
SGLANG = {"sglang_target": {"kind": Kind.OPENAI, "capabilities": ENGINES["sglang_diffusion"]}}


@pytest.mark.parametrize(
    ("logprobs", "outcome"), [((-0.01,) * 20, "ok"), ((-0.01,) * 12 + (-2.0,) * 8, "low_confidence")]
)
async def test_other_servers_are_gated_by_the_log_probabilities_of_their_tokens(
    stage: Any, logprobs: tuple[float, ...], outcome: str
) -> None:
    scene = stage(vllm=with_logprobs("hi", *logprobs), quality=says("oh"), route=GATED, **VLLM)
    await scene.send()
    assert scene.attempts["vllm"] == outcome
    assert scene.targets["vllm"].calls[0].wants_logprobs


@pytest.mark.parametrize("asked", [False, True])
async def test_log_probabilities_reach_only_a_client_that_asked_for_them(stage: Any, asked: bool) -> None:
    scene = stage(vllm=with_logprobs("hi", -0.01), route=GATED, **VLLM)
    sent = await scene.send(**({"logprobs": True} if asked else {}))
    assert (b'"logprob":' in sent.data[0]) is asked
    assert sent.text == "hi"


async def test_a_server_that_sends_none_of_its_log_probabilities_does_not_pass(stage: Any) -> None:
    scene = stage(vllm=says("hi"), quality=says("oh"), route=GATED, **VLLM)
    await scene.send()
    assert scene.decision.attempts[0].detail == "no confidence given"


@pytest.mark.parametrize(
    ("logprobs", "outcome"), [((), "low_confidence"), ((-0.01,), "ok"), ((-2.0,), "low_confidence")]
)
async def test_an_empty_gap_of_another_server_passes_only_if_its_end_is_sure(
    stage: Any, logprobs: tuple[float, ...], outcome: str
) -> None:
    known = ENGINES["vllm_diffusion"]
    target = {"kind": Kind.OPENAI, "capabilities": replace(known, supported=known.supported | {Capability.SUFFIX})}
    scene = stage(vllm=with_logprobs("", *logprobs), quality=says("oh"), route=GATED, vllm_target=target)
    await scene.send(suffix="the end")
    assert scene.attempts["vllm"] == outcome


async def test_a_server_without_log_probabilities_has_no_gate(stage: Any) -> None:
    scene = stage(sglang=says("hi"), quality=says("oh"), route=GATED, **SGLANG)
    assert (await scene.send()).text == "hi"
    assert not scene.targets["sglang"].calls[0].wants_logprobs
