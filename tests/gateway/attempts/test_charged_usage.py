"""What counts for the limits of a key where a target does not report its usage."""

import asyncio
from typing import Any

from gateway.policy_types import Price
from gateway.upstreams.scripted import fails, says

PROMPT = "p" * 400  # 100 tokens
PRICE = Price(input=10.0, output=1000.0)


def story(*, leave_s: float | None = None, **body: Any) -> Any:
    """Send one request, whose client may leave; returns the decision."""

    async def run(scene: Any) -> Any:
        sending = asyncio.create_task(scene.send(messages=[{"role": "user", "content": PROMPT}], **body))
        await asyncio.wait([sending], timeout=leave_s)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        return scene.decision

    return run


def test_usage_that_a_target_reports_is_charged_as_it_is(play: Any) -> None:
    decision = play(story(stream=True), fast=says("word", "word"))
    assert decision.charged == (3, 0.0)
    assert [attempt.estimate for attempt in decision.attempts] == [None]


def test_a_client_that_leaves_a_stream_is_charged_for_prompt_and_output_so_far(play: Any) -> None:
    """The usage comes last: a client that always leaves before it would otherwise have no limit."""
    lines = says("word" * 10, "word" * 20, "never", between_s=1)
    decision = play(story(stream=True, leave_s=2.5), fast=lines, fast_target={"price": PRICE})
    assert decision.charged == (100 + 30, 100 * 10e-6 + 30 * 1000e-6)
    assert (decision.usage, decision.cost) == (None, 0.0), "the log shows only what was reported"


def test_a_client_that_leaves_before_the_answer_is_charged_for_the_prompt(play: Any) -> None:
    assert play(story(leave_s=5), fast=says("late", before_s=60)).charged == (100, 0.0)


def test_a_stream_that_breaks_is_charged_for_what_it_brought(play: Any) -> None:
    assert play(story(stream=True), fast=fails(None, "word" * 10)).charged == (110, 0.0)


def test_a_call_that_failed_before_any_output_is_not_charged(play: Any) -> None:
    assert play(story(), fast=fails(), quality=says("word")).charged == (2, 0.0)
