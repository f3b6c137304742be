"""State of one process: which outcomes count for the breaker, for the guard, or for neither."""

from dataclasses import replace
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.decision import AttemptRecord
from gateway.enums import AttemptOutcome, BreakerState, Kind, LaneState, Reason
from gateway.policy_types import Limit, Retry, Slo
from gateway.reliability.breaker import BreakerRule
from gateway.reliability.replication import PeerSnapshot, Snapshot
from gateway.state.memory import MemoryStore
from gateway.types import Candidate, Status, Target, Verdict

SLO = Slo(p95_ms=100, window_s=12)


def lane(**changes: Any) -> Candidate:
    target = Target(
        **{
            "name": "fast",
            "kind": Kind.WORKER,
            "url": "http://fast",
            "model": "m",
            "location": "in_cluster",
            **changes,
        }
    )
    return Candidate(route="edits", target=target, slo=SLO)


def attempt(outcome: Any, took_ms: float = 10.0) -> AttemptRecord:
    return AttemptRecord(target="fast", started_ms=0, ended_ms=took_ms, outcome=outcome)


def play(store: MemoryStore, outcome: Any, *, times: int = 1, took_ms: float = 10.0, now_s: float = 1.0) -> list[Any]:
    """Sequential attempts; returns the verdicts of the refused ones."""
    refused = []
    for _ in range(times):
        permit = store.acquire(lane(), now_s, sample=0.5, healthy_fallback=True)
        if isinstance(permit, Verdict):
            refused.append(permit.reason)
        else:
            permit.release(attempt(outcome, took_ms), now_s)
    return refused


def health(store: MemoryStore, now_s: float = 1.0) -> Any:
    return store.health(lane(), Status(), now_s)


ENDS = [AttemptOutcome.OK, AttemptOutcome.CANCELLED, Reason.UPSTREAM_ERROR, Reason.OVERLOADED]
STEPS = st.lists(
    st.tuples(st.sampled_from(ENDS), st.sampled_from([10.0, 200.0]), st.sampled_from([0.01, 0.5, 3.0]), st.booleans()),
    max_size=60,
)


@given(st.integers(0, 25), STEPS)
def test_a_calm_lane_admits_what_the_full_checks_admit_and_counts_it_alike(late: int, steps: list[Any]) -> None:
    """One store asks the short question first, the other never does. About twenty late answers eject the lane."""
    steps = [(AttemptOutcome.OK, 200.0, 0.01, True)] * late + steps
    asked, other, now_s = MemoryStore(), MemoryStore(), 1.0
    candidate = lane(kind=Kind.OPENAI, max_in_flight=3, retry=Retry())
    held: list[tuple[Any, Any]] = []
    for outcome, took_ms, pause_s, ends in steps:
        now_s += pause_s
        expected = other.acquire(candidate, now_s, sample=0.5, healthy_fallback=True)
        found = asked.acquire_calm(candidate, now_s)
        if found is None:
            found = asked.acquire(candidate, now_s, sample=0.5, healthy_fallback=True)
        assert isinstance(found, Verdict) == isinstance(expected, Verdict)
        if not isinstance(found, Verdict) and not isinstance(expected, Verdict):
            assert found.probe == expected.probe
            held.append((found, expected))
        if ends and held:
            record = attempt(outcome, took_ms)
            record.retry_after_s = 1.0 if outcome is Reason.OVERLOADED else None
            for permit in held.pop(0):
                permit.release(record, now_s)
        health = asked.health(candidate, Status(), now_s)
        assert health == other.health(candidate, Status(), now_s)
        if health.retry_after_s > 0:
            assert asked.acquire_calm(candidate, now_s) is None
    assert asked.snapshot(now_s) == other.snapshot(now_s)


@pytest.mark.parametrize("outcome", [Reason.UPSTREAM_ERROR])
def test_server_failures_open_the_breaker_and_do_not_eject_the_lane(outcome: Reason) -> None:
    store = MemoryStore()
    assert play(store, outcome, times=6, took_ms=500) == [Reason.CIRCUIT_OPEN]
    assert (health(store).breaker, health(store).lane) == (BreakerState.OPEN, LaneState.SERVING)


