"""Recent decisions and fan-out to observers."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest

from gateway.decision import Decision, Mirrored
from gateway.enums import ErrorSource, Reason, ShadowResult
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.recent_decisions import Observers, RecentDecisions
from tests.gateway.stage import Listener


def test_only_the_latest_are_kept(decision: Any) -> None:
    recent = RecentDecisions(2)
    for number in range(3):
        recent.decided_all([decision(query_id=f"req_{number}")])
    assert recent.get("req_0") is None
    assert recent.get("req_1") is not None
    assert recent.get("req_2") is not None


def test_all_observers_receive_all_decisions(decision: Any) -> None:
    first, second = RecentDecisions(1), RecentDecisions(1)
    failed: list[str] = []
    Observers((first, second), failed.append).decided(decision())
    assert first.get("req_1") == second.get("req_1") == decision()
    assert not failed


class Clumsy(RecentDecisions):
    """Raises, against its contract."""

    def decided_all(self, decisions: Any) -> None:
        raise RuntimeError("no room left")

    def mirrored(self, mirrored: Any) -> None:
        raise RuntimeError("no room left")


def test_a_raising_observer_is_counted_each_time_logged_once_and_does_not_affect_others(
    decision: Any, caplog: pytest.LogCaptureFixture
) -> None:
    metrics, recent = Metrics(), RecentDecisions(5)
    observers = Observers((Clumsy(1), recent, metrics), metrics.observer_failed)
    for number in range(3):
        observers.decided(decision(query_id=f"req_{number}"))
    observers.mirrored(Mirrored(route="edits", target="fast", result=ShadowResult.SAME))
    assert recent.get("req_2") is not None
    assert b'twolane_observer_faults_total{observer="Clumsy"} 4.0' in metrics.render()[0]
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_the_failing_observer_may_be_the_one_that_counts_failures(decision: Any) -> None:
    def failed(_: str) -> None:
        raise RuntimeError("nor can I count")

    recent = RecentDecisions(1)
    Observers((Clumsy(1), recent), failed).decided(decision())
    assert recent.get("req_1") is not None


class Picky(RecentDecisions):
    """Raises for some decisions, against its contract."""

    def decided_all(self, decisions: Iterable[Decision]) -> None:
        for each in decisions:
            if each.principal == "picked":
                raise RuntimeError("not this one")
            super().decided_all([each])


def test_decisions_are_handed_on_together_when_they_are_many_or_later_or_read(decision: Any) -> None:
    recent, due = RecentDecisions(100), list[Callable[[], None]]()
    observers = Observers((recent,), print, later=due.append)
    for number in range(40):
        observers.decided(decision(query_id=f"req_{number}"))
    assert (recent.count, len(due)) == (32, 1)
    due.pop()()
    assert recent.count == 40
    observers.decided(decision(query_id="req_40"))
    assert (recent.count, len(due)) == (40, 1)
    recent.before_reading = observers.flush
    assert recent.get("req_40") is not None
    assert [each.query_id for each in recent.latest(2)] == ["req_40", "req_39"]


def test_an_observer_that_raises_for_a_decision_receives_those_after_it(decision: Any) -> None:
    failed: list[str] = []
    picky, recent = Picky(9), RecentDecisions(9)
    observers = Observers((picky, recent), failed.append, later=lambda _: None)
    for number, principal in enumerate(["a", "picked", "b", "picked", "picked", "c", "picked"]):
        observers.decided(decision(query_id=f"req_{number}", principal=principal))
    observers.flush()
    assert [each.principal for each in picky.latest(9)] == ["c", "b", "a"]
    assert (recent.count, failed) == (7, ["Picky"] * 4)


def test_a_failure_is_passed_on_at_once_and_a_success_is_not(decision: Any) -> None:
    seen = Listener()
    observers = Observers((), print, at_once=(seen,), later=lambda _: None)
    _, _, good = decision().attempts
    observers.decided(decision(attempts=(good,)))
    assert not seen.decisions
    changed: list[dict[str, Any]] = [
        {},
        {"attempts": (replace(good, outcome=Reason.LOW_CONFIDENCE),)},
        {"attempts": (good,), "error_source": ErrorSource.GATEWAY},
        {"attempts": ()},
    ]
    for changes in changed:
        observers.decided(decision(**changes))
    assert len(seen.decisions) == len(changed)
