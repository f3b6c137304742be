"""Pinned positions, whose token is given: the streamed prefix of a canvas, and the suffix after a gap.

Pure functions of tensors. A pinned position has no entropy; its token is shown to the model and fed back.
"""

from collections.abc import Sequence

import torch

from diffusion_worker.models.host_to_device import upload
from diffusion_worker.types.step_batch import Denoise

FREE = -1
_IMPOSSIBLE = -1e4  # finite, because 0 * infinity is NaN


def pins_of(items: Sequence[Denoise], canvas_length: int, device: torch.device) -> torch.Tensor | None:
    """Pinned ids [rows, canvas], FREE elsewhere; None if no row has a pin."""
    if not any(item.pinned_prefix or item.pinned_suffix for item in items):
        return None
    rows = [
        (*i.pinned_prefix, *[FREE] * (canvas_length - len(i.pinned_prefix) - len(i.pinned_suffix)), *i.pinned_suffix)
        for i in items
    ]
    return upload(rows, device)


def pin_ids(ids: torch.Tensor, pins: torch.Tensor | None) -> torch.Tensor:
    """Ids [rows, canvas] with pinned positions replaced."""
    return ids if pins is None else torch.where(pins == FREE, ids, pins)


def pin_logits(logits: torch.Tensor, pins: torch.Tensor | None) -> torch.Tensor:
    """Logits [rows, canvas, vocab] with pinned positions certain."""
    if pins is None:
        return logits
    certain = torch.full_like(logits, _IMPOSSIBLE).scatter_(-1, pins.clamp(min=0)[..., None], 0.0)
    return torch.where((pins == FREE)[..., None], logits, certain)


def mean_over_free(entropy: torch.Tensor, pins: torch.Tensor | None) -> torch.Tensor:
    """Mean entropy [rows] over unpinned positions, since pinned ones are certain."""
    if pins is None:
        return entropy.mean(-1)
    return entropy.sum(-1) / (pins == FREE).sum(-1).clamp(min=1)
