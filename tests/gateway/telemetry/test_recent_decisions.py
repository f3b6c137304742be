"""Recent decisions and fan-out to observers."""

from typing import Any

import pytest

from gateway.decision import Mirrored
from gateway.enums import ShadowResult
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.recent_decisions import Observers, RecentDecisions


def test_only_the_latest_are_kept(decision: Any) -> None:
    recent = RecentDecisions(2)
    for number in range(3):
        recent.decided(decision(query_id=f"req_{number}"))
    assert recent.get("req_0") is None
    assert recent.get("req_1") is not None
    assert recent.get("req_2") is not None


def test_all_observers_receive_all_decisions(decision: Any) -> None:
    first, second = RecentDecisions(1), RecentDecisions(1)
    failed: list[str] = []
    Observers((first, second), failed.append).decided(decision())
    assert first.get("req_1") is second.get("req_1") is not None
    assert not failed


class Clumsy(RecentDecisions):
    """Raises, against its contract."""

    def decided(self, decision: Any) -> None:
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
