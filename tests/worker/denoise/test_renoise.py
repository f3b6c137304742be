"""Renoising replaces what was not accepted, and nothing else."""

import torch

from diffusion_worker.denoise.renoise import renoise


def test_accepted_positions_keep_their_token_and_all_others_become_noise() -> None:
    tokens, noise = torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([[70, 80, 90], [71, 81, 91]])
    accepted = torch.tensor([[True, False, True], [False, False, False]])
    assert renoise(tokens, accepted, noise).tolist() == [[1, 80, 3], [71, 81, 91]]
