"""What no longer changes: when a canvas is done before its steps run out, and which part of it may be told already.

Pure functions of tensors.
"""

import torch

STEADY_STEPS = 2  # how many further steps a token must have stayed the surest before it may be told
STEADY_PROBABILITY = 0.9  # and how likely it must be, at temperature 1


def held_for(surest: torch.Tensor, previous: torch.Tensor, held: torch.Tensor) -> torch.Tensor:
    """For how many steps each surest token [rows, canvas] has stayed what it is; `held` are the counts before."""
    return torch.where(surest == previous, held + 1, 0)


def is_settled(
    held: torch.Tensor, mean_entropy: torch.Tensor, stability: torch.Tensor, threshold: torch.Tensor
) -> torch.Tensor:
    """Rows that may stop: their whole canvas equals each of the last `stability` ones, and its mean entropy (nats) is
    below the threshold."""
    return (held.amin(-1) >= stability) & (mean_entropy < threshold)


def stable_prefix(held: torch.Tensor, logprob: torch.Tensor) -> torch.Tensor:
    """How many positions [rows] from the left are steady without a gap; `logprob` [rows, canvas] of their tokens."""
    is_steady = (held >= STEADY_STEPS) & (logprob.exp() >= STEADY_PROBABILITY)
    return is_steady.long().cumprod(-1).sum(-1)
