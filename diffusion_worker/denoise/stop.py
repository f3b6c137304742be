"""What no longer changes: when a canvas is done before its steps run out, and which part of it may be told already.

Pure functions of tensors.
"""

import torch

STABLE_STEPS = 2  # how many further steps a token must have stayed the surest before it may be told
STABLE_PROBABILITY = 0.9  # and how likely it must be, at temperature 1


def unchanged_for(surest: torch.Tensor, previous: torch.Tensor, unchanged: torch.Tensor) -> torch.Tensor:
    """For how many steps each surest token [rows, canvas] has stayed what it is; `held` are the counts before."""
    return torch.where(surest == previous, unchanged + 1, 0)


def has_converged(
    unchanged: torch.Tensor, mean_entropy: torch.Tensor, stability: torch.Tensor, threshold: torch.Tensor
) -> torch.Tensor:
    """Rows that may stop: their whole canvas equals each of the last `stability` ones, and its mean entropy (nats) is
    below the threshold."""
    return (unchanged.amin(-1) >= stability) & (mean_entropy < threshold)


def stable_prefix(unchanged: torch.Tensor, logprob: torch.Tensor) -> torch.Tensor:
    """How many positions [rows] from the left are steady without a gap; `logprob` [rows, canvas] of their tokens."""
    is_stable = (unchanged >= STABLE_STEPS) & (logprob.exp() >= STABLE_PROBABILITY)
    return is_stable.long().cumprod(-1).sum(-1)
