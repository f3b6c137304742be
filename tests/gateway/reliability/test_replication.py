"""Replication: replicas act as one, regardless of the order and repetition of snapshots."""

from itertools import permutations
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.enums import BreakerState, LaneState
from gateway.policy_types import Slo
from gateway.reliability.breaker import CLOSED, Breaker, BreakerEvent, BreakerRule, allow_request, merge, snapshot, step
from gateway.reliability.replication import LaneSnapshot
from gateway.reliability.slo_guard import Guard
from gateway.reliability.window import Counts

SLO = Slo(p95_ms=100, window_s=12, probe_every_s=0.5, base_ejection_s=1)

answers = st.lists(st.tuples(st.floats(0, 11), st.sampled_from([10.0, 200.0])), max_size=30)
rounds = st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.floats(0, 0.99)), min_size=20, max_size=150)


def guard_with(rows: list[tuple[float, float]]) -> Guard:
    """A guard with these (seconds, latency) answers and no healthy fallback, so that it stays in its first epoch."""
    guard = Guard(SLO)
    for now_s, latency_ms in sorted(rows):
        admission = guard.acquire(now_s, sample=0.5, healthy_fallback=False)
        assert admission is not None
        guard.finished(now_s, admission, latency_ms)
    return guard


def state_of(guard: Guard) -> tuple[int, int, LaneState]:
    snapshots = guard.snapshot(0.0)
    return snapshots.epoch, snapshots.ramp_stage, guard.state


def exchange(guards: list[Guard], now_s: float) -> None:
    snapshots = [guard.snapshot(now_s) for guard in guards]
    for guard in guards:
        guard.merge(now_s, [(now_s, one) for one, owner in zip(snapshots, guards, strict=True) if owner is not guard])


@given(answers, answers, answers)
def test_every_replica_counts_the_answers_of_all_replicas(one: Any, two: Any, three: Any) -> None:
    guards = [guard_with(rows) for rows in (one, two, three)]
    exchange(guards, 11.5)
    exchange(guards, 11.5)  # sent twice, counted once
    everything = [*one, *two, *three]
    together = Counts(total=len(everything), over=sum(latency > 100 for _, latency in everything))
    assert [guard.counts(11.5) for guard in guards] == [together] * 3


@given(st.lists(st.floats(2, 11), max_size=30), st.floats(-500, 500))
def test_the_clocks_of_replicas_may_differ(times: list[float], ahead_s: float) -> None:
    """The peer's clock may be ahead by any amount: its counts are placed by age, to within half a slice."""
    other, ours = guard_with([(at_s + 600 + ahead_s, 10.0) for at_s in times]), Guard(SLO)
    ours.merge(611.0, [(611.0, other.snapshot(611.0 + ahead_s))])
    assert ours.counts(611.0).total == len(times)
    assert ours.counts(611.0 + 13).total == 0


def test_old_snapshots_have_aged() -> None:
    other, ours = guard_with([(10.0, 200.0)] * 10), Guard(SLO)
    ours.merge(1000.0, [(995.0, other.snapshot(11.0))])
    assert ours.counts(1000.0).total == 10
    assert ours.counts(1007.0).total == 0


@given(rounds, st.permutations([0, 1, 2]))
def test_the_order_of_snapshots_does_not_matter(steps: Any, order: list[int]) -> None:
    """After any history, a new replica ends in the same state, regardless of the order of snapshots."""
    guards = play(steps)
    snapshots = [(100.0, guard.snapshot(100.0)) for guard in guards]
    plain, shuffled = Guard(SLO), Guard(SLO)
    plain.merge(100.0, snapshots)
    shuffled.merge(100.0, [snapshots[index] for index in order])
    assert state_of(plain) == state_of(shuffled)
    assert plain.counts(100.0) == shuffled.counts(100.0)


@given(rounds)
def test_after_two_exchanges_all_replicas_have_the_same_state(steps: Any) -> None:
    guards = play(steps)
    for _ in range(2):
        exchange(guards, 100.0)
    assert len({state_of(guard) for guard in guards}) == 1


def play(steps: list[tuple[int, bool, float]]) -> list[Guard]:
    """Three replicas of one lane with slow and fast answers, which exchange snapshots now and then."""
    guards, now_s = [Guard(SLO) for _ in range(3)], 0.0
    for number, (who, slow, sample) in enumerate(steps):
        now_s += 0.6
        admission = guards[who].acquire(now_s, sample=sample, healthy_fallback=True)
        if admission is not None:
            guards[who].finished(now_s, admission, 200.0 if slow else 10.0)
        if number % 40 == 39:
            exchange(guards, now_s)
    return guards


