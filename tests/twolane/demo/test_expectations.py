"""A case passes if all its expectations are met, and a failure names the unmet ones."""

from typing import Any

import pytest

from twolane.demo.case_types import (
    Case,
    Expectation,
    answers_all,
    contains,
    equals,
    equals_json,
    error_code,
    matches_schema,
    not_empty,
)
from twolane.demo.expectations import Reply, differences, evaluate

EXPECT = Expectation(task="edit", route="edits", target="fast", attempts="fast=ok", answer=equals("fix it"))
GOOD = {
    "x-twolane-task": "edit",
    "x-twolane-route": "edits",
    "x-twolane-target": "fast",
    "x-twolane-attempts": "fast=ok",
}


def reply(text: str = "fix it", *, status: int = 200, error: str = "", **changed: str) -> Reply:
    headers = {**GOOD, **{f"x-twolane-{name}": value for name, value in changed.items()}}
    return Reply(status=status, text=text, elapsed_ms=1.0, headers=headers, error=error)


def case(**changed: Any) -> Case:
    return Case(title="an edit", prompt="p", expect=EXPECT, **changed)


def test_a_case_with_the_expected_reply_passes() -> None:
    assert evaluate(case(), [reply()]).passed


@pytest.mark.parametrize(
    ("got", "named"),
    [
        (reply(task="chat"), "task"),
        (reply(route="default"), "route"),
        (reply(target="quality"), "target"),
        (reply(attempts="fast=ok,quality=ok"), "attempts"),
        (reply(fallback="deadline"), "fallback"),
        (reply("fix that"), "response"),
        (reply(status=503), "status"),
        (reply(error="the stream ended with an error"), "stream"),
    ],
)
def test_each_difference_is_described(got: Reply, named: str) -> None:
    (failure,) = evaluate(case(), [got]).failures
    assert named in failure


def test_all_requests_of_a_case_must_match_and_the_wrong_reply_is_shown() -> None:
    wrong = reply(target="quality")
    result = evaluate(case(times=3), [reply(), wrong, reply()])
    assert not result.passed
    assert (result.reply, result.sent) == (wrong, 3)


def test_a_repeated_case_allows_other_responses_but_no_failed_request() -> None:
    other = reply(target="quality", attempts="quality=ok")
    assert evaluate(case(repeat=True), [other, other, reply()]).passed
    assert not evaluate(case(repeat=True), [reply(status=503, text="no_route"), reply()]).passed
    assert "within 9 s and 5 requests" in evaluate(case(repeat=True, within_s=9), [other] * 5).failures[0]


def test_a_repeated_case_can_require_consecutive_matches() -> None:
    other = reply(target="quality")
    assert evaluate(case(repeat=True, consecutive=2), [other, reply(), other, reply(), reply()]).passed
    assert not evaluate(case(repeat=True, consecutive=2), [reply(), other, reply(), other, reply()]).passed
    assert not evaluate(case(repeat=True, consecutive=2), [reply()]).passed


def test_one_matching_reply_per_round_is_enough_and_is_shown() -> None:
    other, good = reply(target="quality"), reply()
    result = evaluate(case(repeat=True, times=2), [other, other, good, other])
    assert (result.passed, result.reply, result.sent) == (True, good, 4)
    assert not evaluate(case(repeat=True, times=2), [good, other, other, other]).passed


def test_absent_headers_are_described_as_absent() -> None:
    refused = Reply(status=404, text="model_not_found", elapsed_ms=1.0, headers={})
    assert differences(Expectation(status=404, answer=error_code("model_not_found")), refused) == ()
    assert "route is absent, not edits" in differences(
        Expectation(status=404, route="edits", answer=not_empty()), refused
    )


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        (equals("a b"), " a b\n", "a  b"),
        (equals_json({"a": 1, "b": None}), '{"b": null,\n"a": 1}', '{"a": 1}'),
        (equals_json([1]), "[1]", "[1"),
        (matches_schema({"type": "object", "required": ["a"]}), '{"a": 2}', "{}"),
        (matches_schema({"type": "object"}), "{}", "no JSON"),
        (contains("Paris"), "it is paris.", "it is Rome."),
        (not_empty(), "x", " \n"),
        (answers_all({"a": "x", "b": None}), '{"a": "x", "b": 0.5}', '{"a": "y", "b": 0.5}'),
        (answers_all({"a": "x", "b": None}), '{"a": "x", "b": null}', '{"a": "x"}'),
        (answers_all({"a": None}), '{"a": 1}', "no JSON"),
        (error_code("no_route"), "no_route", "invalid_output"),
    ],
)
def test_rules_accept_good_and_reject_bad_responses(rule: Any, good: str, bad: str) -> None:
    assert rule.check(good) is None
    assert rule.check(bad)
