"""Pinned positions, whose token is given: the streamed prefix of a canvas, the suffix after a gap, a template's text.

Pure functions of tensors. A pinned position has no entropy; its token is shown to the model and fed back.
"""

from collections.abc import Sequence

import torch

from diffusion_worker.constraints.inference.template import FREE
from diffusion_worker.models.host_to_device import upload
from diffusion_worker.types.step_batch import Denoise

_IMPOSSIBLE = -1e4  # finite, because 0 * infinity is NaN


def pins_of(items: Sequence[Denoise], canvas_length: int, device: torch.device) -> torch.Tensor | None:
    """Pinned ids [rows, canvas], FREE elsewhere; None if no row has a pin."""
    if not any(item.pinned_prefix or item.pinned_suffix or item.template for item in items):
        return None
    return upload([_row(item, canvas_length) for item in items], device)


def _row(item: Denoise, canvas_length: int) -> tuple[int, ...]:
    if item.template is not None:
        return item.template.pins
    free = canvas_length - len(item.pinned_prefix) - len(item.pinned_suffix)
    return (*item.pinned_prefix, *[FREE] * free, *item.pinned_suffix)


def pinned_places(items: Sequence[Denoise], canvas_length: int, device: torch.device) -> torch.Tensor:
    """(row, position, token) [3, places] of every pin, of which there is at least one."""
    places = [
        (row, position, token)
        for row, item in enumerate(items)
        for position, token in enumerate(_row(item, canvas_length))
        if token != FREE
    ]
    return upload(places, device).T


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
