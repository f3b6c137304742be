"""Hedging: which attempt wins, what it costs, and that nothing is left open.

In virtual time: seconds pass instantly.
"""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.enums import Outcome, Reason
from gateway.errors import Refused, UpstreamError
from gateway.policy_types import Hedge, Slo
from gateway.upstreams.scripted import fails, says

ALWAYS = Hedge(after_ms=100, max_share=1.0)


async def once(scene: Any, **body: Any) -> tuple[Any, Any]:
    sent = await scene.send(**body)
    return sent, scene


@pytest.mark.parametrize("stream", [False, True])
def test_the_hedge_wins_if_the_first_attempt_is_slow(play: Any, stream: bool) -> None:
    sent, scene = play(
        lambda scene: once(scene, stream=stream),
        fast=says("slow", before_s=5.0), quality=says("quick", before_s=0.2), route={"hedge": ALWAYS},
    )  # fmt: skip
    assert sent.text == "quick"
    assert scene.attempts == {"fast": "hedge", "quality": "ok"}
    assert (scene.decision.target, scene.decision.fallback) == ("quality", Reason.HEDGE)
    assert scene.decision.total_ms == pytest.approx(300, abs=1)
    assert scene.targets["fast"].left == 1  # cancelled


def test_of_two_attempts_that_are_ready_at_the_same_moment_the_other_is_cancelled(play: Any) -> None:
    """Otherwise its connection would stay open, because nothing reads from it."""
    sent, scene = play(
        lambda scene: once(scene, stream=True),
        fast=says("a", "b", before_s=0.3), quality=says("c", "d", before_s=0.2), route={"hedge": ALWAYS},
    )  # fmt: skip
    assert sent.text in ("ab", "cd")
    lost = "fast" if sent.text == "cd" else "quality"
    assert scene.attempts[lost] in ("hedge", "cancelled")
    assert scene.targets[lost].left == 1


def test_headers_of_a_hedged_stream_name_the_winner(play: Any) -> None:
    sent, _ = play(
        lambda scene: once(scene, stream=True),
        fast=says("a", before_s=5.0), quality=says("b"), route={"hedge": ALWAYS},
    )  # fmt: skip
    assert [(attempt.target, str(attempt.outcome)) for attempt in sent.headers.attempts] == [
        ("fast", "hedge"),
        ("quality", "ok"),
    ]


def test_the_first_attempt_may_still_win_and_then_there_is_no_fallback(play: Any) -> None:
    sent, scene = play(
        once, fast=says("first", before_s=0.3), quality=says("late", before_s=5.0), route={"hedge": ALWAYS}
    )
    assert sent.text == "first"
    assert [(each.target, str(each.outcome)) for each in scene.decision.attempts] == [
        ("fast", "ok"),
        ("quality", "hedge"),
    ]
    assert (scene.decision.target, scene.decision.fallback, scene.decision.changes) == ("fast", None, ())
    assert scene.targets["quality"].left == 1
    assert scene.decision.overhead_ms == pytest.approx(0, abs=1e-6)  # overlapping attempts count once


def test_no_hedge_is_made_for_an_answer_in_time(play: Any) -> None:
    _, scene = play(once, fast=says("first", before_s=0.05), quality=says("no"), route={"hedge": ALWAYS})
    assert scene.targets["quality"].calls == []


def test_an_invalid_response_does_not_win(play: Any) -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "integer"}}}
    sent, scene = play(
        lambda scene: once(scene, response_format=schema),
        fast=says("1", before_s=1.0), quality=says('"x"', before_s=0.1), route={"hedge": ALWAYS},
    )  # fmt: skip
    assert sent.text == "1"
    assert scene.attempts == {"fast": "ok", "quality": "invalid_output"}


