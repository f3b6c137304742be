"""The rows of a step that choose among labels: two passes, a look at the net's own words, and the canvas is done.

The likeliest label is the surest text of every step, and from the second on the row counts as settled, so nothing else
of the loop needs to know. One pass would nearly do, but over pure noise the net may not know yet how long a word is;
then every position behind it speaks against the right label (docs/log.md). Like constraints it is done on the host,
behind one transfer for all such rows. Knows logits and labels, no requests.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from diffusion_worker.constraints.inference.labels import label_logprobs
from diffusion_worker.denoise.constrain import Texts
from diffusion_worker.models.host_to_device import upload
from diffusion_worker.types.step_batch import Denoise


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """What a step says once labels have been weighed."""

    texts: Texts
    rows: torch.Tensor  # [rows] those with labels
    done: torch.Tensor  # [rows] those of them that need no further step
    logprobs: tuple[tuple[float, ...], ...]  # of every row's labels; empty where there are none


def label(items: Sequence[Denoise], texts: Texts, logits: torch.Tensor) -> Labelled:
    """Texts of rows with labels replaced; `logits` [rows, canvas, vocab] are those of the net, at temperature 1. A row
    whose logits are not finite keeps its text: it is faulted after the step."""
    logprobs: list[tuple[float, ...]] = [()] * len(items)
    rows = [row for row, item in enumerate(items) if item.labels is not None]
    has_labels = upload([item.labels is not None for item in items], logits.device)
    done = upload([item.labels is not None and not item.opens for item in items], logits.device)
    if not rows:
        return Labelled(texts=texts, rows=has_labels, done=done, logprobs=tuple(logprobs))
    surest, sure, forced = texts.scores.surest.clone(), texts.scores.logprob.clone(), texts.forced.clone()
    for row, seen in zip(rows, _fetched(items, rows, logits), strict=True):
        labels = items[row].labels
        assert labels is not None
        if not np.isfinite(seen).all():
            continue
        found = label_logprobs(labels, seen)
        best = int(found.argmax())
        answer = (*labels.answers[best], labels.end_id)
        surest[row] = labels.end_id  # behind the answer as well: nobody will look there
        surest[row, : len(answer)] = upload(list(answer), logits.device)
        sure[row], forced[row] = 0.0, True
        sure[row, 0], forced[row, 0] = float(found[best]), False  # all its tokens are as sure as the label
        logprobs[row] = tuple(found.tolist())
    texts = replace(texts, scores=replace(texts.scores, surest=surest, logprob=sure), forced=forced)
    return Labelled(texts=texts, rows=has_labels, done=done, logprobs=tuple(logprobs))


def _fetched(items: Sequence[Denoise], rows: Sequence[int], logits: torch.Tensor) -> list[np.ndarray]:
    """Of each row [positions, columns] the log-probabilities that its labels are made of."""
    parts = []
    for row in rows:
        labels = items[row].labels
        assert labels is not None
        seen = logits[row, : labels.positions]
        parts.append(seen[:, upload(labels.tokens.tolist(), logits.device)] - seen.logsumexp(-1, keepdim=True))
    numbers = torch.cat([part.flatten() for part in parts]).double().cpu().numpy()
    ends = np.cumsum([part.numel() for part in parts])[:-1]
    return [part.reshape(like.shape) for part, like in zip(np.split(numbers, ends), parts, strict=True)]
