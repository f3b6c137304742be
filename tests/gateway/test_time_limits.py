"""What limits the time of an answer: `deadline_ms`, `total_ms` and `idle_s`, each for its own part. In virtual time."""

import asyncio
from typing import Any

import pytest

from gateway.enums import Buffer, Outcome
from gateway.policy_types import Checks, Hedge, Retry
from gateway.upstreams.scripted import fails, says

SCHEMA = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}
BUFFERED = {"response_format": SCHEMA, "stream": True}
JSON = ('{"a":', "1", "}")


def story(**body: Any) -> Any:
    """Send one request, and return the scene with what the client received."""

    async def run(scene: Any) -> Any:
        return scene, await scene.send(**body)

    return run


def test_a_whole_answer_after_75_s_of_silence_is_served_within_a_deadline_of_120_s(play: Any) -> None:
    _, sent = play(story(), fast=says("long", before_s=75), route={"deadline_ms": 120_000})
    assert sent.text == "long"


def test_a_stream_that_begins_after_75_s_of_silence_is_served_within_a_deadline_of_120_s(play: Any) -> None:
    _, sent = play(story(stream=True), fast=says("a", "b", before_s=75), route={"deadline_ms": 120_000})
    assert (sent.text, sent.broken) == ("ab", None)


def test_a_stream_of_one_token_a_second_for_150_s_is_longer_than_its_deadline(play: Any) -> None:
    scene, sent = play(story(stream=True), fast=says(*"x" * 150, between_s=1), route={"deadline_ms": 120_000})
    assert (len(sent.text), sent.broken) == (150, None)
    assert scene.decision.outcome is Outcome.OK
    assert scene.decision.total_ms >= 150_000


def test_the_first_byte_of_a_stream_is_limited_by_the_deadline(play: Any) -> None:
    scene, sent = play(story(stream=True), fast=says("late", before_s=11), route={"deadline_ms": 10_000})
    assert (sent.error.status, sent.error.code) == (504, "deadline_exceeded")
    assert scene.decision.attempts[0].detail == "deadline passed"
    assert scene.decision.total_ms == pytest.approx(10_000)


@pytest.mark.parametrize(
    ("body", "lines"),
    [
        ({}, says("late", between_s=11)),
        (BUFFERED, says(*JSON, between_s=4)),
    ],
    ids=["not streamed", "stream that is buffered as a whole"],
)
def test_an_answer_that_is_not_passed_on_as_it_comes_is_limited_as_a_whole_by_the_deadline(
    play: Any, body: Any, lines: Any
) -> None:
    scene, sent = play(story(**body), fast=lines, route={"deadline_ms": 10_000})
    assert (sent.error.status, sent.texts) == (504, [])
    assert scene.decision.total_ms == pytest.approx(10_000)


def test_a_stream_whose_target_must_be_confident_is_limited_as_a_whole_by_the_deadline(play: Any) -> None:
    lines = says(*"abc", between_s=4, confidence=0.9)
    _, sent = play(story(stream=True), fast=lines, route={"deadline_ms": 10_000, "min_confidence": 0.5})
    assert sent.error.code == "deadline_exceeded"


def test_a_stream_that_is_checked_while_it_is_passed_on_is_not_limited_as_a_whole_by_the_deadline(play: Any) -> None:
    checks = Checks(buffer=Buffer.FIRST_BYTES, first_bytes=2)
    _, sent = play(story(**BUFFERED), fast=says(*JSON, between_s=4), route={"deadline_ms": 10_000, "checks": checks})
    assert (sent.text, sent.broken) == ('{"a":1}', None)


def test_a_stream_ends_with_an_error_at_its_total_limit(play: Any) -> None:
    route = {"deadline_ms": 5_000, "total_ms": 20_000}
    scene, sent = play(story(stream=True), fast=says(*"x" * 100, between_s=1), route=route)
    assert (len(sent.text), sent.broken.code, sent.broken.status) == (19, "deadline_exceeded", 504)
    assert (scene.decision.outcome, scene.attempts) == (Outcome.ERROR, {"fast": "deadline"})
    assert scene.decision.total_ms == pytest.approx(20_000)
    assert scene.targets["fast"].left == 1


