"""Rows with a canvas template: the probabilities of the labels of every hole, in at most two passes.

Only the logits where labels part are fetched, in one transfer for all such rows; see `constraints.inference.template`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from diffusion_worker.constraints.inference.template import Probabilities
from diffusion_worker.denoise.score import CanvasLogits
from diffusion_worker.models.host_to_device import upload
from diffusion_worker.models.interface import capped
from diffusion_worker.types.step_batch import Denoise


@dataclass(frozen=True, slots=True, kw_only=True)
class Filled:
    """Result of a step for rows with a template."""

    done: Mapping[int, bool]  # by row with a template, whether it needs no further step
    holes: tuple[Probabilities, ...]  # per row; empty without a template


def fill(items: Sequence[Denoise], logits: CanvasLogits) -> Filled:
    """Score the holes from the model's logits at temperature 1. A row whose logits are not finite gets
    uniform shares: it fails after the step."""
    rows = [row for row, item in enumerate(items) if item.template is not None]
    holes: list[Probabilities] = [()] * len(items)
    done: dict[int, bool] = {}
    for row, seen in zip(rows, _fetched(items, rows, logits), strict=True):
        template = items[row].template
        assert template is not None
        holes[row] = template.probabilities(seen if np.isfinite(seen).all() else np.zeros_like(seen))
        done[row] = not items[row].opens or template.narrowed(holes[row]).is_decided
    return Filled(done=done, holes=tuple(holes))


def _fetched(items: Sequence[Denoise], rows: Sequence[int], logits: CanvasLogits) -> list[np.ndarray]:
    """Per row, the logits at the sites of its template."""
    templates = [(row, template) for row in rows if (template := items[row].template) is not None]
    sites = [(row, *site) for row, template in templates for site in template.sites]
    if not sites:
        return [np.zeros(0) for _ in templates]
    row_at, position, token = upload(sites, logits.raw.device).unbind(-1)
    numbers = capped(logits.raw[row_at, position, token], logits.cap).double().cpu().numpy()
    return np.split(numbers, np.cumsum([len(template.sites) for _, template in templates])[:-1])
