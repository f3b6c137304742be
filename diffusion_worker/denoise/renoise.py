"""Re-noising: the canvas after a step has accepted tokens, kept tokens of anchored rows, and noise elsewhere.

Pure function of tensors.
"""

import torch


def renoise(
    tokens: torch.Tensor, accepted: torch.Tensor, noise: torch.Tensor, *, surest: torch.Tensor, kept: torch.Tensor
) -> torch.Tensor:
    """Next canvas [rows, canvas]. Positions neither accepted nor kept take uniform noise from the whole vocabulary,
    even if an earlier step accepted them: the model is trained to tell noise from text and to correct it."""
    return torch.where(accepted, tokens, torch.where(kept, surest, noise))