def test_the_total_limit_includes_the_time_before_the_first_byte(play: Any) -> None:
    lines = says(*"x" * 100, before_s=4, between_s=1)
    scene, sent = play(story(stream=True), fast=lines, route={"deadline_ms": 6_000, "total_ms": 20_000})
    assert len(sent.text) == 15
    assert scene.decision.total_ms == pytest.approx(20_000)


@pytest.mark.parametrize("stream", [False, True])
def test_a_target_addressed_directly_has_a_generous_total_limit(play: Any, stream: bool) -> None:
    scene, sent = play(story(model="fast", stream=stream), fast=says("x", before_s=3000))
    assert sent.error.code == "deadline_exceeded"
    assert scene.decision.total_ms == pytest.approx(1_800_000)


@pytest.mark.parametrize(
    ("body", "route", "left_ms"),
    [
        ({"stream": True}, {"deadline_ms": 5_000, "total_ms": 20_000}, 20_000),
        ({"stream": True}, {"deadline_ms": 5_000, "attempt_ms": 1_000}, 1_800_000),
        (BUFFERED, {"deadline_ms": 5_000, "total_ms": 20_000}, 5_000),
        (BUFFERED, {"deadline_ms": 5_000, "attempt_ms": 1_000}, 1_000),
        ({}, {"deadline_ms": 5_000, "total_ms": 20_000}, 5_000),
        ({}, {"total_ms": 20_000}, 20_000),
        ({"stream": True, "headers": {b"x-twolane-deadline-ms": b"300"}}, {}, 1_800_000),
        ({"headers": {b"x-twolane-deadline-ms": b"300"}}, {}, 300),
    ],
)
def test_a_target_is_told_when_the_whole_of_its_answer_is_due(play: Any, body: Any, route: Any, left_ms: float) -> None:
    scene, _ = play(story(**body), fast=says("{}"), quality=says("{}"), route=route)
    assert scene.targets["fast"].calls[0].left_ms == pytest.approx(left_ms)


def test_a_pause_between_two_chunks_ends_a_stream_after_the_idle_limit(play: Any) -> None:
    scene, sent = play(story(stream=True), fast=says(*"ab", between_s=31), fast_target={"idle_s": 30.0})
    assert (sent.texts, sent.broken.code) == (["a"], "upstream_error")
    assert scene.decision.attempts[0].detail == "no chunk within 30 s"
    assert scene.attempts == {"fast": "upstream_error"}
    assert scene.targets["fast"].left == 1


def test_pauses_within_the_idle_limit_do_not_add_up(play: Any) -> None:
    _, sent = play(story(stream=True), fast=says(*"abcdefgh", between_s=29), fast_target={"idle_s": 30.0})
    assert (sent.text, sent.broken) == ("abcdefgh", None)


def test_a_target_that_sends_heartbeats_is_not_idle(play: Any) -> None:
    _, sent = play(story(stream=True), fast=says(*"abc", between_s=100, heartbeat_s=15), fast_target={"idle_s": 30.0})
    assert (sent.text, sent.broken) == ("abc", None)


def test_heartbeats_prolong_neither_the_total_limit_nor_the_deadline_of_the_first_byte(play: Any) -> None:
    pings = says(*"abc", between_s=100, heartbeat_s=15)
    _, sent = play(story(stream=True), fast=pings, route={"total_ms": 250_000})
    assert (sent.text, sent.broken.code) == ("ab", "deadline_exceeded")
    scene, sent = play(story(stream=True), fast=pings, route={"deadline_ms": 90_000})
    assert (sent.error.code, scene.decision.total_ms) == ("deadline_exceeded", pytest.approx(90_000, abs=50))


def test_heartbeats_that_come_too_seldom_do_not_help(play: Any) -> None:
    _, sent = play(story(stream=True), fast=says(*"ab", between_s=100, heartbeat_s=31), fast_target={"idle_s": 30.0})
    assert (sent.text, sent.broken.code) == ("a", "upstream_error")


