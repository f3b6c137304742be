"""The last decisions."""

from typing import Any

import pytest

from gateway.decision import Mirrored
from gateway.enums import ShadowResult
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.recent_decisions import Observers, RecentDecisions


def test_only_the_last_ones_are_remembered(decision: Any) -> None:
    recent = RecentDecisions(2)
    for number in range(3):
        recent.decided(decision(query_id=f"req_{number}"))
    assert recent.get("req_0") is None
    assert recent.get("req_1") is not None
    assert recent.get("req_2") is not None


def test_all_observers_hear_all_decisions(decision: Any) -> None:
    first, second = RecentDecisions(1), RecentDecisions(1)
    failed: list[str] = []
    Observers((first, second), failed.append).decided(decision())
    assert first.get("req_1") is second.get("req_1") is not None
    assert not failed


class Clumsy(RecentDecisions):
    """Breaks its word."""

    def decided(self, decision: Any) -> None:
        raise RuntimeError("no room left")

    def mirrored(self, mirrored: Any) -> None:
        raise RuntimeError("no room left")


def test_an_observer_that_raises_is_counted_each_time_logged_once_and_nobody_else_misses_anything(
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


def test_it_does_no_harm_either_if_the_one_that_fails_is_the_one_that_counts(decision: Any) -> None:
    def failed(_: str) -> None:
        raise RuntimeError("nor can I count")

    recent = RecentDecisions(1)
    Observers((Clumsy(1), recent), failed).decided(decision())
    assert recent.get("req_1") is not None