def test_probes_of_several_replicas_restore_a_lane_together() -> None:
    guards = [Guard(SLO) for _ in range(3)]
    for _ in range(11):
        admission = guards[0].acquire(0.0, sample=0.5, healthy_fallback=True)
        if admission is not None:
            guards[0].finished(0.0, admission, 200.0)
    exchange(guards, 0.1)
    assert [guard.state for guard in guards] == [LaneState.EJECTED] * 3
    for number in range(10):  # ten probes, no replica has more than four
        guard, now_s = guards[number % 3], 2.0 + number
        admission = guard.acquire(now_s, sample=0.5, healthy_fallback=True)
        assert admission is not None
        guard.finished(now_s, admission, 10.0)
    assert {guard.state for guard in guards} == {LaneState.EJECTED}
    exchange(guards, 12.0)
    exchange(guards, 12.0)
    assert {guard.state for guard in guards} == {LaneState.PROBING}


def test_snapshots_with_another_objective_are_ignored() -> None:
    other = guard_with([(1.0, 200.0)] * 10)
    ours = Guard(Slo(p95_ms=500, window_s=12))
    ours.merge(2.0, [(2.0, other.snapshot(2.0))])
    assert ours.counts(2.0) == Counts()


def test_a_replica_that_left_no_longer_counts() -> None:
    ours = Guard(SLO)
    ours.merge(2.0, [(2.0, guard_with([(1.0, 200.0)] * 10).snapshot(2.0))])
    ours.merge(2.0, [])
    assert ours.counts(2.0) == Counts()


def test_only_a_later_state_is_adopted() -> None:
    ejected = Guard(SLO)
    for _ in range(11):
        admission = ejected.acquire(0.0, sample=0.5, healthy_fallback=True)
        if admission is not None:
            ejected.finished(0.0, admission, 200.0)
    behind: LaneSnapshot = Guard(SLO).snapshot(0.0)
    ejected.merge(0.0, [(0.0, behind)])
    assert ejected.state is LaneState.EJECTED


RULE = BreakerRule(failures=2, open_s=2.0)


def broken(now_s: float = 0.0) -> Breaker:
    breaker = CLOSED
    for _ in range(2):
        breaker = step(breaker, BreakerEvent.FAILURE, now_s, RULE)
    return breaker


def test_an_opening_is_adopted_with_its_age_and_each_replica_sends_its_own_trial() -> None:
    ours = merge(CLOSED, snapshot(broken(100.0), 101.0), written_s=7.0)
    assert ours.state is BreakerState.OPEN
    assert not allow_request(ours, 7.9, RULE)[0]
    assert allow_request(ours, 8.1, RULE)[0]


def test_a_later_closing_is_adopted_and_an_earlier_opening_is_not() -> None:
    opened = broken()
    _, trial = allow_request(opened, 3.0, RULE)
    shut = step(trial, BreakerEvent.OK, 3.1, RULE)
    assert merge(opened, snapshot(shut, 3.2), written_s=3.2).state is BreakerState.CLOSED
    assert merge(shut, snapshot(opened, 3.2), written_s=3.2) is shut


def test_a_known_opening_does_not_revoke_a_trial_in_progress() -> None:
    opened = broken()
    passes, trial = allow_request(opened, 3.0, RULE)
    assert passes
    assert merge(trial, snapshot(opened, 3.2), written_s=3.2) is trial


@pytest.mark.parametrize("seed", range(20))
def test_breakers_agree_regardless_of_the_order_of_snapshots(seed: int) -> None:
    rng, snapshots = Random(seed), []
    for _ in range(3):
        breaker = CLOSED
        for now_s in range(30):
            passes, breaker = allow_request(breaker, float(now_s), RULE)
            if passes:
                event = rng.choice([BreakerEvent.OK, BreakerEvent.FAILURE])
                breaker = step(breaker, event, float(now_s), RULE)
        snapshots.append(snapshot(breaker, 30.0))
    ends = set()
    for order in permutations(snapshots):
        ours = CLOSED
        for one in order:
            ours = merge(ours, one, written_s=30.0)
        ends.add((ours.epoch, ours.state is BreakerState.CLOSED))
    assert len(ends) == 1
