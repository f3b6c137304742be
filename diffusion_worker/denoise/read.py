"""The same weights read left to right: one causal pass, one next token per row.

Pure functions of tensors; the baseline that the canvas has to beat, and the first fallback for what both have learnt.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from diffusion_worker.denoise.draws import DrawKey, Draws
from diffusion_worker.nets.interface import AppendContext, DiffusionNet
from diffusion_worker.work import Read


@dataclass(frozen=True, slots=True, kw_only=True)
class NextTokens:
    """One token per row."""

    ids: torch.Tensor  # [rows]
    logprob: torch.Tensor  # [rows] of those ids at temperature 1; not finite where the net returned NaN or infinity


def read(net: DiffusionNet, items: Sequence[Read], context: AppendContext, draws: Draws) -> NextTokens:
    """Append the ids of every item to its context and choose the token that follows: the argmax, or a sample for items
    with a temperature above 0."""
    counts = [len(item.ids) for item in items]
    hidden = net.encode(padded([item.ids for item in items], net.device), context)
    last = torch.tensor(counts, device=net.device) - 1
    logits = net.logits(hidden[torch.arange(len(items), device=net.device), last])  # [rows, vocab]
    ids = logits.argmax(-1)
    if any(item.temperature for item in items):
        ids = torch.where(_is_sampled(items, net.device), _sampled(items, logits, draws), ids)
    return NextTokens(ids=ids, logprob=logits.log_softmax(-1).gather(-1, ids[:, None])[:, 0])


def padded(rows: Sequence[tuple[int, ...]], device: torch.device) -> torch.Tensor:
    """Ids of unequal length as one tensor [rows, longest], filled with 0 on the right."""
    longest = max(len(row) for row in rows)
    return torch.tensor([row + (0,) * (longest - len(row)) for row in rows], device=device)


def _is_sampled(items: Sequence[Read], device: torch.device) -> torch.Tensor:
    return torch.tensor([bool(item.temperature) for item in items], device=device)


def _sampled(items: Sequence[Read], logits: torch.Tensor, draws: Draws) -> torch.Tensor:
    """[rows] drawn at each item's temperature; the position in the context is the step of the draw."""
    keys = [DrawKey(sequence=i.sequence, seed=i.seed, block=0, step=i.at + len(i.ids)) for i in items]
    divisor = torch.tensor([item.temperature or 1.0 for item in items], device=logits.device)
    probabilities = (logits / divisor[:, None]).softmax(-1)
    return draws.sample(keys, probabilities[:, None])[:, 0]
