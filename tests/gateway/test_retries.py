"""Retries at the same target after a failed attempt: when, how often, and never as a storm. In virtual time."""

import asyncio
from typing import Any

import pytest

from gateway.errors import AttemptFailed, NotResident, Overloaded, Refused, TargetMisconfigured
from gateway.policy_types import Retry
from gateway.upstreams.scripted import fails, says


async def once(scene: Any, **body: Any) -> tuple[Any, Any]:
    sent = await scene.send(**body)
    return sent, scene


def test_a_broken_attempt_is_made_again_where_the_target_says_so(play: Any) -> None:
    async def story(scene: Any) -> Any:
        for _ in range(4):
            await scene.send()  # earn it
        scene.listener.decisions.clear()
        return await once(scene)

    sent, scene = play(
        story, fast=[*[says("hi")] * 4, fails(), says("again")], quality=says("no"),
        fast_target={"retry": Retry(max_share=0.2)},
    )  # fmt: skip
    assert sent.text == "again"
    assert [str(each.outcome) for each in scene.decision.attempts] == ["upstream_error", "ok"]
    assert (scene.decision.fallback, scene.decision.target) == (None, "fast")
    assert scene.targets["quality"].calls == []


def test_answers_that_were_merely_bad_are_not_asked_for_again(play: Any) -> None:
    _, scene = play(once, fast=fails(Refused("no")), quality=says("hi"), fast_target={"retry": Retry(max_share=0.2)})
    assert len(scene.targets["fast"].calls) == 1


def test_a_target_that_is_down_gets_no_storm(play: Any) -> None:
    """Attempts <= 1.2 x requests that were sent to it, and the breaker makes it far less."""

    async def story(scene: Any) -> Any:
        for _ in range(200):
            await scene.send()
            await asyncio.sleep(0.05)
        return scene

    scene = play(story, fast=fails(), quality=says("hi"), fast_target={"retry": Retry(times=3, max_share=0.2)})
    told = scene.listener.decisions
    sent_to = sum(any(not each.skipped for each in one.attempts if each.target == "fast") for one in told)
    assert len(scene.targets["fast"].calls) <= 1.2 * sent_to
    assert len(scene.targets["fast"].calls) < 40
    assert {one.target for one in told} == {"quality"}


@pytest.mark.parametrize("fault", [Overloaded("full"), NotResident("cold"), Refused("no"), TargetMisconfigured("x")])
def test_answers_that_forbid_asking_again_are_not_asked_for_again(play: Any, fault: AttemptFailed) -> None:
    """429 and 503 are answers."""

    async def story(scene: Any) -> Any:
        for _ in range(20):
            await scene.send()  # earn more than enough
        return await once(scene)

    _, scene = play(
        story, fast=[*[says("hi")] * 20, fails(fault)], quality=says("hi"), fast_target={"retry": Retry(max_share=0.2)}
    )
    assert len(scene.targets["fast"].calls) == 21


@pytest.mark.parametrize("times", [1, 2])
def test_a_target_is_asked_again_no_more_often_than_it_says(play: Any, times: int) -> None:
    async def story(scene: Any) -> Any:
        for _ in range(20):
            await scene.send()  # earn four
        return await once(scene)

    _, scene = play(
        story, fast=[*[says("hi")] * 20, fails()], quality=says("hi"), fast_target={"retry": Retry(times=times)}
    )
    assert len(scene.targets["fast"].calls) == 20 + 1 + times


def test_retries_earn_no_retries(play: Any) -> None:
    """Every second attempt fails and is retried: 25 requests earn five retries, and retries earn none."""

    async def story(scene: Any) -> Any:
        for _ in range(25):
            await scene.send()
        return scene

    lines = [says("hi")] * 20
    for _ in range(10):
        lines += [fails(), says("hi")]
    scene = play(story, fast=lines, quality=says("hi"), fast_target={"retry": Retry(max_share=0.2)})
    assert len(scene.targets["fast"].calls) == 25 + 5
    earned = scene.state.snapshot(0.0).retries
    assert [round(budget.balance, 6) for _, budget in earned] == [0.0]
