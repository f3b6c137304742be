"""Truncated sampling: min_p, top_k and top_p, in vLLM's order.

Nucleus sampling (top_p): Holtzman et al. 2020, arXiv:1904.09751; min-p: Nguyen et al. 2024, arXiv:2407.01082. Pure
functions of tensors. Each of the three keeps the tokens above a threshold, which is found by bisection over the bits of
the probabilities: that is exact, needs no sort of the vocabulary, and does not wait for the device.
"""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from diffusion_worker.constraints.inference.sample import NotGiven
from diffusion_worker.models.host_to_device import upload
from diffusion_worker.types.requests import Truncation

_ONE_BITS = 0x3F800000  # of 1.0 in float32, the largest weight
_FEW: Final = 64  # tokens that usually contain the nucleus
_NEGLIGIBLE: Final = 40.0  # nats below the most likely token; all such tokens together are below float32's rounding


def truncated(logits: torch.Tensor, truncations: Sequence[Truncation]) -> torch.Tensor:
    """Probabilities [positions, vocab] of logits that are already scaled by the temperature, exactly 0 for tokens that
    the truncation of their position excludes."""
    top_k, top_p, min_p = (
        upload([getattr(each, name) for each in truncations], logits.device)[:, None]
        for name in ("top_k", "top_p", "min_p")
    )
    weights = (logits - logits.amax(-1, keepdim=True)).exp().float()  # 1 for the most likely token
    weights = torch.where(weights >= min_p, weights, 0.0)
    if any(each.top_k for each in truncations):
        wanted = torch.where(top_k > 0, top_k, logits.shape[-1])
        weights = torch.where(weights >= _threshold(weights, wanted, of_mass=False), weights, 0.0)
    if any(each.top_p < 1.0 for each in truncations):
        # For top_p 1 the sum over all might not reach the target because of rounding.
        wanted = torch.where(top_p < 1.0, top_p, 0.0) * weights.sum(-1, keepdim=True, dtype=torch.float64)
        threshold = torch.where(top_p < 1.0, _threshold(weights, wanted, of_mass=True), 0.0)
        weights = torch.where(weights >= threshold, weights, 0.0)
    return weights / weights.sum(-1, keepdim=True)


def likeliest_tokens(
    log_weights: NDArray[np.float64], truncation: Truncation, not_given: NotGiven | None = None
) -> tuple[NDArray[np.integer], NDArray[np.float64]] | None:
    """The same on the host, for one position: the tokens that the truncation keeps, in ascending order, and their
    weights (1 for the most likely one). None if that depends on tokens that are not given.

    Called for every position of a canvas at every step: only the few tokens that top_p may keep are sorted.
    """
    largest = log_weights.max()
    relative = log_weights - largest
    tokens: NDArray[np.integer] = np.flatnonzero(relative >= -_NEGLIGIBLE)
    weights: NDArray[np.float64] = np.exp(relative[tokens])
    if truncation.min_p:
        tokens, weights = _at_least(truncation.min_p, tokens, weights)
    has_all = not_given is None or math.exp(not_given.bound - largest) <= truncation.min_p
    if 0 < truncation.top_k <= len(tokens):
        tokens, weights = _at_least(_nth_largest(weights, truncation.top_k), tokens, weights)
        has_all = True
    total = float(weights.sum())
    if not_given is not None and not has_all:
        total = math.exp(not_given.total - largest)
        if truncation.min_p or truncation.top_k or weights.sum() < truncation.top_p * total:
            return None
    if truncation.top_p < 1.0:
        tokens, weights = _at_least(_nucleus(weights, truncation.top_p * total), tokens, weights)
    return tokens, weights


def _at_least(
    least: float, tokens: NDArray[np.integer], weights: NDArray[np.float64]
) -> tuple[NDArray[np.integer], NDArray[np.float64]]:
    kept = weights >= least
    return tokens[kept], weights[kept]


def _nth_largest(weights: NDArray[np.float64], number: int) -> float:
    return float(np.partition(weights, -number)[-number])


def _nucleus(weights: NDArray[np.float64], wanted: float) -> float:
    """The smallest weight that this mass needs, counted from the largest weight on."""
    candidates, number = weights, _FEW
    while number < len(weights):
        candidates = weights[weights >= _nth_largest(weights, number)]
        if candidates.sum() >= wanted:
            break
        candidates, number = weights, number * 16
    descending = -np.sort(-candidates)
    reached = int(descending.cumsum().searchsorted(wanted))
    return float(descending[min(reached, len(descending) - 1)])


def _threshold(weights: torch.Tensor, wanted: torch.Tensor, *, of_mass: bool) -> torch.Tensor:
    """The largest threshold [positions, 1] that `wanted` [positions, 1] of the weights [positions, vocab] reach: their
    sum, or their number. Weights are in [0, 1], where floating-point numbers are ordered as their bits are."""
    low = torch.zeros_like(wanted, dtype=torch.int32)
    for bit in reversed(range(_ONE_BITS.bit_length())):
        higher = low + (1 << bit)
        reached = weights >= higher.view(torch.float32)
        found = (
            torch.where(reached, weights, 0.0).sum(-1, keepdim=True, dtype=torch.float64)
            if of_mass
            else (reached.sum(-1, keepdim=True))
        )
        low = torch.where(found >= wanted, higher, low)
    return low.view(torch.float32)
