"""What an attempt keeps in memory is limited, and counted in the byte budget."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from gateway.attempts import attempt
from gateway.enums import RunawayScope
from gateway.errors import UpstreamError
from gateway.policy_types import READ_ALONG, Checks
from gateway.upstreams.scripted import fails, says
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
    monkeypatch.setattr(attempt, "MAX_BUFFERED_BYTES", 4000)
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
    monkeypatch.setattr(attempt, name, value)
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
    monkeypatch.setattr(attempt, "MAX_BUFFERED_DELTAS", 300)
    scene = stage(fast=says(*[""] * 5000, "{", "}"), route=route)
    sent = await scene.send(**CHECKED)
    assert (sent.text, sent.broken) == ("{}", None)
    assert holding.size < 300_000
