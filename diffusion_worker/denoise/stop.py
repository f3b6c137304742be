"""Early stopping: when a canvas has converged, and which prefix of it is stable enough to stream.

Pure functions of tensors. The criterion is that of `StableAndConfidentStoppingCriteria` in transformers'
`generation_diffusion_gemma.py`.
"""

import torch

STABLE_STEPS = 2  # steps for which a token must have stayed the most likely one to be streamed
STABLE_PROBABILITY = 0.9  # and its probability at temperature 1


def unchanged_for(surest: torch.Tensor, previous: torch.Tensor, unchanged: torch.Tensor) -> torch.Tensor:
    """Steps for which each most likely token [rows, canvas] has not changed; `unchanged` are the previous counts."""
    return torch.where(surest == previous, unchanged + 1, 0)


def has_converged(
    unchanged: torch.Tensor, mean_entropy: torch.Tensor, stability: torch.Tensor, threshold: torch.Tensor
) -> torch.Tensor:
    """Rows [rows] that may stop: the canvas equals each of the last `stability` ones, and the mean entropy (nats) is
    below `threshold`."""
    return (unchanged.amin(-1) >= stability) & (mean_entropy < threshold)


def stable_prefix(unchanged: torch.Tensor, logprob: torch.Tensor) -> torch.Tensor:
    """Length [rows] of the stable prefix; `logprob` [rows, canvas] are those of the most likely tokens."""
    is_stable = (unchanged >= STABLE_STEPS) & (logprob.exp() >= STABLE_PROBABILITY)
    return is_stable.long().cumprod(-1).sum(-1)
