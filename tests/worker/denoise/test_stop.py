"""A canvas stops when it is stable and sure, and not one step early."""

import torch

from diffusion_worker.denoise.stop import held_for, is_settled

CANVAS = torch.tensor([[5, 6, 7]])


def test_the_count_grows_while_nothing_changes_and_falls_to_zero_when_one_position_does() -> None:
    held = held_for(CANVAS, torch.full_like(CANVAS, -1), torch.tensor([0]))
    assert held.tolist() == [0], "a first canvas has no predecessor to equal"
    held = held_for(CANVAS, CANVAS, held)
    assert held_for(CANVAS, CANVAS, held).tolist() == [2]
    assert held_for(torch.tensor([[5, 6, 8]]), CANVAS, held).tolist() == [0]


def test_it_needs_stability_and_confidence_together() -> None:
    held, entropy = torch.tensor([1, 1, 0, 0]), torch.tensor([0.004, 0.006, 0.004, 0.006])
    settled = is_settled(held, entropy, torch.tensor([1] * 4), torch.tensor([0.005] * 4))
    assert settled.tolist() == [True, False, False, False]


def test_the_mean_entropy_must_be_below_the_threshold_and_not_on_it() -> None:
    threshold = torch.tensor([0.005])
    assert is_settled(torch.tensor([1]), threshold, torch.tensor([1]), threshold).tolist() == [False]


def test_a_stability_of_zero_asks_for_confidence_alone() -> None:
    assert is_settled(torch.tensor([0]), torch.tensor([0.0]), torch.tensor([0]), torch.tensor([0.005])).tolist() == [
        True
    ]
