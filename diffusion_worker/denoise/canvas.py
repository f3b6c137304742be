"""The canvas: the state of a block of positions that is being denoised.

A canvas holds ids and mean embeddings, never logits over the vocabulary, so a preempted request takes little memory.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Canvas:
    """State passed from one step to the next."""

    ids: torch.Tensor  # [canvas] accepted tokens and noise
    soft: torch.Tensor  # [canvas, hidden] self-conditioning; zeros before the first step
    surest: torch.Tensor  # [canvas] most likely ids of the previous step; -1 before the first
    unchanged: torch.Tensor  # [canvas] number of steps for which each has not changed
    accepted: torch.Tensor  # [canvas] positions of `ids` that were accepted or kept, and are not noise


def fresh(ids: torch.Tensor, hidden_size: int, dtype: torch.dtype, *, is_anchored: bool = False) -> Canvas:
    """A new canvas from ids [canvas]. The ids of an anchored one count as its previous argmax, so that it converges in
    one step if the model agrees with all of them."""
    return Canvas(
        ids=ids,
        soft=torch.zeros(len(ids), hidden_size, dtype=dtype, device=ids.device),
        surest=ids if is_anchored else torch.full_like(ids, -1),
        unchanged=torch.zeros_like(ids),
        accepted=torch.full_like(ids, is_anchored, dtype=torch.bool),
    )


def warm_start(start_ids: tuple[int, ...], *, length: int, end_id: int, pad_id: int) -> tuple[int, ...]:
    """A given text as a canvas of `length` ids: truncated, or followed by an end token and padding, as in training."""
    cut = start_ids[:length]
    if len(cut) == length:
        return cut
    return (*cut, end_id, *[pad_id] * (length - len(cut) - 1))
