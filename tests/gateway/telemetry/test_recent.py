"""The last decisions."""

from typing import Any

from gateway.telemetry.recent import Observers, RecentDecisions


def test_only_the_last_ones_are_remembered(decision: Any) -> None:
    recent = RecentDecisions(2)
    for number in range(3):
        recent.decided(decision(query_id=f"req_{number}"))
    assert recent.get("req_0") is None
    assert recent.get("req_1") is not None
    assert recent.get("req_2") is not None


def test_all_observers_hear_all_decisions(decision: Any) -> None:
    first, second = RecentDecisions(1), RecentDecisions(1)
    Observers((first, second)).decided(decision())
    assert first.get("req_1") is second.get("req_1") is not None
