"""Entropy-bounded acceptance: the positions of a canvas that keep their token in this step.

Pure function of tensors. Source: the EB-Sampler (Ben-Hamu et al. 2025, arXiv:2505.24857); the counterpart of
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
