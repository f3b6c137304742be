"""Log-probabilities of the tokens of a prompt, from the hidden states of the causal passes that read it.

The head runs over a block of positions at a time: the logits of a whole chunk over a large vocabulary would not fit.
"""

from array import array
from collections.abc import Sequence

import torch

from diffusion_worker.models.host_to_device import upload
from diffusion_worker.models.interface import DiffusionModel
from diffusion_worker.types.step_batch import Decode, Prefill, PromptResult

LOGITS_AT_ONCE = 1 << 24  # numbers: 64 MiB in fp32


def score_prompts(
    model: DiffusionModel, items: Sequence[Prefill | Decode], hidden: torch.Tensor
) -> torch.Tensor | None:
    """Score the `next_ids` of all items, from the hidden states [rows, new, hidden] of their pass.

    Returns [tokens, 1 + 2 * top] of float64, row after row, for the largest `prompt_top`: the log-probability at
    temperature 1, then the most likely ids and their log-probabilities. None if no item has any.
    """
    places = [(row, place, token) for row, item in enumerate(items) for place, token in enumerate(item.next_ids)]
    if not places:
        return None
    most = max(item.prompt_top for item in items if item.next_ids)
    block = max(1, LOGITS_AT_ONCE // model.info.vocab_size)
    parts: list[torch.Tensor] = []
    for first in range(0, len(places), block):
        rows, positions, tokens = upload(places[first : first + block], model.device).unbind(-1)
        logprobs = model.logits(hidden[rows, positions]).log_softmax(-1)
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
