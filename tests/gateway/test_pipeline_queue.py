"""Requests that wait for a full target: how long, in which order, and who does not wait."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from gateway.enums import AttemptOutcome, Outcome, TargetApi
from gateway.policy_types import Queue, Retry
from gateway.types import Call, Verdict
from gateway.upstreams.answers.whole_reply import WholeReply
from gateway.upstreams.http_client.response import ArrivedResponse
from gateway.upstreams.scripted import fails, says
from tests.gateway.stage import in_flight

FULL = {"max_in_flight": 1, "queue": Queue(max_requests=4, max_wait_ms=1000)}


async def send_as(scene: Any, key: str, **body: Any) -> Any:
    """A request with the API key of that name."""
    answer = await scene.pipeline.handle(replace(scene.query(**body), principal=key))
    try:
        return await scene.read(answer)
    finally:
        await answer.aclose()


def order_of(scene: Any) -> list[str | None]:
    """The keys of served requests in the order of their attempts."""
    served = [each for each in scene.listener.decisions if each.outcome is Outcome.OK]
    return [
        each.principal for each in sorted(served, key=lambda each: each.attempts[-1].started_ms + 1e3 * each.time_s)
    ]


def test_a_request_waits_for_a_slot_of_the_only_target_and_is_served(play: Any) -> None:
    async def story(scene: Any) -> Any:
        first, second = await asyncio.gather(scene.send(), scene.send())
        return first, second, scene.listener.decisions

    first, second, decisions = play(story, fast=says("hi", before_s=0.4), fast_target=FULL)
    assert (first.text, second.text) == ("hi", "hi")
    assert [f"{each.target}={each.outcome}" for each in decisions[1].attempts] == ["fast=overloaded", "fast=ok"]
    assert decisions[1].attempts[1].queued_ms == pytest.approx(400)
    assert decisions[1].attempts[1].elapsed_ms == pytest.approx(400)  # the wait is not the target's time
    assert decisions[1].overhead_ms == pytest.approx(0, abs=1e-6)  # nor the gateway's
    assert decisions[1].fallback is None


def test_a_free_fallback_is_preferred_to_waiting(play: Any) -> None:
    async def story(scene: Any) -> Any:
        await asyncio.gather(scene.send(), scene.send())
        return scene.listener.decisions

    given = {"fast": says("hi", before_s=0.4), "quality": says("hi", before_s=0.1)}
    decisions = play(story, **given, fast_target=FULL)
    assert sorted(each.target for each in decisions) == ["fast", "quality"]


def test_where_every_target_is_full_the_first_free_slot_is_taken(play: Any) -> None:
    async def story(scene: Any) -> Any:
        await asyncio.gather(*(scene.send() for _ in range(3)))
        return scene.listener.decisions[-1]

    given = {"fast": says("hi", before_s=0.9), "quality": says("hi", before_s=0.5)}
    last = play(story, **given, fast_target=FULL, quality_target=FULL)
    assert last.target == "quality"
    assert last.attempts[-1].queued_ms == pytest.approx(500)


def test_a_request_that_waited_too_long_is_a_503_with_retry_after(play: Any) -> None:
    async def story(scene: Any) -> Any:
        began_s = scene.clock.now_s()
        served = asyncio.create_task(scene.send())
        await asyncio.sleep(0)
        sent = await scene.send()
        took_s = scene.clock.now_s() - began_s
        await served
        return sent, took_s

    sent, took_s = play(story, fast=says("hi", before_s=5), fast_target=FULL)
    assert (sent.error.status, sent.error.code, sent.error.retry_after_s) == (503, "overloaded", 1)
    assert took_s == pytest.approx(1.0)


def test_a_request_leaves_the_queue_within_its_deadline(play: Any) -> None:
    async def story(scene: Any) -> Any:
        served = asyncio.create_task(scene.send())
        await asyncio.sleep(0)
        began_s = scene.clock.now_s()
        sent = await scene.send(headers={b"x-twolane-deadline-ms": b"300"})
        took_s = scene.clock.now_s() - began_s
        await served
        return sent, took_s

    sent, took_s = play(story, fast=says("hi", before_s=5), fast_target=FULL)
    assert (sent.error.status, sent.error.code) == (504, "deadline_exceeded")
    assert took_s == pytest.approx(0.3)


def test_a_full_queue_refuses_at_once(play: Any) -> None:
    async def story(scene: Any) -> Any:
        tasks = [asyncio.create_task(scene.send()) for _ in range(5)]
        await asyncio.sleep(0)
        began_s = scene.clock.now_s()
        sent = await scene.send()
        took_s = scene.clock.now_s() - began_s
        await asyncio.gather(*tasks)
        return sent, took_s

    sent, took_s = play(story, fast=says("hi", before_s=0.1), fast_target=FULL)
    assert (sent.error.status, took_s) == (503, 0.0)


def test_without_a_queue_nobody_waits(play: Any) -> None:
    async def story(scene: Any) -> Any:
        task = asyncio.create_task(scene.send())
        await asyncio.sleep(0)
        sent = await scene.send()
        await task
        return sent, scene.listener.decisions[0]

    sent, decision = play(
        story, fast=says("hi", before_s=0.1), fast_target={"max_in_flight": 1, "queue": Queue(max_requests=0)}
    )
    assert sent.error.status == 503
    assert len(decision.attempts) == 1


def test_keys_are_served_in_turn_and_a_flood_displaces_only_its_own(play: Any) -> None:
    async def story(scene: Any) -> Any:
        flood = [asyncio.create_task(send_as(scene, "flood")) for _ in range(8)]
        await asyncio.sleep(0)
        quiet = [asyncio.create_task(send_as(scene, "quiet")) for _ in range(2)]
        sent = await asyncio.gather(*flood, *quiet)
        return [each.error for each in sent], order_of(scene)

    errors, order = play(story, fast=says("hi", before_s=0.1), fast_target=FULL)
    assert [error is None for error in errors[8:]] == [True, True]
    assert sum(error is not None for error in errors[:8]) == 5  # one ran, two of four places were left to it
    assert order == ["flood", "flood", "quiet", "flood", "quiet"]


def test_a_client_that_leaves_while_it_waits_frees_its_place_at_once(play: Any) -> None:
    async def story(scene: Any) -> Any:
        first = asyncio.create_task(scene.send())
        await asyncio.sleep(0)
        waiting = [asyncio.create_task(scene.send()) for _ in range(4)]
        await asyncio.sleep(0.05)
        waiting[0].cancel()
        await asyncio.sleep(0)
        later = asyncio.create_task(scene.send())
        sent = await asyncio.gather(first, *waiting[1:], later)
        assert in_flight(scene) == 0
        return sent, scene.listener.decisions

    sent, decisions = play(story, fast=says("hi", before_s=0.1), fast_target=FULL)
    assert all(each.error is None for each in sent)
    assert [each.outcome for each in decisions].count(Outcome.CLIENT_GONE) == 1


def test_a_client_that_leaves_as_its_slot_is_granted_passes_it_on(play: Any) -> None:
    async def story(scene: Any) -> Any:
        held = await scene.pipeline.handle(scene.query(stream=True))
        waiting = [asyncio.create_task(scene.send()) for _ in range(2)]
        await asyncio.sleep(0.01)
        await scene.read(held)  # grants the slot to the first, who has not woken up yet
        waiting[0].cancel()
        sent = await waiting[1]
        await held.aclose()
        await asyncio.gather(*waiting, return_exceptions=True)
        return sent

    assert play(story, fast=says("hi"), fast_target=FULL).text == "hi"


def test_a_slot_that_is_refused_after_the_wait_goes_to_the_next(play: Any, monkeypatch: Any) -> None:
    """The breaker opened meanwhile: the attempt is not made, and its slot is not lost."""

    async def story(scene: Any) -> Any:
        sent = await asyncio.gather(*(scene.send() for _ in range(8)))
        await asyncio.sleep(10)
        return sent, await scene.send()

    lines = [*[fails(before_s=0.1)] * 5, says("back")]
    sent, later = play(story, fast=lines, fast_target={**FULL, "queue": Queue(max_requests=8)})
    assert {each.error.code for each in sent} <= {"upstream_error", "no_route", "overloaded"}
    assert later.text == "back"


def test_a_target_that_fails_after_the_wait_leaves_the_others_to_be_waited_for(play: Any) -> None:
    async def story(scene: Any) -> Any:
        await asyncio.gather(*(scene.send() for _ in range(3)))
        return scene.listener.decisions[-1]

    given = {"fast": [says("hi", before_s=0.1), fails()], "quality": says("hi", before_s=0.5)}
    last = play(story, **given, fast_target=FULL, quality_target=FULL)
    assert [f"{each.target}={each.outcome}" for each in last.attempts][-2:] == ["fast=upstream_error", "quality=ok"]


@pytest.mark.parametrize(("others_are_full", "outcomes"), [(True, ["deadline", "ok"]), (False, ["ok"])])
def test_an_attempt_after_the_wait_leaves_time_for_the_other_targets(
    play: Any, others_are_full: bool, outcomes: list[str]
) -> None:
    """The attempt limit holds as long as another target is left, and not for the last one."""

    async def story(scene: Any) -> Any:
        await asyncio.gather(*(scene.send() for _ in range(3 if others_are_full else 2)))
        return scene.listener.decisions[-1]

    given: dict[str, Any] = {"fast": [says("hi", before_s=0.1), says("late", before_s=20)], "fast_target": FULL}
    if others_are_full:
        given |= {"quality": says("hi", before_s=0.5), "quality_target": FULL}
    last = play(story, **given, route={"deadline_ms": 60_000, "attempt_ms": 5_000})
    assert [each.outcome for each in last.attempts if not each.skipped] == outcomes


def test_any_endpoint_of_a_full_pool_will_do(play: Any) -> None:
    async def story(scene: Any) -> Any:
        names = ("fast/1", "fast/2")
        for name, before_s in zip(names, (0.9, 0.2), strict=True):
            scene.targets[name] = type(scene.targets["fast"])([says("hi", before_s=before_s)], sleep=asyncio.sleep)
        sent = await asyncio.gather(*(scene.send() for _ in range(3)))
        return sent, scene.listener.decisions

    pool = {"max_in_flight": 1, "queue": Queue(max_wait_ms=1000)}
    sent, decisions = play(story, fast=says("hi"), fast_target={**pool, "endpoints": endpoints(pool)})
    assert all(each.error is None for each in sent)
    waited = [each.attempts[-1].queued_ms for each in decisions if each.attempts[-1].queued_ms]
    assert waited == [pytest.approx(200)]


def endpoints(pool: dict[str, Any]) -> Any:
    from gateway.enums import Kind
    from gateway.types import Target

    return tuple(
        Target(
            name=f"fast/{n}", kind=Kind.WORKER, url=f"http://{n}", model="m", location="in_cluster", pool="fast",
            **pool,
        )
        for n in (1, 2)
    )  # fmt: skip


def test_a_retry_after_a_fault_does_not_wait_behind_itself(play: Any) -> None:
    async def story(scene: Any) -> Any:
        return [(await scene.send()).error for _ in range(12)]

    lines = [*[says("hi")] * 10, fails(), says("hi")]
    errors = play(story, fast=lines, fast_target={**FULL, "retry": Retry(max_share=0.2)})
    assert errors == [None] * 12


def test_a_verdict_of_a_full_target_says_so(stage: Any) -> None:
    scene = stage(fast=says("hi"), fast_target=FULL)
    lane = scene.policy.lanes[0]
    scene.state.acquire(lane, 0, sample=0.5, healthy_fallback=False)
    refused = scene.state.acquire(lane, 0, sample=0.5, healthy_fallback=False)
    assert isinstance(refused, Verdict)
    assert (refused.is_full, refused.detail) == (True, "1 of 1 in flight")


@pytest.mark.anyio
async def test_a_whole_answer_frees_its_slot_when_it_was_sent_or_may_take_long_and_only_once(stage: Any) -> None:
    scene = stage(fast=says("never"))
    document = b'{"choices":[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}]}'

    async def arrived(_: Call) -> WholeReply:
        return WholeReply(ArrivedResponse({}, document), document, TargetApi.CHAT)

    scene.targets["fast"].send = arrived
    for frees_early in (False, True):
        answer = await scene.pipeline.handle(scene.query())
        assert answer.decision(scene.clock.now_s()).attempts[0].outcome is AttemptOutcome.OK
        assert in_flight(scene) == 1
        if frees_early:
            answer.release()
            assert in_flight(scene) == 0
        answer.sent()
        await answer.aclose()
        assert in_flight(scene) == 0
        answer.release()
        await answer.aclose()
        assert in_flight(scene) == 0
    assert [decision.attempts[0].outcome for decision in scene.listener.decisions] == [AttemptOutcome.OK] * 2
