"""What goes wrong is planned so that somebody is always left to answer."""

from hypothesis import given
from hypothesis import strategies as st

from twolane.chaos.plan import GATEWAYS, STORE, WORKERS, Deed, Trouble, troubles

PLANS = st.builds(troubles, st.floats(20, 900), st.floats(2, 20), st.integers(0, 50))


@given(PLANS)
def test_no_part_is_hurt_twice_at_once_and_never_both_gateways(plan: tuple[Trouble, ...]) -> None:
    for number, one in enumerate(plan):
        for other in plan[number + 1 :]:
            same = one.part == other.part or {one.part, other.part} <= set(GATEWAYS)
            apart = one.ends_s < other.at_s or other.ends_s < one.at_s
            assert apart or not same


@given(st.floats(20, 900), st.integers(0, 50))
def test_beginning_and_end_are_calm_and_a_seed_repeats_all(seconds: float, seed: int) -> None:
    plan = troubles(seconds, 8.0, seed)
    assert all(one.at_s >= 5.0 and one.ends_s <= seconds - 5.0 for one in plan)
    assert plan == troubles(seconds, 8.0, seed)


def test_in_ten_minutes_every_part_is_killed_and_paused_and_every_worker_spoilt() -> None:
    done = {(one.part, one.deed) for one in troubles(600.0, 8.0, 1)}
    assert done >= {(part, deed) for part in (*WORKERS, *GATEWAYS, STORE) for deed in (Deed.KILL, Deed.PAUSE)}
    assert done >= {(worker, Deed.SPOIL) for worker in WORKERS}
