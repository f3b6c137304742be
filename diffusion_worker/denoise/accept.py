"""Entropy-bounded acceptance: the positions that keep their token in this step; and re-noising of all others.

Pure functions of tensors. Source: the EB-Sampler (Ben-Hamu et al. 2025, arXiv:2505.24857); the counterpart of
`EntropyBoundSampler` in transformers' `generation_diffusion_gemma.py`.
"""

import torch


def accept(entropy: torch.Tensor, bound: torch.Tensor) -> torch.Tensor:
    """Accepted positions [rows, canvas] for entropies [rows, canvas] and bounds [rows] in nats.

    Positions are taken in ascending entropy while the sum of those taken before stays within the bound, so the most
    certain one is always accepted. The sum bounds the mutual information of the accepted tokens. Nothing is locked: the
    set is recomputed at every step.
    """
    ascending, order = entropy.sort(-1)
    within = ascending.cumsum(-1) - ascending <= bound[:, None]
    return torch.zeros_like(within).scatter(-1, order, within)


def renoise(
    tokens: torch.Tensor, accepted: torch.Tensor, noise: torch.Tensor, *, surest: torch.Tensor, kept: torch.Tensor
) -> torch.Tensor:
    """Next canvas [rows, canvas]. Positions neither accepted nor kept take uniform noise from the whole vocabulary,
    even if an earlier step accepted them: the model is trained to tell noise from text and to correct it."""
    return torch.where(accepted, tokens, torch.where(kept, surest, noise))
