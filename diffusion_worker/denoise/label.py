"""Classification rows of a denoising step: the most likely of the given labels, after two passes.

The most likely label is the text of every step, and from the second step on the row counts as converged, so the rest
of the loop needs no special case. One pass is not enough: over pure noise the model may not know yet how long a word
is, and every position after it then speaks against the right label (docs/log.md). Like constraints, labels are scored
on the host after one transfer for all such rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from diffusion_worker.constraints.inference.labels import label_logprobs
from diffusion_worker.denoise.constrain import Constrained
from diffusion_worker.denoise.score import Scores
from diffusion_worker.models.host_to_device import upload
from diffusion_worker.types.step_batch import Denoise


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """Result of a step after labels were scored."""

    constrained: Constrained
    done: Mapping[int, bool]  # by row with labels, whether it needs no further step
    logprobs: tuple[tuple[float, ...], ...]  # per row, of its labels; empty without labels


def label(items: Sequence[Denoise], constrained: Constrained) -> Labelled:
    """Replace the text of rows with labels by their most likely label at temperature 1. A row whose logits are not
    finite keeps its text: it fails after the step."""
    logprobs: list[tuple[float, ...]] = [()] * len(items)
    rows = [row for row, item in enumerate(items) if item.labels is not None]
    device = constrained.forced.device
    done = {row: not items[row].opens for row in rows}
    if not rows:
        return Labelled(constrained=constrained, done=done, logprobs=tuple(logprobs))
    surest, sure, forced = (
        constrained.scores.surest.clone(),
        constrained.scores.logprob.clone(),
        constrained.forced.clone(),
    )
    for row, seen in zip(rows, _fetched(items, rows, constrained.scores), strict=True):
        labels = items[row].labels
        assert labels is not None
        if not np.isfinite(seen).all():
            continue
        found = label_logprobs(labels, seen)
        best = int(found.argmax())
        answer = (*labels.answers[best], labels.end_id)
        surest[row] = labels.end_id  # also after the label, where nothing is read
        surest[row, : len(answer)] = upload(list(answer), device)
        sure[row], forced[row] = 0.0, True
        sure[row, 0], forced[row, 0] = float(found[best]), False  # the label as a whole carries the log-probability
        logprobs[row] = tuple(found.tolist())
    constrained = replace(constrained, scores=replace(constrained.scores, surest=surest, logprob=sure), forced=forced)
    return Labelled(constrained=constrained, done=done, logprobs=tuple(logprobs))


def _fetched(items: Sequence[Denoise], rows: Sequence[int], scores: Scores) -> list[np.ndarray]:
    """Per row [positions, columns], the log-probabilities of the tokens that occur in its labels."""
    parts = []
    for row in rows:
        labels = items[row].labels
        assert labels is not None
        tokens = upload(labels.tokens.tolist(), scores.normaliser.device)
        seen = scores.logits.capped(row, slice(labels.positions), tokens)
        parts.append(seen - scores.normaliser[row, : labels.positions, None])
    numbers = torch.cat([part.flatten() for part in parts]).double().cpu().numpy()
    ends = np.cumsum([part.numel() for part in parts])[:-1]
    return [part.reshape(like.shape) for part, like in zip(np.split(numbers, ends), parts, strict=True)]
