"""Compares what came back with what a row expects, and says in words what differs.

Pure; knows replies and expectations, nothing of how they were sent or shown.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from twolane.demo.case_types import Expectation, Row


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What one request brought. `text` is the answer, or the error's code when the status is not 200."""

    status: int
    text: str
    elapsed_ms: float
    headers: Mapping[str, str]  # names in lower case
    broken: str = ""  # why the answer did not come to its end, '' if it did

    def header(self, name: str) -> str:
        """Return `x-twolane-NAME`, '' if absent."""
        return self.headers.get(f"x-twolane-{name}", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How a row came out: the reply to show, how many were sent, and what was not as stated."""

    row: Row
    reply: Reply
    sent: int
    complaints: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether all came out as stated."""
        return not self.complaints


def judge(row: Row, replies: Sequence[Reply]) -> Verdict:
    """Judge a row by all its replies; the first reply that is wrong is the one to show, else the last."""
    if row.until:
        return _judge_until(row, replies)
    for reply in replies:
        if complaints := differences(row.expect, reply):
            return Verdict(row=row, reply=reply, sent=len(replies), complaints=complaints)
    return Verdict(row=row, reply=replies[-1], sent=len(replies), complaints=())


def _judge_until(row: Row, replies: Sequence[Reply]) -> Verdict:
    """One reply of each of the last rounds must be as stated; all others must have been answered."""
    for reply in replies:
        if reply.status != row.expect.status or reply.broken:
            said = f"one of {len(replies)} was not answered: {reply.broken or reply.text}"
            return Verdict(row=row, reply=reply, sent=len(replies), complaints=(said,))
    rounds = [replies[begin : begin + row.times] for begin in range(0, len(replies), row.times)]
    good = [next((each for each in came if not differences(row.expect, each)), None) for came in rounds]
    shown = good[-1] or replies[-1]
    if len(rounds) >= row.in_a_row and all(good[-row.in_a_row :]):
        return Verdict(row=row, reply=shown, sent=len(replies), complaints=())
    late = f"not within {row.within_s:g} s and {len(replies)} requests"
    return Verdict(row=row, reply=shown, sent=len(replies), complaints=(late, *differences(row.expect, shown)))


def differences(expect: Expectation, reply: Reply) -> tuple[str, ...]:
    """Return what differs, in words; nothing if all is as expected."""
    if reply.broken:
        return (reply.broken,)
    if reply.status != expect.status:
        return (f"status is {reply.status} ({reply.text}), not {expect.status}",)
    found = [
        _unlike("task", reply.header("task"), expect.task),
        _unlike("route", reply.header("route"), expect.route),
        _unlike("target", reply.header("target"), expect.target),
        _unlike("attempts", reply.header("attempts"), expect.attempts),
        _unlike("fallback", reply.header("fallback"), expect.fallback),
        expect.answer.check(reply.text),
    ]
    return tuple(complaint for complaint in found if complaint)


def _unlike(name: str, got: str, pattern: str | None) -> str | None:
    if pattern is None or re.fullmatch(pattern, got):
        return None
    return f"{name} is {got or 'absent'}, not {pattern or 'absent'}"
