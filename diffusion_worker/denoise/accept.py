"""Which positions of a canvas keep their token this step: the surest ones, within a budget of entropy.

Pure function of tensors. Idea: entropy-bounded unmasking, Ben-Hamu et al. 2025 (arXiv 2505.24857).
"""

import torch


def accept(entropy: torch.Tensor, bound: torch.Tensor) -> torch.Tensor:
    """Accepted positions [rows, canvas] for entropies [rows, canvas] and bounds [rows] in nats.

    Positions are taken in ascending entropy while the sum of those taken before stays within the bound, so the surest
    is always accepted. That sum bounds what the accepted tokens could tell about each other, had they been sampled
    jointly. Nothing is locked: the set is rebuilt at every step.
    """
    ascending, order = entropy.sort(-1)
    within = ascending.cumsum(-1) - ascending <= bound[:, None]
    return torch.zeros_like(within).scatter(-1, order, within)
