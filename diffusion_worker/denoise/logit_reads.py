"""Reads of the logits [rows, canvas, vocab]: the few passes over the largest tensor of a step.

The logits come as the output head gives them, before its cap and in its dtype. The passes are fused operations
(see `models.fused`): compiled, each reads the logits once and writes sums of groups of tokens, or probabilities in
place of the logits. Elsewhere they run eager, in blocks of positions that bound temporary memory. Pure functions of
tensors, except for `weigh_`.
"""

from collections.abc import Iterator
from typing import Final

import torch
from torch.nn import functional as nnf

from diffusion_worker.denoise.draws import invert_grouped
from diffusion_worker.models.fused import fused
from diffusion_worker.models.interface import capped

GROUP: Final = 512  # tokens whose weights are summed together
AT_ONCE: Final = 1 << 19  # numbers per row of a batch that a block holds in fp32: 2 MiB


def position_blocks(canvas: int, vocab: int, *, rows: int = 1) -> Iterator[slice]:
    """Blocks of positions that bound temporary memory to AT_ONCE numbers per row: blocks of all rows, or of a single
    one that may use the memory of `rows`."""
    width = max(1, rows * AT_ONCE // vocab)
    return (slice(first, min(first + width, canvas)) for first in range(0, canvas, width))


def grouped(numbers: torch.Tensor) -> torch.Tensor:
    """Numbers [..., vocab] as [..., groups, GROUP], filled up with zeros; a small vocabulary is one group."""
    vocab = numbers.shape[-1]
    if vocab <= GROUP:
        return numbers[..., None, :]
    filled = nnf.pad(numbers, (0, -vocab % GROUP))
    return filled.reshape(*filled.shape[:-1], -1, GROUP)


def exponents(logits: torch.Tensor, top: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
    """Annealed logits relative to the largest, for capped logits [rows, positions, vocab], the largest `top` [rows,
    positions] and temperature [rows]."""
    divisor = temperature[:, None, None]
    return logits / divisor - top[..., None] / divisor


def sums(logits: torch.Tensor, top: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
    """Sums [3, rows, positions, groups] over groups of tokens of capped logits: their weights e^z, for z as in
    `exponents`; e^z z, for the entropy; and the weights at temperature 1."""
    z = exponents(logits, top, temperature)
    weights = z.exp()
    plain = (logits - top[..., None]).exp()
    return torch.stack([grouped(each).sum(-1) for each in (weights, weights * z, plain)])


def probabilities(
    logits: torch.Tensor, top: torch.Tensor, temperature: torch.Tensor, total: torch.Tensor
) -> torch.Tensor:
    """Annealed probabilities of capped logits; `total` [rows, positions] are the sums of all weights."""
    return exponents(logits, top, temperature).exp() / total[..., None]


def _sums_in_blocks(raw: torch.Tensor, largest: torch.Tensor, temperature: torch.Tensor, cap: float) -> torch.Tensor:
    blocks = position_blocks(*raw.shape[1:])
    parts = [sums(capped(raw[:, block], cap), capped(largest[:, block], cap), temperature) for block in blocks]
    return torch.cat(parts, dim=2)


def _weigh_in_blocks(
    raw: torch.Tensor, top: torch.Tensor, temperature: torch.Tensor, total: torch.Tensor, cap: float
) -> None:
    for block in position_blocks(*raw.shape[1:]):
        shares = probabilities(capped(raw[:, block], cap), top[:, block], temperature, total[:, block])
        raw[:, block] = shares.to(raw.dtype)


@fused("logit_sums", eager=_sums_in_blocks)
def logit_sums(raw: torch.Tensor, largest: torch.Tensor, temperature: torch.Tensor, cap: float) -> torch.Tensor:
    """`sums` of logits as the head gives them, whose largest are `largest` [rows, positions], in one read."""
    return sums(capped(raw, cap), capped(largest, cap), temperature)


@fused("weigh_", eager=_weigh_in_blocks, mutates=("raw",))
def weigh_(raw: torch.Tensor, top: torch.Tensor, temperature: torch.Tensor, total: torch.Tensor, cap: float) -> None:
    """Replace logits as the head gives them by their annealed probabilities, in one read and one write. `top` as in
    `exponents`, `total` as in `probabilities`."""
    raw.copy_(probabilities(capped(raw, cap), top, temperature, total))


@fused("grouped_scores")
def grouped_scores(
    raw: torch.Tensor,
    largest: torch.Tensor,
    temperature: torch.Tensor,
    sums: torch.Tensor,
    uniforms: torch.Tensor,
    cap: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """From the `sums` of groups: scores [6, rows, positions], and ids [rows, positions] that `uniforms` sample. Scores
    are the largest capped logit, the sum of all weights, the annealed probability of the largest and the entropy; and
    at temperature 1 the log-sum-exp, and the log-probability of the largest."""
    top = capped(largest, cap)
    groups = sums.double()
    total, weighted, plain = groups.sum(-1)
    entropy = total.log() - weighted / total

    def inside(group: torch.Tensor) -> torch.Tensor:
        ids = group * GROUP + torch.arange(GROUP, device=group.device)
        logits = capped(raw.gather(-1, ids.clamp(max=raw.shape[-1] - 1)), cap)
        return torch.where(ids < raw.shape[-1], exponents(logits, top, temperature).exp(), 0.0)

    sampled = invert_grouped(groups[0], uniforms, inside, GROUP).clamp(max=raw.shape[-1] - 1)  # as in `invert_cdf`
    logprob = -plain.log()
    numbers = (top, total, total.reciprocal(), entropy, top - logprob, logprob)
    return torch.stack([each.float() for each in numbers]), sampled