@pytest.mark.parametrize("outcome", [AttemptOutcome.OK, Reason.INVALID_OUTPUT, Reason.LOW_CONFIDENCE])
def test_late_responses_eject_the_lane_whatever_their_outcome(outcome: Any) -> None:
    store = MemoryStore()
    assert play(store, outcome, times=12, took_ms=200) == [Reason.P95_BREACH] * 2
    assert (health(store).breaker, health(store).lane) == (BreakerState.CLOSED, LaneState.EJECTED)


@pytest.mark.parametrize("outcome", [Reason.DEADLINE, AttemptOutcome.CANCELLED, Reason.HEDGE])
def test_an_abandoned_attempt_counts_only_beyond_the_objective(outcome: Any) -> None:
    quick, slow = MemoryStore(), MemoryStore()
    assert play(quick, outcome, times=30, took_ms=90) == []
    assert play(slow, outcome, times=12, took_ms=110) == [Reason.P95_BREACH] * 2
    assert health(slow).breaker is BreakerState.CLOSED


@pytest.mark.parametrize("outcome", [Reason.OVERLOADED, Reason.NOT_RESIDENT, Reason.REFUSED, Reason.UNSUPPORTED])
def test_a_rejection_counts_for_neither(outcome: Reason) -> None:
    store = MemoryStore()
    assert play(store, outcome, times=30, took_ms=500) == []


def test_any_response_resets_the_failure_count() -> None:
    store = MemoryStore()
    for outcome in [Reason.UPSTREAM_ERROR] * 4 + [Reason.REFUSED] + [Reason.UPSTREAM_ERROR] * 4:
        assert play(store, outcome) == []


def test_an_open_breaker_admits_one_trial_as_a_probe() -> None:
    store = MemoryStore(BreakerRule(failures=1, open_s=2))
    play(store, Reason.UPSTREAM_ERROR)
    trial = store.acquire(lane(), 3.5, sample=0.5, healthy_fallback=True)
    assert not isinstance(trial, Verdict)
    assert trial.probe
    second = store.acquire(lane(), 3.5, sample=0.5, healthy_fallback=True)
    assert isinstance(second, Verdict)
    trial.release(attempt(AttemptOutcome.OK), 3.6)
    assert health(store).breaker is BreakerState.CLOSED


def test_a_server_that_is_reachable_again_is_called_at_once() -> None:
    store = MemoryStore(BreakerRule(failures=1, open_s=30))
    play(store, Reason.UPSTREAM_ERROR)
    assert play(store, AttemptOutcome.OK) == [Reason.CIRCUIT_OPEN]
    store.reset_breaker("fast")
    assert play(store, AttemptOutcome.OK) == []


def test_attempts_are_limited_by_max_in_flight() -> None:
    store, full = MemoryStore(), lane(max_in_flight=2)
    permits = [store.acquire(full, 1.0, sample=0.5, healthy_fallback=False) for _ in range(3)]
    refused = permits[2]
    assert isinstance(refused, Verdict)
    assert (refused.reason, refused.detail) == (Reason.OVERLOADED, "2 of 2 in flight")
    first = permits[0]
    assert not isinstance(first, Verdict)
    first.release(attempt(AttemptOutcome.OK), 1.0)
    assert not isinstance(store.acquire(full, 1.0, sample=0.5, healthy_fallback=False), Verdict)


def test_a_full_target_does_not_use_up_the_breaker_s_trial() -> None:
    """The breaker records its trial when it is checked, so it is checked last."""
    store, full = MemoryStore(BreakerRule(failures=1, open_s=2)), lane(max_in_flight=1)
    running = store.acquire(full, 0.0, sample=0.5, healthy_fallback=False)
    play(store, Reason.UPSTREAM_ERROR)
    assert isinstance(store.acquire(full, 4.0, sample=0.5, healthy_fallback=False), Verdict)
    assert not isinstance(running, Verdict)
    running.release(attempt(AttemptOutcome.CANCELLED), 4.0)
    assert not isinstance(store.acquire(full, 4.0, sample=0.5, healthy_fallback=False), Verdict)


def test_a_changed_objective_starts_with_a_new_guard() -> None:
    store = MemoryStore()
    play(store, AttemptOutcome.OK, times=12, took_ms=200)
    looser = Candidate(route="edits", target=lane().target, slo=Slo(p95_ms=500))
    assert not isinstance(store.acquire(looser, 1.0, sample=0.5, healthy_fallback=True), Verdict)


