"""What the guard shows of a lane's p95: unknown of too few answers, and at most a little old."""

import pytest

from gateway.policy_types import Slo
from gateway.reliability.slo_guard import Admission, Guard

SLO = Slo(p95_ms=400.0)
FAST_MS, SLOW_MS = 100.0, 2000.0


def answer(guard: Guard, now_s: float, *latencies_ms: float) -> None:
    for latency_ms in latencies_ms:
        guard.finished(now_s, Admission(epoch=0), latency_ms)


def test_p95_is_unknown_until_twenty_answers_and_then_lags_at_most_a_hundredth_of_the_window() -> None:
    guard = Guard(SLO)
    answer(guard, 0.0, *[FAST_MS] * 19)
    assert guard.p95_ms(0.0) is None
    answer(guard, 0.0, FAST_MS)
    assert guard.p95_ms(0.0) == pytest.approx(FAST_MS, rel=0.02)
    answer(guard, 0.1, *[SLOW_MS] * 5)
    assert guard.p95_ms(SLO.window_s / 100) == pytest.approx(SLOW_MS, rel=0.02)
