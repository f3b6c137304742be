"""Renoising replaces what was neither accepted nor kept, and nothing else."""

import torch

from diffusion_worker.denoise.renoise import renoise

TOKENS, NOISE = torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([[70, 80, 90], [71, 81, 91]])
SUREST = torch.tensor([[11, 12, 13], [14, 15, 16]])
ACCEPTED = torch.tensor([[True, False, True], [False, False, False]])


def test_accepted_positions_keep_their_token_and_all_others_become_noise() -> None:
    kept = torch.zeros_like(ACCEPTED)
    assert renoise(TOKENS, ACCEPTED, NOISE, surest=SUREST, kept=kept).tolist() == [[1, 80, 3], [71, 81, 91]]


def test_kept_positions_show_the_most_likely_token_unless_they_were_accepted() -> None:
    kept = torch.tensor([[True, True, False], [False, False, True]])
    assert renoise(TOKENS, ACCEPTED, NOISE, surest=SUREST, kept=kept).tolist() == [[1, 12, 3], [71, 81, 16]]
