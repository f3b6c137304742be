"""What an attempt keeps in memory is limited, and counted in the byte budget."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import orjson
import pytest

from gateway.attempts import kept_deltas
from gateway.enums import Kind, OnLowConfidence, RunawayScope
from gateway.errors import UpstreamError
from gateway.policy_types import READ_ALONG, Checks
from gateway.routing.gates import Gate
from gateway.types import Delta
from gateway.upstreams import parse_response, scripted
from gateway.upstreams.answers.kept_bytes import keep_bytes
from gateway.upstreams.scripted import fails, says
from gateway.web.apis.decisions import parse_decision
from twolane.process.http.byte_budget import HOLDING, ByteBudget, Holding

pytestmark = pytest.mark.anyio
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
CHECKED = {"stream": True, "response_format": FORMAT}
LONG = says('{"s": "', *["x" * 100] * 50, '"}')
NO_VALIDATE: Any = {"checks": READ_ALONG}
FULL: Any = {"checks": Checks()}


@pytest.fixture(name="holding")
def make_holding() -> Iterator[Holding]:
    with ByteBudget(1 << 30).hold() as holding:
        token = HOLDING.set(holding)
        yield holding
        HOLDING.reset(token)


@pytest.mark.parametrize("route", [NO_VALIDATE, FULL])
async def test_a_checked_stream_is_counted_whether_it_is_held_back_or_not(
    stage: Any, holding: Holding, route: Any
) -> None:
    scene = stage(fast=LONG, route=route)
    sent = await scene.send(**CHECKED)
    assert sent.broken is None
    assert holding.size >= 5000


@pytest.mark.parametrize("last", ["", '"}'])
async def test_what_a_failed_attempt_held_is_no_longer_counted(stage: Any, holding: Holding, last: str) -> None:
    """The first answer is invalid only at its end; then the other target answers."""
    long = says('{"s": "', *["x" * 100] * 50, last)
    scene = stage(fast=long, careful=fails(UpstreamError("down")), quality=says("{}"), route=FULL)
    sent = await scene.send(**CHECKED)
    assert sent.broken is None
    assert (holding.size < 3000) == (last == "")


async def test_white_space_counts_like_any_text(stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_deltas, "MAX_BUFFERED_BYTES", 4000)
    checks = replace(READ_ALONG, runaway=RunawayScope.NONE)
    scene = stage(fast=says("{", *[" " * 100] * 50, "}"), route={"checks": checks})
    sent = await scene.send(**CHECKED)
    assert sent.broken.code == "upstream_error"


async def test_a_stream_that_is_passed_on_unchecked_is_not_counted(stage: Any, holding: Holding) -> None:
    scene = stage(fast=LONG, route=NO_VALIDATE)
    await scene.send(stream=True)
    assert holding.size < 1000


@pytest.mark.parametrize(("name", "value"), [("MAX_BUFFERED_BYTES", 4000), ("MAX_BUFFERED_DELTAS", 30)])
async def test_a_checked_stream_that_is_too_large_falls_back_or_ends(
    stage: Any, monkeypatch: pytest.MonkeyPatch, name: str, value: int
) -> None:
    monkeypatch.setattr(kept_deltas, name, value)
    scene = stage(fast=LONG, quality=says("{}"), route=FULL)
    assert (await scene.send(**CHECKED)).text == "{}"
    assert scene.decision.attempts[0].detail == "answer too large"
    scene = stage(fast=LONG, quality=says("{}"), route=NO_VALIDATE)
    sent = await scene.send(**CHECKED)
    assert (sent.broken.code, sent.text[:8]) == ("upstream_error", '{"s": "x')
    scene = stage(fast=LONG, quality=says("{}"), route=NO_VALIDATE)
    assert (await scene.send(stream=True)).broken is None


@pytest.mark.parametrize("route", [NO_VALIDATE, FULL])
async def test_deltas_that_bring_nothing_are_not_kept_while_a_stream_is_held_back(
    stage: Any, holding: Holding, monkeypatch: pytest.MonkeyPatch, route: Any
) -> None:
    """Some targets send an empty text for each token that they think."""
    monkeypatch.setattr(kept_deltas, "MAX_BUFFERED_DELTAS", 300)
    scene = stage(fast=says(*[""] * 5000, "{", "}"), route=route)
    sent = await scene.send(**CHECKED)
    assert (sent.text, sent.broken) == ("{}", None)
    assert holding.size < 300_000


@pytest.fixture(name="full")
def make_full_budget() -> Iterator[Holding]:
    with ByteBudget(4000).hold() as holding:
        token = HOLDING.set(holding)
        yield holding
        HOLDING.reset(token)


async def test_an_answer_that_does_not_fit_into_the_budget_is_refused_and_no_target_is_blamed(
    stage: Any, full: Holding
) -> None:
    """It is not moved to another target either: that would be called for a shortage of the gateway."""
    scene = stage(fast=LONG, quality=says("{}"), route=FULL)
    for _ in range(20):
        sent = await scene.send(**CHECKED)
        assert (sent.error.status, sent.error.code, sent.error.retry_after_s) == (503, "overloaded", 1)
        assert full.size == 0
    assert scene.attempts == {"fast": "overloaded"}
    assert (await scene.send(stream=True)).text  # its breaker is closed, and it is called at once


async def test_what_a_failed_attempt_kept_counts_no_longer(stage: Any, full: Holding) -> None:
    invalid = says("x" * 1000)
    scene = stage(fast=invalid, quality=says('{"s": "', "x" * 1000, '"}'), route=FULL)
    sent = await scene.send(**CHECKED)
    assert (sent.error, scene.attempts) == (None, {"fast": "invalid_output", "quality": "ok"})
    assert 1000 < full.size < 4000


SUREST: Any = {"gate": Gate(minimum=0.8, otherwise=OnLowConfidence.SERVE_SUREST)}


@pytest.mark.parametrize(("last", "text", "least", "most"), [(0.9, "z", 0, 3000), (0.1, "y" * 1000, 3000, 10_000)])
async def test_of_unsure_answers_only_the_surest_is_kept_and_none_once_another_is_served(
    stage: Any, holding: Holding, last: float, text: str, least: int, most: int
) -> None:
    scene = stage(
        fast=says(*["x" * 100] * 50, confidence=0.3),
        careful=says(*["y" * 100] * 10, confidence=0.5),
        quality=says("z", confidence=last),
        quality_target={"kind": Kind.WORKER},
        route=SUREST,
    )
    sent = await scene.send(stream=True)
    assert (sent.text, sent.broken) == (text, None)
    assert least < holding.size < most


@pytest.mark.parametrize(("text", "kept"), [("", True), ("x", False)])
async def test_doubtful_answers_of_a_decision_count_until_they_are_served(
    stage: Any, holding: Holding, monkeypatch: pytest.MonkeyPatch, text: str, kept: bool
) -> None:
    """A refusal is one; a text that answers no question is not."""

    def read_delta(data: bytes) -> Delta:
        keep_bytes(len(data))
        return parse_response.read_delta(data)

    monkeypatch.setattr(scripted, "read_delta", read_delta)
    more = {"refusal": "x" * 5000} if kept else {"reasoning": "x" * 5000}
    scene = stage(fast=says(text, extra=more), quality=fails(UpstreamError("down")), route=SUREST)
    question = {"type": "predicate", "instructions": "Is it red?"}
    body = orjson.dumps({"model": "auto", "input": "A lamp", "questions": [question]})
    answer = await scene.pipeline.handle(parse_decision(body, {}, now_s=scene.clock.now_s(), key=None))
    assert ((answer.error is None), (holding.size > 5000)) == (kept, kept)
    await answer.aclose()


async def test_a_stream_that_outgrows_the_budget_later_ends_with_an_error(stage: Any, full: Holding) -> None:
    scene = stage(fast=LONG, route=NO_VALIDATE)
    sent = await scene.send(**CHECKED)
    assert sent.broken.code == "overloaded"
