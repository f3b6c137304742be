"""The same weights read left to right: one causal pass, one next token per row.

Pure functions of tensors; the baseline that the canvas has to beat, and the first fallback for what both have learnt.
"""

from collections.abc import Sequence

import numpy as np
import torch

from diffusion_worker.constraints.inference.matcher import allowed_tokens
from diffusion_worker.denoise.draws import DrawKey, Draws
from diffusion_worker.models.host_to_device import upload
from diffusion_worker.models.interface import DiffusionModel, PrefillContext
from diffusion_worker.types.step_batch import Decode, TokenResult


def read(net: DiffusionModel, items: Sequence[Decode], context: PrefillContext, draws: Draws) -> torch.Tensor:
    """Append the ids of every item to its context and choose the token that follows: the argmax, or a sample for items
    with a temperature above 0. Returns [rows, 3] of float64: the id, its log-probability at temperature 1, which is not
    finite where the net returned NaN or infinity, and whether a constraint left no choice."""
    hidden = net.encode(padded([item.ids for item in items], net.device), context)
    last = upload([len(item.ids) - 1 for item in items], net.device)
    logits = net.logits(hidden[torch.arange(len(items), device=net.device), last])  # [rows, vocab]
    limited, is_forced = _limited(items, logits)
    ids = limited.argmax(-1)
    if any(item.temperature for item in items):
        is_sampled = upload([bool(item.temperature) for item in items], net.device)
        ids = torch.where(is_sampled, _sampled(items, limited, draws), ids)
    logprob = logits.log_softmax(-1).gather(-1, ids[:, None])[:, 0]
    return torch.stack([ids.double(), logprob.double(), is_forced.double()], dim=-1)


def chosen(item: Decode, row: Sequence[float]) -> TokenResult:
    """One row of what `read` returned, fetched."""
    return TokenResult(sequence=item.sequence, id=int(row[0]), logprob=row[1], is_forced=bool(row[2]))


def padded(rows: Sequence[tuple[int, ...]], device: torch.device) -> torch.Tensor:
    """Ids of unequal length as one tensor [rows, longest], filled with 0 on the right."""
    longest = max(len(row) for row in rows)
    return upload([row + (0,) * (longest - len(row)) for row in rows], device)


def _limited(items: Sequence[Decode], logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [rows, vocab] that leave only what the constraints allow, and where that is a single token [rows]. The
    host knows what it is without a look at the logits."""
    if all(item.matcher is None for item in items):
        return logits, torch.zeros(len(items), device=logits.device)
    everything = np.ones(logits.shape[-1], np.bool_)
    masks = np.stack([everything if item.matcher is None else allowed_tokens(item.matcher) for item in items])
    limited = logits.masked_fill(~upload(torch.from_numpy(masks), logits.device), -torch.inf)
    return limited, upload((masks.sum(axis=1) == 1).tolist(), logits.device)


def _sampled(items: Sequence[Decode], logits: torch.Tensor, draws: Draws) -> torch.Tensor:
    """[rows] drawn at each item's temperature; the position in the context is the step of the draw."""
    keys = [DrawKey(sequence=i.sequence, seed=i.seed, block=0, step=i.at + len(i.ids)) for i in items]
    divisor = upload([item.temperature or 1.0 for item in items], logits.device)
    probabilities = (logits / divisor[:, None]).softmax(-1)
    return draws.sample(keys, probabilities[:, None])[:, 0]
