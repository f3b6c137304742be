"""The memory-pressure level rises at once and falls slowly."""

from hypothesis import given
from hypothesis import strategies as st

from diffusion_worker.memory.pressure import HOLD_S, HYSTERESIS, THRESHOLDS, PressureMonitor
from diffusion_worker.types.status import Pressure


def test_levels_rise_at_once_and_fall_one_at_a_time() -> None:
    it = PressureMonitor()
    assert it.update(97, 100, 0.0) is Pressure.ADMISSION
    assert it.update(10, 100, HOLD_S / 2) is Pressure.ADMISSION, "what was given back takes a moment to show"
    seen = [it.update(10, 100, HOLD_S * turn) for turn in range(1, 5)]
    assert seen == [Pressure.BATCH, Pressure.PREFIX_CACHE, Pressure.NONE, Pressure.NONE]


def test_just_below_a_level_nothing_is_taken_back_yet() -> None:
    it = PressureMonitor()
    it.update(860, 1000, 0.0)
    assert it.update(840, 1000, 99.0) is Pressure.PREFIX_CACHE
    assert it.update(799, 1000, 99.0) is Pressure.NONE


def test_an_unknown_limit_means_no_pressure() -> None:
    assert PressureMonitor().update(10**12, 0, 0.0) is Pressure.NONE


@given(st.lists(st.tuples(st.integers(0, 100), st.floats(0.0, 3.0)), max_size=40))
def test_the_level_is_never_below_what_the_usage_demands(readings: list[tuple[int, float]]) -> None:
    it, now = PressureMonitor(), 0.0
    for share, passed in readings:
        before, now = it.level, now + passed
        level = it.update(share, 100, now)
        assert level >= max((each for each, least in THRESHOLDS.items() if share / 100 >= least), default=Pressure.NONE)
        assert level >= before - 1
        assert level >= before or share / 100 < THRESHOLDS[before] - HYSTERESIS
