"""What stands on the canvas after a step: accepted tokens, kept tokens of anchored rows, and noise everywhere else.

Pure function of tensors.
"""

import torch


def renoise(
    tokens: torch.Tensor, accepted: torch.Tensor, noise: torch.Tensor, *, surest: torch.Tensor, kept: torch.Tensor
) -> torch.Tensor:
    """Next canvas [rows, canvas]. What is neither accepted nor kept is replaced by a uniform draw from the whole
    vocabulary, also where an earlier step had accepted it: the net was trained to tell noise from text, and to mend."""
    return torch.where(accepted, tokens, torch.where(kept, surest, noise))