def test_a_pause_in_a_buffered_stream_falls_back(play: Any) -> None:
    lines = {"fast": says(*JSON, between_s=31), "quality": says(*JSON)}
    scene, sent = play(story(**BUFFERED), **lines, fast_target={"idle_s": 30.0})
    assert sent.text == '{"a":1}'
    assert scene.attempts == {"fast": "upstream_error", "quality": "ok"}


@pytest.mark.parametrize("body", [{}, {"stream": True}])
def test_the_idle_limit_does_not_apply_before_the_first_chunk(play: Any, body: Any) -> None:
    _, sent = play(story(**body), fast=says("late", before_s=200), fast_target={"idle_s": 1.0})
    assert sent.text == "late"


def test_the_idle_limit_does_not_apply_to_an_answer_that_is_not_streamed(play: Any) -> None:
    _, sent = play(story(), fast=says("late", between_s=200), fast_target={"idle_s": 1.0})
    assert sent.text == "late"


def test_a_client_that_reads_slowly_does_not_make_the_target_idle(play: Any) -> None:
    async def run(scene: Any) -> list[str]:
        answer = await scene.pipeline.handle(scene.query(stream=True))
        texts = []
        async for delta in answer.deltas():
            texts += [piece.text for piece in delta.pieces]
            await asyncio.sleep(100)
        await answer.aclose()
        return texts

    assert "".join(play(run, fast=says(*"abc"), fast_target={"idle_s": 1.0})) == "abc"


def test_a_client_that_reads_slowly_still_ends_at_the_total_limit(play: Any) -> None:
    async def run(scene: Any) -> Any:
        answer = await scene.pipeline.handle(scene.query(stream=True))
        await asyncio.sleep(30)
        sent = await scene.read(answer)
        await answer.aclose()
        return sent

    sent = play(run, fast=says(*"abc"), route={"total_ms": 20_000})
    assert (sent.texts, sent.broken.code) == (["a"], "deadline_exceeded")


def test_the_limit_of_an_attempt_falls_back_and_does_not_cut_the_stream_that_began_in_time(play: Any) -> None:
    route = {"deadline_ms": 60_000, "attempt_ms": 5_000}
    scene, sent = play(story(stream=True), fast=says("a", before_s=6), quality=says("b"), route=route)
    assert (sent.text, scene.attempts) == ("b", {"fast": "deadline", "quality": "ok"})
    assert scene.decision.attempts[0].detail == "the attempt limit passed"
    _, sent = play(story(stream=True), fast=says(*"abc", between_s=4), quality=says("x"), route=route)
    assert (sent.text, sent.broken) == ("abc", None)


def test_a_hedged_stream_keeps_its_limits(play: Any) -> None:
    """The attempt is opened in a task of its own and read in the request's."""
    route = {"hedge": Hedge(after_ms=1_000, max_share=1.0), "total_ms": 10_000}
    lines = {"fast": says("slow", before_s=50), "quality": says(*"x" * 50, between_s=1)}
    scene, sent = play(story(stream=True), **lines, route=route)
    assert (len(sent.text), sent.broken.code) == (8, "deadline_exceeded")
    assert scene.attempts == {"fast": "hedge", "quality": "deadline"}


def test_a_client_that_leaves_at_the_limit_is_still_a_client_that_left(play: Any) -> None:
    """Cancelled from outside while the attempt's own limit expires."""

    async def run(scene: Any) -> Any:
        task = asyncio.create_task(scene.pipeline.handle(scene.query()))
        await asyncio.sleep(5)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return scene, task

    scene, task = play(run, fast=says("x", before_s=60), route={"deadline_ms": 5_000})
    assert task.cancelled() or task.result().error.code == "deadline_exceeded"
    assert scene.targets["fast"].left == 1


def test_a_retry_gets_what_is_left(play: Any) -> None:
    lines = [fails(before_s=4), says("x", before_s=4)]
    scene, sent = play(story(), fast=lines, fast_target={"retry": Retry(max_share=1.0)}, route={"deadline_ms": 10_000})
    assert sent.text == "x"
    assert [call.left_ms for call in scene.targets["fast"].calls] == pytest.approx([10_000, 6_000])
