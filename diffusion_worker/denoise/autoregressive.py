"""Autoregressive decoding with the same weights: one causal pass, one next token per row; and the log-probabilities of
prompts, from the passes that read them.

Pure functions of tensors.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from diffusion_worker.constraints.inference.matcher import allowed_tokens
from diffusion_worker.denoise.draws import DrawKey, Draws
from diffusion_worker.denoise.penalties import penalised
from diffusion_worker.denoise.truncation import truncated
from diffusion_worker.models.host_to_device import upload
from diffusion_worker.models.interface import DiffusionModel
from diffusion_worker.types.step_batch import Decode, Prefill, PromptResult, TokenResult, Verify

LOGITS_AT_ONCE: Final = 1 << 24  # numbers: 64 MiB in fp32


@dataclass(frozen=True, slots=True, kw_only=True)
class HiddenStates:
    """Hidden states [tokens, hidden] of a causal pass; those of row i begin at `firsts[i]`."""

    states: torch.Tensor
    firsts: Sequence[int]

    def of(self, rows: Sequence[int]) -> "HiddenStates":
        """Those of some rows."""
        return HiddenStates(states=self.states, firsts=[self.firsts[row] for row in rows])


def decode(model: DiffusionModel, items: Sequence[Decode], hidden: HiddenStates, draws: Draws) -> torch.Tensor:
    """Choose the token that follows the ids of every item, from their hidden states: the argmax, or a sample for items
    with a temperature above 0.

    Returns [rows, 3 + 2 * top] of float64: the id; its log-probability at temperature 1, which is not finite where the
    model returned NaN or infinity; 1 where the constraint allowed one token only; then the most likely ids and their
    log-probabilities, see `top_of`.
    """
    last = [first + len(item.ids) - 1 for item, first in zip(items, hidden.firsts, strict=True)]
    logits = model.logits(hidden.states[upload(last, model.device)])
    return choose(items, logits, draws, top=top_of(items, logits.shape[-1]))


def choose(items: Sequence[Decode], logits: torch.Tensor, draws: Draws, *, top: int) -> torch.Tensor:
    """The same from the logits [rows, vocab] of each item's next token."""
    limited, is_forced = _limited(items, logits)
    limited = penalised(items, limited)
    ids = limited.argmax(-1)
    if any(item.temperature for item in items):
        is_sampled = upload([bool(item.temperature) for item in items], logits.device)
        ids = torch.where(is_sampled, _sampled(items, limited, draws), ids)
    logprobs = logits.log_softmax(-1)
    chosen = [ids.double(), logprobs.gather(-1, ids[:, None])[:, 0].double(), is_forced.double()]
    found = torch.stack(chosen, dim=-1)
    if top:
        likeliest = logprobs.topk(top, dim=-1)
        found = torch.cat([found, likeliest.indices.double(), likeliest.values.double()], dim=-1)
    return found


def top_of(items: Sequence[Decode | Verify], vocab_size: int) -> int:
    """How many of the most likely tokens a pass over these items reports for each token."""
    return min(max(item.top_logprobs for item in items), vocab_size)


def token_result(item: Decode | Verify, row: Sequence[float], *, prompt_surprise: float = 0.0) -> TokenResult:
    """One row of the result of `decode`, on the host."""
    top = (len(row) - 3) // 2
    likeliest = [(int(token), logprob) for token, logprob in zip(row[3 : 3 + top], row[3 + top :], strict=True)]
    return TokenResult(
        sequence=item.sequence,
        id=int(row[0]),
        logprob=row[1],
        top=tuple(likeliest[: item.top_logprobs]),
        is_forced=bool(row[2]),
        prompt_surprise=prompt_surprise,
    )


def score_prompts(
    model: DiffusionModel, items: Sequence[Prefill | Decode], hidden: HiddenStates
) -> torch.Tensor | None:
    """Score the `next_ids` of all items, from the hidden states of their pass.

    Returns [tokens, 1 + 2 * top] of float64, row after row, for the largest `prompt_top`: the log-probability at
    temperature 1, then the most likely ids and their log-probabilities. None if no item has any.
    """
    rows = zip(items, hidden.firsts, strict=True)
    places = [(first + place, token) for item, first in rows for place, token in enumerate(item.next_ids)]
    if not places:
        return None
    most = max(item.prompt_top for item in items if item.next_ids)
    block = max(1, LOGITS_AT_ONCE // model.info.vocab_size)
    parts: list[torch.Tensor] = []
    for first in range(0, len(places), block):
        positions, tokens = upload(places[first : first + block], model.device).unbind(-1)
        logprobs = model.logits(hidden.states[positions]).log_softmax(-1)
        chosen = logprobs.gather(-1, tokens[:, None])
        likeliest = logprobs.topk(most, dim=-1)
        parts.append(torch.cat([each.double() for each in (chosen, likeliest.indices, likeliest.values)], dim=-1))
    return torch.cat(parts)


def prompt_result(item: Prefill | Decode, numbers: Sequence[float]) -> PromptResult:
    """The part of `score_prompts` that belongs to one item, on the host."""
    width, top = len(numbers) // len(item.next_ids), item.prompt_top
    most = (width - 1) // 2
    values = array("d")
    for place in range(0, len(numbers), width):
        values.extend(numbers[place : place + 1 + top])
        values.extend(numbers[place + 1 + most : place + 1 + most + top])
    return PromptResult(sequence=item.sequence, at=item.at, values=values)


def padded(rows: Sequence[tuple[int, ...]], device: torch.device, *, width: int = 0) -> torch.Tensor:
    """Ids of unequal length as one tensor [rows, longest], padded with 0 on the right, to at least `width`."""
    longest = max(width, *(len(row) for row in rows))
    return upload([row + (0,) * (longest - len(row)) for row in rows], device)


def _limited(items: Sequence[Decode], logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(logits [rows, vocab] masked by the constraints, [rows] 1 where one token is allowed). Masks are computed on the
    host, without fetching the logits."""
    if all(item.matcher is None for item in items):
        return logits, torch.zeros(len(items), device=logits.device)
    everything = np.ones(logits.shape[-1], np.bool_)
    masks = np.stack([everything if item.matcher is None else allowed_tokens(item.matcher) for item in items])
    limited = logits.masked_fill(~upload(torch.from_numpy(masks), logits.device), -torch.inf)
    return limited, upload((masks.sum(axis=1) == 1).tolist(), logits.device)


def _sampled(items: Sequence[Decode], logits: torch.Tensor, draws: Draws) -> torch.Tensor:
    """Ids [rows] sampled at each item's temperature; the context length is the step of the draw."""
    keys = [DrawKey(sequence=i.sequence, seed=i.seed, block=0, step=i.at + len(i.ids)) for i in items]
    divisor = upload([item.temperature or 1.0 for item in items], logits.device)
    scaled = logits / divisor[:, None]
    probabilities = scaled.softmax(-1)
    if rows := [row for row, item in enumerate(items) if item.truncation and item.temperature]:
        index = upload(rows, logits.device)
        truncations = [item.truncation for item in items if item.truncation and item.temperature]
        replaced = truncated(scaled[index], truncations).to(probabilities.dtype)
        probabilities = probabilities.index_copy(0, index, replaced)
    return draws.sample(keys, probabilities[:, None])[:, 0]
