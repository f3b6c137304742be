"""The worker's benchmark: its arithmetic and its verdicts."""

from benchmarks.worker import BARS, CONCURRENCY, Bar, Figure, agreeing, allowed_speed_up, joined
from benchmarks.worker_compiled import in_turns
from benchmarks.worker_requests import Run
from benchmarks.worker_steps import StepCost


def cost(rows: int, model_ms: float) -> StepCost:
    return StepCost(rows=rows, step_ms=model_ms + 1, model_ms=model_ms, outside=0.1)


def test_a_bar_is_cleared_on_its_right_side_only() -> None:
    """A value passes an upper bar at or below it, and a lower bar at or above it."""
    assert Bar(note="", at_most=1.0).is_cleared_by(1.0)
    assert not Bar(note="", at_most=1.0).is_cleared_by(1.01)
    assert Bar(note="", at_least=0.85).is_cleared_by(0.85)
    assert not Bar(note="", at_least=0.85).is_cleared_by(0.84)


def test_every_bar_has_exactly_one_side() -> None:
    """Any value would pass a bar without a side."""
    assert all((bar.at_most is None) != (bar.at_least is None) for bar in BARS.values())


def test_a_figure_is_judged_by_the_bar_of_its_name() -> None:
    """A latency above that of `generate()` misses the bar."""
    assert Figure(name="single request, latency", value=0.9, detail="").is_cleared
    assert not Figure(name="single request, latency", value=1.1, detail="").is_cleared


def test_the_ceiling_is_rows_times_the_price_of_one_over_the_price_of_all() -> None:
    """Eight rows at twice the cost of one row allow a speed-up of four."""
    assert allowed_speed_up({1: cost(1, 5.0), CONCURRENCY: cost(CONCURRENCY, 10.0)}) == CONCURRENCY / 2


def test_runs_joined_add_up() -> None:
    """Texts in order, tokens and seconds summed."""
    run = joined([Run(texts=("a",), tokens=3, seconds=1.0), Run(texts=("b",), tokens=5, seconds=3.0)])
    assert run == Run(texts=("a", "b"), tokens=8, seconds=4.0)
    assert run.tokens_per_s == 2.0


def test_agreement_counts_equal_pairs() -> None:
    """Position matters."""
    assert agreeing(["a", "b", "c"], ["a", "c", "b"]) == 1


def test_two_implementations_take_turns_and_the_first_round_only_warms_up() -> None:
    """A slow first round, as one that compiles, does not count."""
    now, called = [0.0], list[str]()

    def call(name: str, seconds: float) -> None:
        called.append(name)
        now[0] += 100.0 if len(called) <= 2 else seconds

    pair = (lambda: call("ours", 0.002), lambda: call("theirs", 0.004))
    ours, theirs = in_turns([pair], rounds=2, clock=lambda: now[0])
    assert called == ["ours", "theirs"] * 3
    assert (round(ours, 6), round(theirs, 6)) == (2.0, 4.0)
