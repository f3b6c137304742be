"""Suggestions follow from the log and form a valid policy."""

from random import Random
from typing import Any

import pytest

from gateway.policy_files.load import parse
from gateway.simulation.suggest import render, rounded, suggest
from gateway.simulation.traffic import LoggedRequest, read_log
from tests.gateway.simulation.conftest import POLICY


@pytest.fixture
def log(line: Any, log_file: Any) -> list[LoggedRequest]:
    """Two hundred edits that take 100 to 300 ms, streamed; a handful of chats."""
    dice = Random(1)
    edits = [line(n, [("fast", 1, 1 + dice.uniform(100, 300))], stream=True) for n in range(200)]
    return read_log(log_file(*edits, *(line(n, [("quality", 1, 900)], route="default") for n in range(9))))


def test_budgets_hedges_and_deadlines_come_from_the_histogram(policy: Any, log: list[LoggedRequest]) -> None:
    [edits] = suggest(log, policy())  # nine chats are too few
    assert (edits.route, edits.target, edits.responses) == ("edits", "fast", 200)
    assert edits.p95_ms == pytest.approx(290, rel=0.04)
    assert edits.slo_p95_ms == rounded(1.25 * edits.p95_ms)
    assert edits.slo_first_token_p95_ms == pytest.approx(edits.slo_p95_ms / 2, rel=0.06)
    assert edits.hedge_after_ms == rounded(edits.p95_ms)
    assert edits.deadline_ms > edits.slo_p95_ms + edits.hedge_after_ms


def test_no_hedge_is_suggested_within_one_server(policy: Any, log: list[LoggedRequest]) -> None:
    [edits] = suggest(log, policy(("http://b", "http://a")))
    assert edits.hedge_after_ms is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("", ""),
        ("use: fast", "use: {fast: 9, quality: 1}"),
        ("slo: {p95_ms: 400}", "deadline_ms: 9000\n    attempt_ms: 8000"),
        ("slo: {p95_ms: 400}", "slo: {p95_ms: 400}\n    hedge: {after: p95, max_share: 0.05}"),
        ("fall_back: [quality]", "fall_back: quality  # the big one"),
        ("quality: {kind", '# kept\n  quality: {url: "${QUALITY}", kind'),
    ],
)
def test_the_suggested_policy_keeps_its_comments_and_loads(log: list[LoggedRequest], old: str, new: str) -> None:
    text = POLICY.replace(old, new) if old else POLICY
    text = text.replace(' url: "http://b",', "") if "QUALITY" in new else text
    environment = {"QUALITY": "http://q"}
    proposed = render(text, environment, suggest(log, parse(text, environment)), file="p.yaml")
    route = parse(proposed, environment).rules[0].route
    assert route.slo is not None
    assert route.slo.p95_ms < 400
    assert route.hedge is not None
    assert route.hedge.after_ms is not None
    for kept in ("the big one", "# kept", '"${QUALITY}"', "max_share: 0.05"):
        assert (kept in proposed) == (kept in text)
    assert proposed.startswith("# edits: p95 of")


def test_numbers_are_rounded_up_to_two_digits() -> None:
    assert [rounded(value) for value in (0.2, 7.1, 12.0, 234.5, 1001)] == [1, 8, 12, 240, 1100]
