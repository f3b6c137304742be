"""A row passes exactly if all that it states came out, and a complaint names what did not."""

from typing import Any

import pytest

from twolane.demo.case_types import Expectation, Row, anything, error, exactly, fits, same_json, speaks_of
from twolane.demo.expectations import Reply, differences, judge

EXPECT = Expectation(task="edit", route="edits", target="fast", attempts="fast=ok", answer=exactly("fix it"))
GOOD = {
    "x-twolane-task": "edit",
    "x-twolane-route": "edits",
    "x-twolane-target": "fast",
    "x-twolane-attempts": "fast=ok",
}


def reply(text: str = "fix it", *, status: int = 200, broken: str = "", **changed: str) -> Reply:
    headers = {**GOOD, **{f"x-twolane-{name}": value for name, value in changed.items()}}
    return Reply(status=status, text=text, elapsed_ms=1.0, headers=headers, broken=broken)


def row(**changed: Any) -> Row:
    return Row(asked="an edit", prompt="p", expect=EXPECT, **changed)


def test_all_as_stated_passes() -> None:
    assert judge(row(), [reply()]).passed


@pytest.mark.parametrize(
    ("got", "named"),
    [
        (reply(task="chat"), "task"),
        (reply(route="default"), "route"),
        (reply(target="quality"), "target"),
        (reply(attempts="fast=ok,quality=ok"), "attempts"),
        (reply(fallback="deadline"), "fallback"),
        (reply("fix that"), "answer"),
        (reply(status=503), "status"),
        (reply(broken="the stream ended with an error"), "stream"),
    ],
)
def test_each_difference_is_named(got: Reply, named: str) -> None:
    (complaint,) = judge(row(), [got]).complaints
    assert named in complaint


def test_of_several_requests_all_must_be_right_and_the_wrong_one_is_shown() -> None:
    wrong = reply(target="quality")
    verdict = judge(row(times=3), [reply(), wrong, reply()])
    assert not verdict.passed
    assert (verdict.reply, verdict.sent) == (wrong, 3)


def test_until_forgives_other_answers_but_no_missing_one() -> None:
    other = reply(target="quality", attempts="quality=ok")
    assert judge(row(until=True), [other, other, reply()]).passed
    assert not judge(row(until=True), [reply(status=503, text="no_route"), reply()]).passed
    assert "within 9 s and 5 requests" in judge(row(until=True, within_s=9), [other] * 5).complaints[0]


def test_until_can_ask_for_several_in_a_row() -> None:
    other = reply(target="quality")
    assert judge(row(until=True, in_a_row=2), [other, reply(), other, reply(), reply()]).passed
    assert not judge(row(until=True, in_a_row=2), [reply(), other, reply(), other, reply()]).passed
    assert not judge(row(until=True, in_a_row=2), [reply()]).passed


def test_of_a_round_one_good_reply_is_enough_and_is_the_one_to_show() -> None:
    other, good = reply(target="quality"), reply()
    verdict = judge(row(until=True, times=2), [other, other, good, other])
    assert (verdict.passed, verdict.reply, verdict.sent) == (True, good, 4)
    assert not judge(row(until=True, times=2), [good, other, other, other]).passed


def test_absent_headers_are_told_as_absent() -> None:
    refused = Reply(status=404, text="model_not_found", elapsed_ms=1.0, headers={})
    assert differences(Expectation(status=404, answer=error("model_not_found")), refused) == ()
    assert "route is absent, not edits" in differences(
        Expectation(status=404, route="edits", answer=anything()), refused
    )


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        (exactly("a b"), " a b\n", "a  b"),
        (same_json({"a": 1, "b": None}), '{"b": null,\n"a": 1}', '{"a": 1}'),
        (same_json([1]), "[1]", "[1"),
        (fits({"type": "object", "required": ["a"]}), '{"a": 2}', "{}"),
        (fits({"type": "object"}), "{}", "no JSON"),
        (speaks_of("Paris"), "it is paris.", "it is Rome."),
        (anything(), "x", " \n"),
        (error("no_route"), "no_route", "invalid_output"),
    ],
)
def test_rules_tell_good_from_bad(rule: Any, good: str, bad: str) -> None:
    assert rule.check(good) is None
    assert rule.check(bad)