def test_a_request_of_an_earlier_policy_does_not_part_a_lane_from_its_guard() -> None:
    store, earlier, looser = MemoryStore(), lane(), replace(lane(), slo=Slo(p95_ms=500))
    for candidate in (earlier, looser, replace(earlier)):  # the last is a retry at other endpoints
        store.health(candidate, Status(), 1.0)
    for _ in range(20):
        permit = store.acquire(looser, 1.0, sample=0.5, healthy_fallback=True)
        assert not isinstance(permit, Verdict)
        permit.release(attempt(AttemptOutcome.OK, 50), 1.0)
    assert store.p95_ms(looser, 1.0) == pytest.approx(50, rel=0.02)
    [(_, shared)] = store.snapshot(1.0).lanes
    assert shared.slo == looser.slo


def test_reading_health_changes_nothing_and_creates_no_state() -> None:
    store = MemoryStore()
    assert health(store).lane is LaneState.SERVING
    assert health(store).within_budget
    assert store.p95_ms(lane(), 1.0) is None


def test_p95_is_known_after_enough_responses() -> None:
    store = MemoryStore()
    play(store, AttemptOutcome.OK, times=19, took_ms=50)
    assert store.p95_ms(lane(), 1.0) is None
    play(store, AttemptOutcome.OK, times=1, took_ms=50)
    assert store.p95_ms(lane(), 1.0) == pytest.approx(50, rel=0.02)


@pytest.mark.parametrize("is_hang", [False, True])
def test_a_deadline_counts_for_the_breaker_only_if_the_target_hung(is_hang: bool) -> None:
    store = MemoryStore(BreakerRule(failures=1))
    permit = store.acquire(lane(), 1.0, sample=0.5, healthy_fallback=False)
    assert not isinstance(permit, Verdict)
    permit.release(replace(attempt(Reason.DEADLINE), is_hang=is_hang), 1.0)
    assert health(store).breaker is (BreakerState.OPEN if is_hang else BreakerState.CLOSED)


def test_an_answer_without_an_end_neither_forgives_failures_nor_keeps_a_breaker_open() -> None:
    store = MemoryStore(BreakerRule(failures=2, open_s=2))
    for outcome in (Reason.UPSTREAM_ERROR, AttemptOutcome.INCOMPLETE, Reason.UPSTREAM_ERROR):
        assert play(store, outcome) == []
    assert health(store).breaker is BreakerState.OPEN
    assert play(store, AttemptOutcome.INCOMPLETE, now_s=4.0) == []
    assert health(store).breaker is BreakerState.CLOSED


def limited(store: MemoryStore, wait_s: float, *, is_quota: bool = True, **target: Any) -> Candidate:
    """A call that is told to wait."""
    candidate = Candidate(route="edits", target=lane(**target).target)
    permit = store.acquire(candidate, 10.0, sample=0.5, healthy_fallback=False)
    assert not isinstance(permit, Verdict)
    permit.release(replace(attempt(Reason.OVERLOADED), retry_after_s=wait_s, is_quota=is_quota), 10.0)
    return candidate


def test_a_target_is_held_until_it_may_be_called_again() -> None:
    store = MemoryStore()
    candidate = limited(store, 60, kind=Kind.OPENAI)
    found = store.health(candidate, Status(), 15.0)
    assert (found.retry_after_s, found.is_quota) == (55.0, True)
    assert store.health(candidate, Status(), 70.0).retry_after_s == 0


def test_a_shorter_wait_does_not_end_a_longer_one_and_a_long_one_is_shortened() -> None:
    store = MemoryStore()
    limited(store, 60, kind=Kind.OPENAI)
    candidate = limited(store, 5, is_quota=False, kind=Kind.OPENAI)
    assert store.health(candidate, Status(), 11.0).retry_after_s == 59.0
    limited(store, inf, kind=Kind.OPENAI, retry_after_max_s=100)
    assert store.health(candidate, Status(), 11.0).retry_after_s == 99.0


def test_a_worker_is_not_held_because_it_reports_its_wait() -> None:
    store = MemoryStore()
    assert store.health(limited(store, 60), Status(), 11.0).retry_after_s == 0


