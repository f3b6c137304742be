"""When a canvas is done before its steps run out: it no longer changes, and it is sure.

Pure functions of tensors.
"""

import torch


def held_for(surest: torch.Tensor, previous: torch.Tensor, held: torch.Tensor) -> torch.Tensor:
    """For how many steps [rows] the surest canvas [rows, canvas] has stayed what it is; `held` is the count before."""
    return torch.where((surest == previous).all(-1), held + 1, 0)


def is_settled(
    held: torch.Tensor, mean_entropy: torch.Tensor, stability: torch.Tensor, threshold: torch.Tensor
) -> torch.Tensor:
    """Rows that may stop: equal to each of the last `stability` canvases, and mean entropy (nats) below threshold."""
    return (held >= stability) & (mean_entropy < threshold)