def test_when_the_slow_attempt_fails_the_hedge_is_its_fallback(play: Any) -> None:
    sent, scene = play(once, fast=fails(before_s=0.2), quality=says("hi", before_s=0.5), route={"hedge": ALWAYS})
    assert sent.text == "hi"
    assert scene.attempts == {"fast": "upstream_error", "quality": "ok"}
    assert scene.decision.fallback is Reason.UPSTREAM_ERROR


def test_when_both_attempts_fail_the_remaining_candidates_are_tried(play: Any) -> None:
    sent, scene = play(
        once, fast=fails(before_s=0.2), quality=fails(before_s=0.5), third=says("hi"), route={"hedge": ALWAYS}
    )
    assert sent.text == "hi"
    assert [each.target for each in scene.decision.attempts] == ["fast", "quality", "third"]


def test_the_hedge_goes_to_another_server_and_the_skipped_candidate_stays_a_fallback(play: Any) -> None:
    _, scene = play(
        once, fast=fails(Refused("no"), before_s=1.0), careful=says("hi"), quality=fails(before_s=0.1),
        careful_target={"url": "http://fast"}, route={"hedge": ALWAYS},
    )  # fmt: skip
    assert [(each.target, str(each.outcome)) for each in scene.decision.attempts] == [
        ("fast", "refused"),
        ("quality", "upstream_error"),
        ("careful", "ok"),
    ]


def test_hedges_stay_within_their_share(play: Any) -> None:
    async def story(scene: Any) -> Any:
        for _ in range(100):
            await scene.send()
        return scene

    scene = play(
        story,
        fast=says("slow", before_s=0.4),
        quality=says("quick"),
        route={"hedge": Hedge(after_ms=100, max_share=0.1)},
    )
    assert len(scene.targets["fast"].calls) == 100
    assert len(scene.targets["quality"].calls) == 10


def test_a_hedge_after_p95_waits_as_long_as_nineteen_in_twenty_answers_take(play: Any) -> None:
    """With fewer than twenty answers, the objective is used."""
    slo = Slo(p95_ms=1000)

    async def story(scene: Any) -> Any:
        await scene.send()
        unknown_ms = scene.state.hedge_after_ms(scene.policy.lanes[0], scene.clock.now_s())
        for _ in range(30):
            await scene.send()
        return unknown_ms, scene.state.hedge_after_ms(scene.policy.lanes[0], scene.clock.now_s())

    unknown_ms, known_ms = play(
        story, fast=says("x", before_s=0.2), quality=says("y"), route={"slo": slo, "hedge": Hedge(max_share=0.1)}
    )
    assert (unknown_ms, known_ms) == (1000, pytest.approx(200, rel=0.03))


def test_a_lost_hedge_counts_as_late_only_if_it_exceeded_its_objective(play: Any) -> None:
    async def story(scene: Any) -> Any:
        for _ in range(12):
            await scene.send()
        return scene

    for promise_ms, outcome in ((1000, "hedge"), (150, "p95_breach")):
        scene = play(
            story, fast=says("slow", before_s=5.0), quality=says("quick", before_s=0.1),
            route={"slo": Slo(p95_ms=promise_ms), "hedge": ALWAYS},
        )  # fmt: skip
        assert scene.attempts["fast"] == outcome


@pytest.mark.parametrize("leaves_s", [0.0, 0.05, 0.3])
def test_a_client_disconnect_cancels_both_attempts(play: Any, leaves_s: float) -> None:
    async def story(scene: Any) -> Any:
        asking = asyncio.create_task(scene.send())
        await asyncio.sleep(leaves_s)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        return scene

    scene = play(story, fast=says("a", before_s=9.0), quality=says("b", before_s=9.0), route={"hedge": ALWAYS})
    assert all(len(target.calls) == target.left for target in scene.targets.values())
    if leaves_s:
        assert scene.decision.outcome is Outcome.CLIENT_GONE
        assert {str(each.outcome) for each in scene.decision.attempts} == {"cancelled"}


