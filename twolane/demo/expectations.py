"""Compares replies with what a case expects, and describes the differences. Pure."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from twolane.demo.case_types import Case, Expectation


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The reply to one request. `text` is the response, or the error's code if the status is not 200."""

    status: int
    text: str
    elapsed_ms: float
    headers: Mapping[str, str]  # names in lower case
    error: str = ""  # why the response is incomplete, '' if it is complete

    def header(self, name: str) -> str:
        """Return `x-twolane-NAME`, '' if absent."""
        return self.headers.get(f"x-twolane-{name}", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult:
    """The result of a case: the reply to show, the number of requests sent, and every unmet expectation."""

    case: Case
    reply: Reply
    sent: int
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether every expectation was met."""
        return not self.failures


def evaluate(case: Case, replies: Sequence[Reply]) -> CaseResult:
    """Compare all replies with the case; the reply to show is the first wrong one, or else the last."""
    if case.repeat:
        return _evaluate_repeated(case, replies)
    for reply in replies:
        if failures := differences(case.expect, reply):
            return CaseResult(case=case, reply=reply, sent=len(replies), failures=failures)
    return CaseResult(case=case, reply=replies[-1], sent=len(replies), failures=())


def _evaluate_repeated(case: Case, replies: Sequence[Reply]) -> CaseResult:
    """Each of the last rounds needs one expected reply; every other request must have succeeded."""
    for reply in replies:
        if reply.status != case.expect.status or reply.error:
            failure = f"one of {len(replies)} requests failed: {reply.error or reply.text}"
            return CaseResult(case=case, reply=reply, sent=len(replies), failures=(failure,))
    rounds = [replies[begin : begin + case.times] for begin in range(0, len(replies), case.times)]
    expected = [next((reply for reply in one if not differences(case.expect, reply)), None) for one in rounds]
    shown = expected[-1] or replies[-1]
    if len(rounds) >= case.consecutive and all(expected[-case.consecutive :]):
        return CaseResult(case=case, reply=shown, sent=len(replies), failures=())
    failure = f"not reached within {case.within_s:g} s and {len(replies)} requests"
    return CaseResult(case=case, reply=shown, sent=len(replies), failures=(failure, *differences(case.expect, shown)))


def differences(expect: Expectation, reply: Reply) -> tuple[str, ...]:
    """Return a description of each difference."""
    if reply.error:
        return (reply.error,)
    if reply.status != expect.status:
        return (f"status is {reply.status} ({reply.text}), not {expect.status}",)
    found = [
        _difference("task", reply.header("task"), expect.task),
        _difference("route", reply.header("route"), expect.route),
        _difference("target", reply.header("target"), expect.target),
        _difference("attempts", reply.header("attempts"), expect.attempts),
        _difference("fallback", reply.header("fallback"), expect.fallback),
        _difference("answered-by", reply.header("answered-by"), expect.answered_by),
        expect.answer.check(reply.text),
    ]
    return tuple(difference for difference in found if difference)


def _difference(name: str, got: str, pattern: str | None) -> str | None:
    if pattern is None or re.fullmatch(pattern, got):
        return None
    return f"{name} is {got or 'absent'}, not {pattern or 'absent'}"
