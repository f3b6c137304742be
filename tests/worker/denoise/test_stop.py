"""A canvas stops when it is stable and confident, not a step earlier; its stable prefix may be streamed before."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusion_worker.denoise.stop import STABLE_PROBABILITY, STABLE_STEPS, has_converged, stable_prefix, unchanged_for

CANVAS = torch.tensor([[5, 6, 7]])


def test_the_count_of_each_position_grows_while_it_stays_and_falls_to_zero_when_it_changes() -> None:
    unchanged = unchanged_for(CANVAS, torch.full_like(CANVAS, -1), torch.zeros_like(CANVAS))
    assert unchanged.tolist() == [[0, 0, 0]], "a first canvas has no predecessor to equal"
    unchanged = unchanged_for(CANVAS, CANVAS, unchanged)
    assert unchanged_for(CANVAS, CANVAS, unchanged).tolist() == [[2, 2, 2]]
    assert unchanged_for(torch.tensor([[5, 6, 8]]), CANVAS, unchanged).tolist() == [[2, 2, 0]]


def converged(
    unchanged: list[list[int]], entropy: list[float], *, stability: int = 1, threshold: float = 0.005
) -> list[bool]:
    rows = len(unchanged)
    numbers = torch.tensor([stability] * rows), torch.tensor([threshold] * rows)
    return has_converged(torch.tensor(unchanged), torch.tensor(entropy), *numbers).tolist()


def test_it_needs_stability_and_confidence_together() -> None:
    unchanged, entropy = [[1, 1], [1, 1], [0, 0], [0, 0]], [0.004, 0.006, 0.004, 0.006]
    assert converged(unchanged, entropy) == [True, False, False, False]


def test_one_position_that_has_just_changed_keeps_the_whole_canvas_going() -> None:
    assert converged([[9, 0, 9], [9, 1, 9]], [0.0, 0.0]) == [False, True]


def test_the_mean_entropy_must_be_below_the_threshold_and_not_on_it() -> None:
    assert converged([[1]], [0.005], threshold=0.005) == [False]


def test_a_stability_of_zero_requests_for_confidence_alone() -> None:
    assert converged([[0]], [0.0], stability=0) == [True]


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from((0.5, 0.89, 0.91, 1.0))), min_size=1, max_size=12))
def test_the_stable_prefix_ends_before_the_first_position_that_is_new_or_unlikely(row: list[tuple[int, float]]) -> None:
    unchanged = torch.tensor([[count for count, _ in row]])
    logprob = torch.tensor([[math.log(probability) for _, probability in row]])
    firm = [count >= STABLE_STEPS and probability >= STABLE_PROBABILITY for count, probability in row]
    assert stable_prefix(unchanged, logprob).tolist() == [[*firm, False].index(False)]
