"""The SLO guard: ejection, probes, recovery. Simulations are seeded."""

import heapq
from dataclasses import dataclass
from itertools import count
from math import comb
from random import Random

import pytest

from gateway.enums import LaneState
from gateway.policy_types import Slo
from gateway.reliability.slo_guard import ALLOWED_SHARE, SIGNIFICANCE, Admission, Guard, critical

BUDGET_MS = 400.0
SLO = Slo(p95_ms=BUDGET_MS)
FAST_MS, NEAR_MS, SLOW_MS = 100.0, 350.0, 2000.0  # NEAR meets the objective, but not recover_ratio of it


def admit(guard: Guard, now_s: float, sample: float = 0.5) -> Admission:
    """An admission, which must be granted."""
    admission = guard.acquire(now_s, sample=sample, healthy_fallback=True)
    assert admission is not None
    return admission


def answer(guard: Guard, now_s: float, *latencies_ms: float) -> None:
    for latency_ms in latencies_ms:
        guard.finished(now_s, admit(guard, now_s), latency_ms)


def ejected(now_s: float = 0.0, slo: Slo = SLO) -> Guard:
    """A guard whose lane was ejected at `now_s`."""
    guard = Guard(slo)
    answer(guard, now_s, *[SLOW_MS] * 10)
    assert guard.acquire(now_s, sample=0.5, healthy_fallback=True) is None
    return guard


def probe(guard: Guard, start_s: float, *latencies_ms: float) -> float:
    """Answer one probe every `probe_every_s`; returns the time of the last."""
    now_s = start_s
    for latency_ms in latencies_ms:
        now_s += guard.slo.probe_every_s
        guard.finished(now_s, admit(guard, now_s), latency_ms)
    return now_s


@pytest.mark.parametrize(("over", "total"), [(5, 10), (6, 20), (10, 60), (14, 100), (29, 300)])
def test_the_documented_counts_eject_a_lane_and_one_less_does_not(over: int, total: int) -> None:
    assert critical(total) == over
    for late, state in ((over, LaneState.EJECTED), (over - 1, LaneState.SERVING)):
        guard = Guard(SLO)
        for latency_ms in [FAST_MS] * (total - late) + [SLOW_MS] * late:
            guard.finished(0.0, Admission(epoch=0), latency_ms)
        guard.acquire(0.0, sample=0.5, healthy_fallback=True)
        assert guard.state is state


@pytest.mark.parametrize("total", [10, 37, 123, 400, 512, 513, 900])
def test_the_critical_count_is_the_binomial_one(total: int) -> None:
    chances = [comb(total, j) * ALLOWED_SHARE**j * (1 - ALLOWED_SHARE) ** (total - j) for j in range(total + 1)]
    exact = next(k for k in range(total + 1) if sum(chances[k:]) < SIGNIFICANCE)
    assert critical(total) - exact in ((0,) if total <= 512 else (0, 1))


def test_nine_late_answers_are_not_enough_to_eject() -> None:
    guard = Guard(SLO)
    answer(guard, 0.0, *[SLOW_MS] * 9)
    assert guard.acquire(0.0, sample=0.5, healthy_fallback=True) is not None
    assert guard.state is LaneState.SERVING


def test_an_answer_exactly_at_the_objective_meets_it() -> None:
    guard = Guard(SLO)
    answer(guard, 0.0, *[BUDGET_MS] * 50)
    assert guard.counts(0.0).over == 0


def test_a_lane_is_not_ejected_without_a_healthy_fallback() -> None:
    guard = Guard(SLO)
    for _ in range(40):
        admission = guard.acquire(0.0, sample=0.5, healthy_fallback=False)
        assert admission is not None
        guard.finished(0.0, admission, SLOW_MS)
    assert guard.state is LaneState.SERVING
    assert not guard.within_budget(0.0)
    assert guard.acquire(0.0, sample=0.5, healthy_fallback=True) is None
    assert guard.state is LaneState.EJECTED


def test_an_ejected_lane_serves_every_request_when_no_healthy_fallback_is_left() -> None:
    guard = ejected()
    assert all(guard.acquire(0.1, sample=0.9, healthy_fallback=False) for _ in range(5))
    assert guard.state is LaneState.EJECTED


def test_an_abandoned_attempt_counts_only_if_it_exceeded_the_objective() -> None:
    guard = Guard(SLO)
    admission = admit(guard, 0.0)
    guard.abandoned(0.0, admission, BUDGET_MS - 1)
    assert guard.counts(0.0).total == 0
    guard.abandoned(0.0, admission, BUDGET_MS + 1)
    assert (guard.counts(0.0).total, guard.counts(0.0).over) == (1, 1)


def test_without_traffic_the_state_is_kept() -> None:
    guard = ejected(0.0)
    admit(guard, 5000.0)  # a probe is due after this time
    assert guard.state is LaneState.EJECTED