def test_an_attempt_that_exceeds_its_part_of_the_deadline_leaves_the_rest_to_the_next(play: Any) -> None:
    sent, scene = play(
        once, fast=says("a", before_s=9.0), quality=says("b", before_s=0.5),
        route={"deadline_ms": 1000, "attempt_ms": 400},
    )  # fmt: skip
    assert sent.text == "b"
    assert scene.attempts == {"fast": "deadline", "quality": "ok"}
    assert [scene.targets[name].calls[0].left_ms for name in ("fast", "quality")] == pytest.approx([400, 600])
    assert scene.decision.total_ms == pytest.approx(900)


def test_a_requests_own_deadline_shortens_the_parts_too(play: Any) -> None:
    sent, scene = play(
        lambda scene: once(scene, headers={b"x-twolane-deadline-ms": b"500"}),
        fast=says("a", before_s=9.0), quality=says("b", before_s=9.0), route={"deadline_ms": 1000, "attempt_ms": 400},
    )  # fmt: skip
    assert [scene.targets[name].calls[0].left_ms for name in ("fast", "quality")] == pytest.approx([200, 300])
    assert (sent.error.status, scene.decision.total_ms) == (504, pytest.approx(500))


def test_the_attempt_limit_of_a_stream_applies_until_its_first_text(play: Any) -> None:
    sent, scene = play(
        lambda scene: once(scene, stream=True),
        fast=says("a", "b", "c", between_s=0.3), quality=says("no"), route={"deadline_ms": 5000, "attempt_ms": 400},
    )  # fmt: skip
    assert sent.text == "abc"
    assert scene.attempts == {"fast": "ok"}


LINES = st.builds(
    lambda good, texts, before_s, between_s: (
        says(*texts, before_s=before_s, between_s=between_s)
        if good
        else fails(UpstreamError("x"), *texts[:1], before_s=before_s, between_s=between_s)
    ),
    st.booleans(),
    st.sampled_from([("1",), ("1", "2"), ("x",)]),
    st.sampled_from([0.0, 0.05, 0.1, 0.2, 0.45]),
    st.sampled_from([0.0, 0.1]),
)


@given(
    lines=st.tuples(LINES, LINES, LINES),
    stream=st.booleans(),
    schema=st.booleans(),
    deadline_ms=st.sampled_from([None, 150, 400]),
    attempt_ms=st.sampled_from([None, 60]),
)
def test_however_two_attempts_overlap_there_is_exactly_one_response(
    play: Any, lines: Any, stream: bool, schema: bool, deadline_ms: float | None, attempt_ms: float | None
) -> None:
    """One decision, one call per target, every permit released, no call left open, and consistent records."""
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "integer"}}}
    route = {"hedge": ALWAYS, "deadline_ms": deadline_ms, "attempt_ms": attempt_ms if deadline_ms else None}
    body: dict[str, Any] = {"response_format": wanted} if schema else {}
    sent, scene = play(
        lambda scene: once(scene, stream=stream, **body),
        **dict(zip(("fast", "careful", "quality"), lines, strict=True)), route=route,
    )  # fmt: skip
    decision = scene.decision
    assert all(len(target.calls) <= 1 for target in scene.targets.values())
    assert (sent.error is None and sent.broken is None) == (decision.outcome is Outcome.OK)
    assert [str(each.outcome) for each in decision.attempts].count("ok") == (decision.outcome is Outcome.OK)
    assert list(decision.attempts) == sorted(decision.attempts, key=lambda each: each.started_ms)
    if decision.outcome is Outcome.OK:
        assert decision.path[-1].target == decision.target
    if schema and decision.outcome is Outcome.OK:
        assert sent.text in ("1", "12")
    if deadline_ms and stream and not schema and decision.first_byte_ms is not None:  # passed on as it comes
        assert decision.first_byte_ms <= deadline_ms + 1
    elif deadline_ms:
        assert decision.total_ms <= deadline_ms + 1
