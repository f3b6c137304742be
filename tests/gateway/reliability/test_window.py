"""The sliding window: exact counts, quantiles within two percent, exact merging."""

from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.reliability.window import SLICES, Counts, Slice, Window, bucket_of, quantile

WINDOW_S = 60.0
SLICE_S = WINDOW_S / SLICES

answers = st.lists(
    st.tuples(st.floats(0, 300), st.booleans(), st.floats(0.01, 1e6)), max_size=60
)  # (seconds, over, latency_ms)


def filled(rows: list[tuple[float, bool, float]]) -> Window:
    window = Window(WINDOW_S)
    for now_s, over, latency_ms in rows:
        window.add(now_s, latency_ms, over=over)
    return window


@given(answers)
def test_the_window_holds_exactly_the_last_twelve_slices(rows: list[tuple[float, bool, float]]) -> None:
    rows = sorted(rows)
    newest = int(rows[-1][0] // SLICE_S) if rows else 0
    inside = [over for now_s, over, _ in rows if int(now_s // SLICE_S) > newest - SLICES]
    now_s = rows[-1][0] if rows else 0.0
    assert filled(rows).counts(now_s) == Counts(total=len(inside), over=sum(inside))


def test_an_answer_expires_when_its_slice_is_one_window_old() -> None:
    window = filled([(0.0, True, 10.0)])
    assert window.counts(WINDOW_S - 0.001).total == 1
    assert window.counts(WINDOW_S).total == 0


def test_an_idle_hour_empties_the_window() -> None:
    assert filled([(1.0, False, 10.0)] * 30).counts(3600.0) == Counts()


def test_a_clock_that_steps_back_loses_nothing() -> None:
    window = filled([(100.0, False, 10.0)])
    window.add(40.0, 10.0, over=True)
    assert window.counts(100.0) == Counts(total=2, over=1)


@given(answers, answers)
def test_merging_two_windows_is_the_window_of_all_their_answers(
    ours: list[tuple[float, bool, float]], theirs: list[tuple[float, bool, float]]
) -> None:
    now_s = 300.0
    merged = filled(sorted(ours))
    merged.merge(now_s, filled(sorted(theirs)).slices(now_s))
    together = filled(sorted(ours + theirs))
    assert merged.slices(now_s) == together.slices(now_s)


def test_expired_slices_are_not_merged() -> None:
    window = Window(WINDOW_S)
    old = Slice(index=0, counts=Counts(total=5, over=5), latencies={1: 5})
    window.merge(WINDOW_S, [old])
    assert window.counts(WINDOW_S) == Counts()


def test_a_replica_whose_clock_is_ahead_counts_as_now() -> None:
    window = Window(WINDOW_S)
    ahead = Slice(index=3, counts=Counts(total=5, over=1), latencies={1: 5})
    window.merge(2 * SLICE_S, [ahead])
    assert window.counts(2 * SLICE_S) == Counts(total=5, over=1)


@given(st.lists(st.floats(0.01, 1e6), min_size=20, max_size=200), st.sampled_from([0.5, 0.9, 0.95]))
def test_a_quantile_is_within_two_percent_of_the_true_one(latencies: list[float], share: float) -> None:
    window = filled([(1.0, False, latency_ms) for latency_ms in latencies])
    exact = sorted(latencies)[ceil(share * len(latencies) - 1e-9) - 1]
    assert window.quantile(1.0, share) == pytest.approx(exact, rel=0.0201)


def test_p95_of_fewer_than_twenty_answers_is_unknown() -> None:
    rows = [(1.0, False, 10.0)] * 19
    assert filled(rows).quantile(1.0, 0.95) is None
    assert filled([*rows, rows[0]]).quantile(1.0, 0.95) == pytest.approx(10.0, rel=0.02)


def test_the_quantile_of_nothing_is_unknown() -> None:
    assert Window(WINDOW_S).quantile(0.0, 0.5) is None
    assert quantile({}, 0.5) is None


@pytest.mark.parametrize("latency_ms", [0.0, -1.0, 1e30])
def test_absurd_latencies_fall_into_the_outermost_buckets(latency_ms: float) -> None:
    assert bucket_of(1e-3) <= bucket_of(latency_ms) <= bucket_of(1e9)


def test_a_cleared_window_is_empty() -> None:
    window = filled([(1.0, True, 10.0)] * 30)
    window.clear()
    assert window.counts(1.0) == Counts()
    assert window.quantile(1.0, 0.5) is None
