"""Faults are scheduled so that one gateway and one worker are always left."""

from hypothesis import given
from hypothesis import strategies as st

from twolane.chaos.plan import GATEWAYS, STORE, WORKERS, FaultInjection, FaultKind, schedule_faults

PLANS = st.builds(schedule_faults, st.floats(20, 900), st.floats(2, 20), st.integers(0, 50))


@given(PLANS)
def test_faults_of_a_part_or_of_both_gateways_never_overlap(plan: tuple[FaultInjection, ...]) -> None:
    for number, one in enumerate(plan):
        for other in plan[number + 1 :]:
            same = one.part == other.part or {one.part, other.part} <= set(GATEWAYS)
            apart = one.ends_s < other.at_s or other.ends_s < one.at_s
            assert apart or not same


@given(st.floats(20, 900), st.integers(0, 50))
def test_beginning_and_end_have_no_faults_and_a_seed_reproduces_the_schedule(seconds: float, seed: int) -> None:
    plan = schedule_faults(seconds, 8.0, seed)
    assert all(one.at_s >= 5.0 and one.ends_s <= seconds - 5.0 for one in plan)
    assert plan == schedule_faults(seconds, 8.0, seed)


def test_ten_minutes_kill_and_pause_every_part_and_put_every_worker_behind_a_fault() -> None:
    done = {(one.part, one.kind) for one in schedule_faults(600.0, 8.0, 1)}
    assert done >= {(part, kind) for part in (*WORKERS, *GATEWAYS, STORE) for kind in (FaultKind.KILL, FaultKind.PAUSE)}
    assert done >= {(worker, FaultKind.PROXY) for worker in WORKERS}
