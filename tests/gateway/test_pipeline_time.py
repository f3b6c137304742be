"""Deadlines, streams and client disconnects: what ends a request early, and how it is reported."""

import asyncio
from typing import Any

import pytest

from gateway.enums import Outcome
from gateway.errors import (
    UpstreamError,
)
from gateway.upstreams.scripted import fails, says
from tests.gateway.stage import hang, in_flight

pytestmark = pytest.mark.anyio


async def test_the_deadline_of_a_request_ends_it(stage: Any) -> None:
    scene = stage(fast=fails(UpstreamError("late"), before_s=0.5), quality=says("hi"))
    sent = await scene.send(headers={b"x-twolane-deadline-ms": b"400"})
    assert (sent.error.status, sent.error.code) == (504, "deadline_exceeded")
    assert scene.attempts == {"fast": "upstream_error", "quality": "deadline"}
    assert scene.targets["quality"].calls == []


async def test_each_attempt_gets_what_is_left_of_the_deadline(stage: Any) -> None:
    scene = stage(fast=fails(before_s=0.25), quality=says("hi"), route={"deadline_ms": 1000})
    await scene.send()
    left = [scene.targets[name].calls[0].left_ms for name in ("fast", "quality")]
    assert left == pytest.approx([1000, 750])


async def test_an_attempt_that_exceeds_the_deadline_is_cancelled(stage: Any) -> None:
    scene = stage(fast=says("late"), quality=says("hi"))
    scene.targets["fast"]._sleep = hang(scene)
    sent = await scene.send(headers={b"x-twolane-deadline-ms": b"5"})
    assert sent.error.code == "deadline_exceeded"
    assert scene.attempts["fast"] == "deadline"
    assert scene.targets["fast"].left == 1


async def test_a_stream_without_checks_is_relayed_as_it_comes(stage: Any) -> None:
    scene = stage(fast=says("a", "b", between_s=1.0))
    answer = await scene.pipeline.handle(scene.query(stream=True))
    opened_s = scene.clock.time_s
    deltas = answer.deltas()
    assert (await anext(deltas)).pieces[0].text == "a"
    assert scene.clock.time_s == opened_s  # no further wait
    assert (await anext(deltas)).pieces[0].text == "b"
    await answer.aclose()


async def test_a_stream_that_fails_before_its_first_text_falls_back(stage: Any) -> None:
    scene = stage(fast=fails(UpstreamError("gone"), ""), quality=says("hi"))
    sent = await scene.send(stream=True)
    assert sent.text == "hi"
    assert scene.attempts == {"fast": "upstream_error", "quality": "ok"}


async def test_a_stream_that_fails_after_the_point_of_no_return_ends_with_an_error(stage: Any) -> None:
    scene = stage(fast=fails(UpstreamError("gone"), "a", "b"), quality=says("no"))
    sent = await scene.send(stream=True)
    assert sent.texts == ["a", "b"]
    assert isinstance(sent.broken, UpstreamError)
    assert scene.targets["quality"].calls == []
    assert scene.attempts == {"fast": "upstream_error"}
    assert (scene.decision.outcome, scene.decision.target) == (Outcome.ERROR, "fast")


async def test_a_client_disconnect_before_the_response_cancels_the_attempt(stage: Any) -> None:
    scene = stage(fast=says("late"), quality=says("no"))
    scene.targets["fast"]._sleep = lambda _: asyncio.sleep(5)
    task = asyncio.create_task(scene.pipeline.handle(scene.query()))
    while not scene.targets["fast"].calls:  # noqa: ASYNC110 - a list
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert scene.targets["fast"].left == 1
    assert scene.targets["quality"].calls == []
    assert scene.decision.outcome is Outcome.CLIENT_GONE
    assert scene.attempts == {"fast": "cancelled"}
    assert in_flight(scene) == 0


async def test_a_client_disconnect_during_a_stream_cancels_the_attempt(stage: Any) -> None:
    scene = stage(fast=says("a", "b", "c"))
    answer = await scene.pipeline.handle(scene.query(stream=True))
    deltas = answer.deltas()
    await anext(deltas)
    await deltas.aclose()
    await answer.aclose()
    assert scene.targets["fast"].left == 1
    assert scene.decision.outcome is Outcome.CLIENT_GONE
    assert scene.attempts == {"fast": "cancelled"}
    assert in_flight(scene) == 0


async def test_the_usage_of_a_stream_is_recorded_and_sent_only_if_requested(stage: Any) -> None:
    scene = stage(fast=says("hi"))
    quiet = await scene.send(stream=True)
    assert b"usage" not in b"".join(quiet.data)
    told = await scene.send(stream=True, stream_options={"include_usage": True})
    assert b"usage" in told.data[-1]
    assert [decision.usage.output_tokens for decision in scene.listener.decisions] == [1, 1]