def test_an_ejected_lane_gets_its_probe_share_and_at_least_one_probe_per_interval() -> None:
    guard = ejected(0.0)
    assert guard.acquire(SLO.probe_every_s - 0.01, sample=0.5, healthy_fallback=True) is None
    admission = guard.acquire(SLO.probe_every_s, sample=0.5, healthy_fallback=True)
    assert admission is not None
    assert admission.probe
    assert guard.acquire(SLO.probe_every_s + 0.01, sample=0.5, healthy_fallback=True) is None
    assert guard.acquire(SLO.probe_every_s + 0.02, sample=SLO.probe_share / 2, healthy_fallback=True) is not None


def test_answers_admitted_before_the_ejection_are_no_probes() -> None:
    guard = Guard(SLO)
    early = [admit(guard, 0.0) for _ in range(30)]
    for admission in early[:10]:
        guard.finished(0.0, admission, SLOW_MS)
    assert guard.acquire(0.0, sample=0.5, healthy_fallback=True) is None
    for admission in early[10:]:
        guard.finished(20.0, admission, FAST_MS)
    guard.acquire(20.0, sample=0.5, healthy_fallback=True)
    assert guard.state is LaneState.EJECTED


def test_an_abandoned_attempt_from_before_the_ejection_is_no_late_probe() -> None:
    guard = Guard(SLO)
    early = admit(guard, 0.0)
    answer(guard, 0.0, *[SLOW_MS] * 10)
    assert guard.acquire(0.0, sample=0.5, healthy_fallback=True) is None
    now_s = probe(guard, 10.0, *[FAST_MS] * 5)
    for _ in range(2):
        guard.abandoned(now_s, early, SLOW_MS)  # two late probes of ten would keep it ejected
    probe(guard, now_s, *[FAST_MS] * 5)
    assert guard.state is LaneState.PROBING


def test_a_lane_on_its_ramp_is_no_healthy_fallback() -> None:
    guard = ejected()
    probe(guard, 10.0, *[FAST_MS] * 10)
    assert guard.state is LaneState.PROBING
    assert not guard.within_budget(40.0)


def test_ten_good_probes_start_the_ramp_and_then_full_service() -> None:
    guard = ejected(0.0)
    now_s = probe(guard, 0.0, *[FAST_MS] * 9, SLOW_MS)
    assert guard.state is LaneState.PROBING
    assert guard.counts(now_s).total == 0  # the counts before the ejection are dropped
    shares = []
    while guard.state is LaneState.PROBING:
        draws = [step / 100 for step in range(100)]
        tickets = [guard.acquire(now_s, sample=sample, healthy_fallback=True) for sample in draws]
        shares.append(sum(admission is not None for admission in tickets) / 100)
        for admission in [admission for admission in tickets if admission][:10]:
            guard.finished(now_s, admission, FAST_MS)
    assert shares == [0.1, 0.5]
    assert guard.state is LaneState.SERVING


def test_two_late_probes_of_ten_keep_the_lane_ejected_until_they_are_old() -> None:
    guard = ejected(0.0)
    now_s = probe(guard, 0.0, *[FAST_MS] * 8, SLOW_MS, SLOW_MS)
    assert guard.state is LaneState.EJECTED
    probe(guard, now_s, *[FAST_MS] * 9)
    assert guard.state is LaneState.PROBING


def test_probes_near_the_objective_do_not_restore_the_lane() -> None:
    guard = ejected(0.0)
    probe(guard, 0.0, *[NEAR_MS] * 30)
    assert guard.state is LaneState.EJECTED


def test_there_is_no_recovery_before_the_ejection_time_is_over() -> None:
    slo = Slo(p95_ms=BUDGET_MS, probe_every_s=0.1, base_ejection_s=10.0)
    guard = ejected(0.0, slo)
    probe(guard, 0.0, *[FAST_MS] * 50)
    assert guard.state is LaneState.EJECTED
    admit(guard, 10.0)
    assert guard.state is LaneState.PROBING


def test_each_further_ejection_doubles_the_ejection_time_up_to_its_maximum() -> None:
    slo = Slo(p95_ms=BUDGET_MS, probe_every_s=0.1, base_ejection_s=1.0, max_ejection_s=5.0)
    guard = ejected(0.0, slo)
    benched_s, holds = 0.0, []
    for _ in range(4):
        now_s = benched_s
        while guard.state is LaneState.EJECTED:
            now_s = probe(guard, now_s, FAST_MS)
        holds.append(now_s - benched_s)
        now_s = benched_s = probe(guard, now_s, SLOW_MS, SLOW_MS)
        guard.acquire(now_s, sample=0.9, healthy_fallback=True)
        assert guard.state is LaneState.EJECTED
    assert holds == pytest.approx([1.0, 2.0, 4.0, 5.0], abs=0.11)


