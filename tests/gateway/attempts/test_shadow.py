"""Shadow traffic: a share of requests is copied and compared, and clients never notice. In virtual time."""

import asyncio
from typing import Any

import pytest

from gateway.attempts import shadow
from gateway.attempts.shadow import MAX_CONCURRENT
from gateway.enums import Outcome, ShadowResult
from gateway.upstreams.scripted import fails, says
from tests.gateway.virtual import LoopClock, run_virtual
from twolane.process.http.byte_budget import HOLDING, ByteBudget

ALL = {"shadow": ("careful", 1.0)}


def play(stage: Any, story: Any, **given: Any) -> Any:
    async def run() -> Any:
        scene = stage(clock=LoopClock(), **given)
        returned = await story(scene)
        await asyncio.sleep(100)
        await scene.pipeline.aclose()
        assert sum(scene.state._in_flight.values()) == 0
        return scene, returned

    return run_virtual(run())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("line", "result"),
    [
        (says("h", "i "), ShadowResult.SAME),
        (says("ho"), ShadowResult.DIFFERENT),
        (fails(), ShadowResult.FAILED),
        (says("hi", before_s=99), ShadowResult.FAILED),  # shadow requests have a deadline
    ],
)
def test_the_shadow_response_is_compared_and_never_served(
    stage: Any, stream: bool, line: Any, result: ShadowResult
) -> None:
    scene, sent = play(stage, lambda s: s.send(stream=stream), fast=says("hi"), careful=line, route=ALL)
    assert sent.text == "hi"
    assert scene.attempts == {"fast": "ok"}
    assert len(scene.listener.decisions) == 1
    assert [(each.route, each.target, each.result) for each in scene.listener.mirrors] == [("main", "careful", result)]


@pytest.mark.parametrize(("fast", "careful", "results"), [(9, 5, []), (5, 9, [ShadowResult.DIFFERENT])])
def test_a_response_that_is_too_long_to_be_kept_is_not_mirrored(
    stage: Any, monkeypatch: pytest.MonkeyPatch, fast: int, careful: int, results: list[ShadowResult]
) -> None:
    monkeypatch.setattr(shadow, "MAX_COMPARED_CHARS", 8)
    lines = {"fast": says(*"x" * fast), "careful": says(*"x" * careful)}
    scene, sent = play(stage, lambda s: s.send(stream=True), **lines, route=ALL)
    assert (sent.text, len(scene.targets["careful"].calls)) == ("x" * fast, len(results))
    assert [each.result for each in scene.listener.mirrors] == results


def test_json_is_compared_by_value(stage: Any) -> None:
    scene, _ = play(stage, lambda s: s.send(), fast=says('{"a": 1, "b": 2}'), careful=says('{"b":2,"a":1}'), route=ALL)
    assert scene.listener.mirrors[0].result is ShadowResult.SAME


def test_the_client_gets_its_response_before_the_shadow_request_starts(stage: Any) -> None:
    async def story(scene: Any) -> Any:
        await scene.send()
        return scene.clock.now_s(), len(scene.targets["careful"].calls)

    _, (ended_s, asked) = play(stage, story, fast=says("hi"), careful=says("hi", before_s=5), route=ALL)
    assert (ended_s, asked) == (1000.0, 0)


def test_only_the_share_is_shadowed(stage: Any) -> None:
    for share, asked in ((0.51, 1), (0.49, 0)):  # the stage's random sample is 0.5
        scene, _ = play(
            stage, lambda s: s.send(), fast=says("hi"), careful=says("hi"), route={"shadow": ("careful", share)}
        )
        assert len(scene.targets["careful"].calls) == asked


def test_a_response_that_was_not_served_is_not_shadowed(stage: Any) -> None:
    scene, _ = play(stage, lambda s: s.send(), fast=fails(), careful=says("hi"), route=ALL)
    assert scene.decision.outcome is Outcome.ERROR
    assert scene.targets["careful"].calls == []


def test_a_private_request_has_no_shadow_outside(stage: Any) -> None:
    outside = {"careful_target": {"location": "external"}}
    for private, asked in ((True, 0), (False, 1)):
        scene, _ = play(
            stage, lambda s, p=private: s.send(metadata={"private": p}), fast=says("hi"), careful=says("hi"), route=ALL,
            **outside,
        )  # fmt: skip
        assert len(scene.targets["careful"].calls) == asked


def test_slow_shadow_requests_are_limited_and_end_with_the_gateway(stage: Any) -> None:
    async def story(scene: Any) -> Any:
        for _ in range(3 * MAX_CONCURRENT):
            await scene.send()
        await asyncio.sleep(1)
        asked = len(scene.targets["careful"].calls)
        await scene.pipeline.aclose()
        return asked

    scene, asked = play(stage, story, fast=says("hi"), careful=says("hi", before_s=50), route=ALL)
    assert asked == MAX_CONCURRENT == scene.targets["careful"].left


@pytest.mark.parametrize(("limit", "asked"), [(1 << 20, 1), (10, 0)], ids=["enough bytes", "too few bytes"])
def test_a_shadow_request_holds_bytes_of_its_own_until_it_ends(stage: Any, limit: int, asked: int) -> None:
    async def story(scene: Any) -> Any:
        budget = ByteBudget(limit)
        with budget.hold() as served:
            served.assign("ann")
            HOLDING.set(served)
            await scene.send()
        await asyncio.sleep(1)
        during = budget.used
        await asyncio.sleep(100)
        return during, budget.used

    scene, (during, after) = play(stage, story, fast=says("hi"), careful=says("hi", before_s=50), route=ALL)
    assert len(scene.targets["careful"].calls) == asked
    assert (during > 0, after) == (bool(asked), 0)
