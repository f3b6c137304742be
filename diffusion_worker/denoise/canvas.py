"""A block of positions while it is being denoised, and how it opens.

A canvas is small (ids and mean embeddings, never logits over the vocabulary), so a parked request costs little.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Canvas:
    """What one step leaves for the next."""

    ids: torch.Tensor  # [canvas] accepted tokens and noise
    soft: torch.Tensor  # [canvas, hidden] self-conditioning; zeros before the first step
    surest: torch.Tensor  # [canvas] argmax of the step before; -1 before the first
    unchanged: torch.Tensor  # [canvas] for how many steps each of them has not changed


def fresh(ids: torch.Tensor, hidden_size: int, dtype: torch.dtype, *, is_anchored: bool = False) -> Canvas:
    """A canvas [canvas] no step has seen yet. An anchored one counts as the surest so far: if the net agrees with all
    of it, one step settles it."""
    return Canvas(
        ids=ids,
        soft=torch.zeros(len(ids), hidden_size, dtype=dtype, device=ids.device),
        surest=ids if is_anchored else torch.full_like(ids, -1),
        unchanged=torch.zeros_like(ids),
    )


def warm_start(start_ids: tuple[int, ...], *, length: int, end_id: int, pad_id: int) -> tuple[int, ...]:
    """A given text as a canvas of exactly `length` ids: cut if longer, else followed by an end token and pads, which is
    how answers shorter than a canvas look in training."""
    cut = start_ids[:length]
    if len(cut) == length:
        return cut
    return (*cut, end_id, *[pad_id] * (length - len(cut) - 1))