def test_a_lane_that_served_longer_than_the_maximum_ejection_time_restarts_with_the_base_time() -> None:
    slo = Slo(p95_ms=BUDGET_MS, window_s=12.0, probe_every_s=0.1, base_ejection_s=1.0, max_ejection_s=12.0)
    guard = ejected(0.0, slo)
    now_s = probe(guard, 0.0, *[FAST_MS] * 10)
    now_s = probe(guard, now_s, *[FAST_MS] * 20)
    assert guard.state is LaneState.SERVING
    now_s += 13.0
    answer(guard, now_s, *[SLOW_MS] * 10)
    assert guard.acquire(now_s, sample=0.5, healthy_fallback=True) is None
    probe(guard, now_s, *[FAST_MS] * 11)
    assert guard.state is LaneState.PROBING


def test_a_failed_ramp_stage_without_a_healthy_fallback_is_repeated() -> None:
    guard = ejected(0.0)
    now_s = probe(guard, 0.0, *[FAST_MS] * 10)
    states = []
    for latency_ms in [SLOW_MS] * 10 + [FAST_MS] * 20:
        admission = guard.acquire(now_s, sample=0.9, healthy_fallback=False)
        assert admission is not None
        guard.finished(now_s, admission, latency_ms)
        states.append(guard.state)
    assert states == [LaneState.PROBING] * 29 + [LaneState.SERVING]


@dataclass
class Run:
    """The course of a simulated lane: answers are delayed by their latency, arrivals are Poisson."""

    ejections: list[float]
    healings: list[float]


def simulate(rate: float, hours: float, seed: int, slow_s: tuple[float, float] = (0.0, 0.0), late: float = 0.02) -> Run:
    """One lane under constant load; within `slow_s` every answer is slow, otherwise a share `late` of them."""
    dice = Random(seed)
    guard, run, now_s = Guard(SLO), Run([], []), 0.0
    pending: list[tuple[float, int, Admission, float]] = []
    order = count()
    state = guard.state
    while now_s < hours * 3600:
        now_s += dice.expovariate(rate)
        while pending and pending[0][0] <= now_s:
            ended_s, _, admission, latency_ms = heapq.heappop(pending)
            guard.finished(ended_s, admission, latency_ms)
        admission = guard.acquire(now_s, sample=dice.random(), healthy_fallback=True)
        if guard.state is not state:
            state = guard.state
            if state is LaneState.EJECTED:
                run.ejections.append(now_s)
            elif state is LaneState.SERVING:
                run.healings.append(now_s)
        if admission is not None:
            slow = slow_s[0] <= now_s < slow_s[1] or dice.random() < late
            latency_ms = SLOW_MS if slow else FAST_MS
            heapq.heappush(pending, (now_s + latency_ms / 1000, next(order), admission, latency_ms))
    return run


@pytest.mark.parametrize(("rate", "late", "hours"), [(0.5, 0.02, 20), (0.5, 0.04, 20), (5, 0.04, 4), (20, 0.04, 1)])
def test_a_lane_within_its_objective_is_hardly_ever_ejected(rate: float, late: float, hours: float) -> None:
    assert len(simulate(rate, hours, seed=7, late=late).ejections) <= 1


@pytest.mark.parametrize(("rate", "within_s"), [(0.5, 40), (2, 15), (5, 13), (20, 13)])
def test_a_lane_whose_answers_all_turn_slow_is_ejected_within_seconds(rate: float, within_s: float) -> None:
    for seed in range(5):
        run = simulate(rate, 0.1, seed, slow_s=(120.0, 1e9))
        assert run.ejections
        assert 120.0 < run.ejections[0] <= 120.0 + within_s


@pytest.mark.parametrize(("rate", "within_s"), [(0.5, 150), (2, 60), (20, 45)])
def test_a_lane_that_is_fast_again_recovers_even_at_low_traffic(rate: float, within_s: float) -> None:
    for seed in range(5):
        run = simulate(rate, 0.25, seed, slow_s=(120.0, 240.0))
        assert run.healings
        assert 240.0 < run.healings[-1] <= 240.0 + within_s


@pytest.mark.parametrize("rate", [0.5, 5, 20])
def test_a_lane_slightly_over_its_objective_does_not_flap(rate: float) -> None:
    hours = 2
    assert len(simulate(rate, hours, seed=1, late=0.08).ejections) <= 14 * hours


def test_a_lane_that_stays_slow_changes_state_only_once() -> None:
    run = simulate(5, 0.5, seed=3, slow_s=(60.0, 1e9))
    assert (len(run.ejections), run.healings) == (1, [])


def test_p95_is_unknown_until_twenty_answers_and_then_lags_at_most_a_hundredth_of_the_window() -> None:
    guard = Guard(SLO)
    answer(guard, 0.0, *[FAST_MS] * 19)
    assert guard.p95_ms(0.0) is None
    answer(guard, 0.0, FAST_MS)
    assert guard.p95_ms(0.0) == pytest.approx(FAST_MS, rel=0.02)
    answer(guard, 0.1, *[SLOW_MS] * 5)
    assert guard.p95_ms(SLO.window_s / 100) == pytest.approx(SLOW_MS, rel=0.02)
