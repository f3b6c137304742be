"""Event loop lag: what stalls can have added to an attempt's time, and no more."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.reliability.loop_lag import MARK_EVERY_S, LoopLag

TURNS_S = st.lists(st.floats(0.0, 0.5), min_size=1, max_size=60)


def turned(*turns_s: float) -> tuple[LoopLag, float]:
    """A loop whose turns take these times, and the time of the last mark."""
    lag, now_s = LoopLag(), 0.0
    wait_s = lag.mark(now_s)
    for turn_s in turns_s:
        now_s += max(turn_s, wait_s)
        wait_s = lag.mark(now_s)
    return lag, now_s


def test_a_loop_that_turns_in_time_delays_nothing() -> None:
    lag, now_s = turned(*[MARK_EVERY_S] * 50)
    assert lag.stalled_s(0.0, now_s + MARK_EVERY_S) == pytest.approx(0.0, abs=1e-9)
    assert lag.sustained_s == pytest.approx(0.0, abs=1e-9)


def test_a_busy_loop_is_marked_in_every_turn_and_an_idle_one_by_a_timer() -> None:
    lag = LoopLag()
    assert lag.mark(0.0) == MARK_EVERY_S
    assert lag.mark(0.02) == 0.0  # late: the next turn counts from here
    assert lag.mark(0.023) == 0.0
    assert lag.stalled_s(0.02, 0.023) == pytest.approx(0.003)
    assert lag.mark(0.0231) == MARK_EVERY_S


def test_a_stall_counts_from_the_attempts_start() -> None:
    lag, now_s = turned(0.2)
    assert lag.stalled_s(0.0, now_s) == pytest.approx(0.2 - MARK_EVERY_S)
    assert lag.stalled_s(0.15, now_s) == pytest.approx(0.05)


def test_a_stall_that_has_not_ended_counts_already() -> None:
    lag, now_s = turned(MARK_EVERY_S)
    assert lag.stalled_s(now_s, now_s + 0.3) == pytest.approx(0.3 - MARK_EVERY_S)


def test_a_stall_before_the_attempt_does_not_count() -> None:
    lag, now_s = turned(0.2, 0.0)
    assert lag.stalled_s(now_s, now_s + MARK_EVERY_S) == pytest.approx(0.0, abs=1e-9)


def test_a_target_that_is_slow_is_seen_through_steady_stalls() -> None:
    """Only the turns that an attempt needs for itself are forgiven, not every stall while it waits."""
    lag, now_s = turned(*[0.02] * 100)
    assert now_s - lag.stalled_s(0.0, now_s) > 1.8


def test_a_single_long_turn_is_not_sustained() -> None:
    assert turned(0.5)[0].sustained_s == 0.0
    assert turned(0.5, 0.4, 0.3)[0].sustained_s == 0.0
    assert turned(0.5, 0.4, 0.3, 0.6)[0].sustained_s == pytest.approx(0.3)


@given(turns_s=TURNS_S, start=st.floats(0, 1), rest_s=st.floats(0, 0.5))
def test_what_is_subtracted_is_never_negative_and_never_more_than_the_attempt(
    turns_s: list[float], start: float, rest_s: float
) -> None:
    lag, marked_s = turned(*turns_s)
    now_s, since_s = marked_s + rest_s, start * marked_s
    assert -1e-9 <= lag.stalled_s(since_s, now_s) <= now_s - since_s + 1e-9


@given(turns_s=TURNS_S, arrives=st.floats(0, 1))
def test_an_answer_that_came_within_one_turn_is_never_counted_as_later_than_it_came(
    turns_s: list[float], arrives: float
) -> None:
    """The target answers at a moment of the last turn, and the loop sees it at the end of that turn."""
    lag, now_s = turned(*turns_s)
    arrived_s = now_s - turns_s[-1] * (1 - arrives)
    assert now_s - lag.stalled_s(0.0, now_s) <= arrived_s + MARK_EVERY_S + 0.001 + 1e-9
