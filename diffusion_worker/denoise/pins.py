"""Positions whose token is given: what a client has been told already, and the text behind a gap.

Pure functions of tensors. A pinned position is certain: it costs no entropy, is what the canvas shows, and is fed back.
"""

from collections.abc import Sequence

import torch

from diffusion_worker.models.host_to_device import upload
from diffusion_worker.types.step_batch import Denoise

FREE = -1
_IMPOSSIBLE = -1e4  # finite: zero times it is zero, where zero times infinity is NaN


def pins_of(items: Sequence[Denoise], canvas_length: int, device: torch.device) -> torch.Tensor | None:
    """Ids [rows, canvas], FREE where nothing is given; None if no row has a pin."""
    if not any(item.head or item.tail for item in items):
        return None
    rows = [(*i.head, *[FREE] * (canvas_length - len(i.head) - len(i.tail)), *i.tail) for i in items]
    return upload(rows, device)


def pin_ids(ids: torch.Tensor, pins: torch.Tensor | None) -> torch.Tensor:
    """Ids [rows, canvas] with the given ones in their places."""
    return ids if pins is None else torch.where(pins == FREE, ids, pins)


def pin_logits(logits: torch.Tensor, pins: torch.Tensor | None) -> torch.Tensor:
    """Logits [rows, canvas, vocab] that leave pinned positions no choice."""
    if pins is None:
        return logits
    certain = torch.full_like(logits, _IMPOSSIBLE).scatter_(-1, pins.clamp(min=0)[..., None], 0.0)
    return torch.where((pins == FREE)[..., None], logits, certain)


def mean_over_free(entropy: torch.Tensor, pins: torch.Tensor | None) -> torch.Tensor:
    """Mean [rows] over the positions that are not pinned: certain ones would make a canvas look surer than it is."""
    if pins is None:
        return entropy.mean(-1)
    return entropy.sum(-1) / (pins == FREE).sum(-1).clamp(min=1)
