"""Reads of the logits [rows, canvas, vocab]: the few passes over the largest tensor of a step.

The logits come as the output head gives them, before its cap and in its dtype. The passes are fused operations: on an
accelerator with a compiler, `torch.compile` makes one kernel of each, which reads the logits once and writes sums of
groups of tokens, or probabilities in place of the logits. Elsewhere they run eager, in blocks of positions that bound
temporary memory. Pure functions of tensors, except for `weigh_`.
"""

import functools
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any, Final

import torch
from torch.nn import functional as nnf

from diffusion_worker.models.compiler import find_compiler
from diffusion_worker.models.interface import capped

GROUP: Final = 512  # tokens whose weights are summed together
AT_ONCE: Final = 1 << 19  # numbers per row of a batch that a block holds in fp32: 2 MiB
_log = logging.getLogger(__name__)


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


def group_count(vocab: int) -> int:
    """Number of groups of a vocabulary."""
    return 1 if vocab <= GROUP else -(-vocab // GROUP)


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


@torch.library.custom_op("twolane::logit_sums", mutates_args=())
def logit_sums(raw: torch.Tensor, top: torch.Tensor, temperature: torch.Tensor, cap: float) -> torch.Tensor:
    """`sums` of logits as the head gives them, in one read."""
    if (fused := _fused(_sums_of_raw, raw, top, temperature, cap)) is not None:
        return fused
    blocks = position_blocks(*raw.shape[1:])
    return torch.cat([_sums_of_raw(raw[:, block], top[:, block], temperature, cap) for block in blocks], dim=2)


@torch.library.custom_op("twolane::weigh_", mutates_args=("raw",))
def weigh_(raw: torch.Tensor, top: torch.Tensor, temperature: torch.Tensor, total: torch.Tensor, cap: float) -> None:
    """Replace logits as the head gives them by their annealed probabilities, in one read and one write."""
    if _fused(_weigh_raw, raw, top, temperature, total, cap) is not None:
        return
    for block in position_blocks(*raw.shape[1:]):
        _weigh_raw(raw[:, block], top[:, block], temperature, total[:, block], cap)


@logit_sums.register_fake
def _(raw: torch.Tensor, top: torch.Tensor, _temperature: torch.Tensor, _cap: float) -> torch.Tensor:
    return top.new_empty((3, *raw.shape[:2], group_count(raw.shape[2])))


@weigh_.register_fake
def _(*_arguments: Any) -> None:
    pass


def _sums_of_raw(raw: torch.Tensor, top: torch.Tensor, temperature: torch.Tensor, cap: float) -> torch.Tensor:
    return sums(capped(raw, cap), top, temperature)


def _weigh_raw(
    raw: torch.Tensor, top: torch.Tensor, temperature: torch.Tensor, total: torch.Tensor, cap: float
) -> torch.Tensor:
    return raw.copy_(probabilities(capped(raw, cap), top, temperature, total))


def _fused(function: Callable[..., torch.Tensor], raw: torch.Tensor, *others: Any) -> torch.Tensor | None:
    """The result of the compiled function on an accelerator; None on a CPU, or where it cannot be compiled."""
    if raw.device.type == "cpu" or function in _EAGER or find_compiler(os.environ) is None:
        return None
    try:
        return _compiled(function)(raw, *others)
    except torch._dynamo.exc.TorchDynamoException as error:
        _EAGER.add(function)
        _log.warning("cannot compile %s, running eager: %s", function.__name__, error)
        return None


@functools.cache
def _compiled(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    return torch.compile(function, fullgraph=True, dynamic=True)


_EAGER: Final[set[Callable[..., torch.Tensor]]] = set()  # functions that could not be compiled
