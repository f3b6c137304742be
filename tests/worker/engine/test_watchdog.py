"""The step watchdog: only a step that is silent for far longer than its work explains counts as hanging."""

import contextlib
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_worker.engine.watchdog import FACTOR, StepWatchdog


class Clock:
    """Simulated time, which a watching thread reads at every tick."""

    def __init__(self, timeout_s: float) -> None:
        self.now = 100.0
        self.watchdog = StepWatchdog(timeout_s, lambda: self.now)
        self.silence_s: float | None = None

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + self.watchdog.tick_s)
            self.silence_s = self.silence_s or self.watchdog.silence_s(self.now)

    @contextlib.contextmanager
    def step(self, positions: int) -> Iterator[None]:
        with self.watchdog.step(positions):
            yield


@given(
    timeout_s=st.floats(4.0, 600.0),
    fixed_s=st.floats(0.0, 50.0),
    per_position_s=st.floats(1e-6, 0.2),
    warm_up=st.integers(1, 64),
    batches=st.lists(st.integers(1, 2048), max_size=6),
)
def test_no_sequence_of_batches_counts_as_hanging_while_time_grows_no_faster_than_the_work(
    timeout_s: float, fixed_s: float, per_position_s: float, warm_up: int, batches: list[int]
) -> None:
    """Whatever a step costs in itself and per position; the first one is the warm-up, which is smaller than most."""
    clock = Clock(timeout_s)
    with clock.step(warm_up):
        clock.now += fixed_s + per_position_s * warm_up
    for positions in (max(warm_up, each) for each in batches):
        with clock.step(positions):
            clock.run(fixed_s + per_position_s * positions)
        clock.run(1.0)
    assert clock.silence_s is None


@given(timeout_s=st.floats(1.0, 200.0), cost_s=st.floats(0.0, 10.0), positions=st.integers(1, 4096))
def test_a_step_that_never_ends_is_noticed_at_its_limit(timeout_s: float, cost_s: float, positions: int) -> None:
    clock = Clock(timeout_s)
    with clock.step(positions):
        clock.now += cost_s
    limit_s = max(timeout_s, FACTOR * cost_s)
    with clock.step(positions):
        clock.run(0.9 * limit_s)
        assert clock.silence_s is None
        clock.run(0.2 * limit_s + 3 * clock.watchdog.tick_s)
    assert clock.silence_s == pytest.approx(limit_s, rel=0.1, abs=3 * clock.watchdog.tick_s)


def test_steps_of_one_token_do_not_raise_the_limit_of_a_large_step() -> None:
    """They take nearly as long as hundreds of tokens."""
    clock = Clock(10.0)
    for positions in (4096, 1):
        with clock.step(positions):
            clock.now += 0.5
    with clock.step(4096):
        clock.run(20.0)
    assert clock.silence_s == pytest.approx(10.0, abs=3 * clock.watchdog.tick_s)


def test_a_long_step_with_progress_and_an_idle_worker_are_well() -> None:
    clock = Clock(10.0)
    with clock.step(100):
        for _ in range(20):
            clock.run(9.0)
            clock.watchdog.progress()
    clock.run(10_000.0)
    clock.watchdog.progress()
    clock.run(10_000.0)
    assert clock.silence_s is None


def test_time_in_which_the_process_was_suspended_does_not_count() -> None:
    clock = Clock(10.0)
    with clock.step(100):
        clock.run(5.0)
        clock.now += 3600.0  # nobody ticks meanwhile
        clock.run(2.0)
    assert clock.silence_s is None


def test_other_work_of_the_device_has_the_fixed_limit_and_an_error_teaches_nothing() -> None:
    clock = Clock(10.0)
    with contextlib.suppress(KeyError), clock.step(1):
        clock.now += 100.0
        raise KeyError
    with clock.step(0):
        clock.run(14.0)
    assert clock.silence_s == pytest.approx(10.0, abs=3 * clock.watchdog.tick_s)