def test_replicas_share_waits_and_never_extend_them() -> None:
    one, other = MemoryStore(), MemoryStore()
    candidate = limited(one, 60, kind=Kind.OPENAI)
    for now_s in (20.0, 30.0):  # the clocks differ by 1000 s
        peer = PeerSnapshot(name="one", written_s=now_s + 1000, snapshot=one.snapshot(now_s))
        other.merge(now_s + 1000, [peer], me="other")
        back = PeerSnapshot(name="other", written_s=now_s, snapshot=other.snapshot(now_s + 1000))
        one.merge(now_s, [back], me="one")
    assert other.health(candidate, Status(), 1030.0).retry_after_s == pytest.approx(40)
    assert other.health(candidate, Status(), 1030.0).is_quota
    assert one.health(candidate, Status(), 30.0).retry_after_s == pytest.approx(40)
    assert one.snapshot(71.0).holds == ()


FIRST = Slo(first_token_p95_ms=50, window_s=12, probe_every_s=0.5, base_ejection_s=1)


def stream(first_token_ms: float | None, took_ms: float, outcome: Any = AttemptOutcome.OK) -> AttemptRecord:
    return AttemptRecord(
        target="fast", started_ms=5, ended_ms=5 + took_ms, outcome=outcome, stream=True,
        first_token_ms=None if first_token_ms is None else 5 + first_token_ms,
    )  # fmt: skip


def play_streams(store: MemoryStore, slo: Slo, attempt: AttemptRecord, times: int, now_s: float = 1.0) -> list[Any]:
    refused = []
    for _ in range(times):
        permit = store.acquire(replace(lane(), slo=slo), now_s, sample=0.5, healthy_fallback=True)
        if isinstance(permit, Verdict):
            refused.append(permit.detail)
        else:
            permit.release(attempt, now_s)
    return refused


@pytest.mark.parametrize(
    ("attempt", "is_late"),
    [
        (stream(60, 70), True),
        (stream(40, 9000), False),  # the objective covers only the first token
        (stream(60, 70, Reason.UPSTREAM_ERROR), True),  # it failed later, but the first token had arrived
        (stream(None, 60, Reason.HEDGE), True),
        (stream(None, 40, Reason.HEDGE), False),
        (stream(None, 9000, Reason.REFUSED), False),
        (attempt(AttemptOutcome.OK, 9000), False),  # not a stream
    ],
)
def test_a_late_first_token_ejects_a_lane_of_streams(attempt: AttemptRecord, is_late: bool) -> None:
    store = MemoryStore(BreakerRule(failures=1000))
    refused = play_streams(store, FIRST, attempt, times=12)
    assert refused == (["ejected, p95 of the first token over 50 ms"] * 2 if is_late else [])


def test_either_of_two_objectives_ejects_the_lane_and_both_must_recover() -> None:
    """A probe counts for both: two ejections that wait for different probes would never end."""
    both = replace(FIRST, p95_ms=100)
    store = MemoryStore()
    play_streams(store, both, stream(60, 200), times=10)
    assert play_streams(store, both, stream(60, 200), times=1)
    assert store.health(replace(lane(), slo=both), Status(), 1.0).lane is LaneState.EJECTED
    for tick in range(300):
        play_streams(store, both, stream(5, 10), times=1, now_s=2.0 + 0.1 * tick)
    healed = store.health(replace(lane(), slo=both), Status(), 33.0)
    assert (healed.lane, healed.within_budget) == (LaneState.SERVING, True)


@pytest.mark.parametrize(("silent_s", "given"), [(1.0, 5), (60.0, 0)])
def test_a_silent_replica_receives_no_retry_budget(silent_s: float, given: int) -> None:
    """It may be dead, and its budget would be lost."""
    store = MemoryStore()
    candidate = lane(retry=Retry(max_share=0.2))
    for _ in range(50):
        store.acquire(candidate, 100.0, sample=0.5, healthy_fallback=True)
    store.merge(100.0, [PeerSnapshot(name="other", written_s=100.0 - silent_s, snapshot=Snapshot())], me="us")
    (budget,) = (budget for _, budget in store.snapshot(100.0).retries)
    assert budget.sent == ((("other", given),) if given else ())


def test_only_keys_with_a_daily_budget_are_counted_by_day() -> None:
    """What is counted is exchanged with other replicas, so requests of other keys must not cause any exchange."""
    store = MemoryStore()
    for limit in (Limit(requests_per_minute=9), Limit(tokens_per_day=9)):
        assert store.acquire_quota("ann", limit, 0, 0) is None
        assert store.budgets.take_changed() == {}
        store.release_quota("ann", limit, 5, 0.0, wall_s=0)
    assert [spent.tokens for spent in store.budgets.take_changed().values()] == [5]
