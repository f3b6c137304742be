"""Constrained rows of a denoising step: exact inference over the token automaton instead of masks per position.

A mask per position admits tokens that conflict when two are accepted together. For constrained rows the Viterbi path
therefore replaces the most likely tokens, an exact joint sample replaces the sampled ones, and the entropies of the
marginals decide acceptance. The model's unconstrained probabilities still feed the next step: it was never trained on
projected ones, and they did not help (docs/log.md). Inference runs on the host after one transfer for all such rows;
a step without constrained rows does not wait.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from diffusion_worker.constraints.inference.marginals import backward_masses, marginals
from diffusion_worker.constraints.inference.matcher import CanvasPath, Matcher, forced_tokens
from diffusion_worker.constraints.inference.sample import sample_path
from diffusion_worker.constraints.inference.token_set_scores import TokenSetMasses, weigh_token_sets
from diffusion_worker.constraints.inference.viterbi import best_path
from diffusion_worker.denoise.logit_reads import position_blocks
from diffusion_worker.denoise.score import CanvasLogits, Scores
from diffusion_worker.denoise.truncation import likeliest_tokens
from diffusion_worker.models.host_to_device import upload
from diffusion_worker.types.step_batch import Denoise

_FORBIDDEN = np.float32(-1e9)  # below any sum of logits over a canvas
_BELOW_ONE = 1.0 - 2.0**-24  # the largest float32 below 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Constrained:
    """Scores and sampled tokens of a step after constraints were applied."""

    scores: Scores
    sampled: torch.Tensor  # [rows, canvas]
    forced: torch.Tensor  # [rows, canvas] the constraint allowed one token only
    seconds: float = 0.0  # of host work, without waiting for the device


def constrain(
    items: Sequence[Denoise],
    scores: Scores,
    sampled: torch.Tensor,
    draw: Callable[[], torch.Tensor],
    progress: Callable[[], None] = lambda: None,
) -> Constrained:
    """Replace the scores and sampled tokens [rows, canvas] of constrained rows.

    `draw` returns uniform numbers [rows, canvas] in [0, 1) for sampling. The confidence of the constrained text is that
    of the model at temperature 1. `progress` is called after each constrained row.
    """
    rows = [row for row, item in enumerate(items) if item.matcher is not None]
    if not rows:
        return Constrained(scores=scores, sampled=sampled, forced=torch.zeros_like(scores.surest, dtype=torch.bool))
    index, annealed = upload(rows, sampled.device), _annealed(scores.logits, rows)
    uniforms = draw()[index].float().cpu().numpy()  # waits for the logits, too
    began = time.perf_counter()
    constrained = []
    for row, z, numbers in zip(rows, annealed, uniforms, strict=True):
        constrained.append(_ConstrainedRow(items[row], z.numpy(), numbers))
        progress()
    seconds = time.perf_counter() - began

    def replaced(old: torch.Tensor, name: str) -> torch.Tensor:
        new = torch.from_numpy(np.stack([getattr(each, name) for each in constrained]))
        return old.index_copy(0, index, upload(new, old.device).to(old.dtype))

    surest = replaced(scores.surest, "surest")
    return Constrained(
        scores=replace(
            scores,
            entropy=replaced(scores.entropy, "entropy"),
            surest=surest,
            logprob=scores.logprob_of(surest),
        ),
        sampled=replaced(sampled, "sampled"),
        forced=replaced(torch.zeros_like(surest, dtype=torch.bool), "forced"),
        seconds=seconds,
    )


def _annealed(logits: CanvasLogits, rows: Sequence[int]) -> list[torch.Tensor]:
    """Annealed logits [canvas, vocab] of some rows on the host, once the device has been waited for. They go there a
    block of positions at a time: memory is planned for no copy of the logits on the device."""
    shape = logits.raw.shape[1:]
    is_pinned = logits.raw.device.type == "cuda"  # a copy to other memory would wait for the device
    fetched = [
        torch.empty(shape, dtype=torch.float32, pin_memory=is_pinned) for _ in rows
    ]  # torch keeps each for reuse
    for row, whole in zip(rows, fetched, strict=True):
        for block in position_blocks(*shape, rows=len(logits.raw)):
            whole[block].copy_(logits.annealed_at(row, block), non_blocking=True)
    return fetched


class _ConstrainedRow:
    """Inference for one constrained row; arrays of [canvas]. Pinned positions come first and keep their token. A row
    whose logits are not finite is left at zero: it fails after the step."""

    def __init__(self, item: Denoise, z: NDArray[np.float32], uniforms: NDArray[np.float32]) -> None:
        canvas, self._pinned = len(z), len(item.pinned_prefix)
        self.surest, self.sampled = np.zeros((2, canvas), np.int64)
        self.surest[: self._pinned] = self.sampled[: self._pinned] = item.pinned_prefix
        self.entropy = np.zeros(canvas)
        self.forced = np.zeros(canvas, np.bool_)
        assert item.matcher is not None
        if self._pinned < canvas and np.isfinite(z).all():
            matcher = _matcher_for(
                item.matcher, item.pinned_prefix, free=canvas - self._pinned, near_deadline=item.near_deadline
            )
            self._infer(item, matcher, z[self._pinned :], uniforms[self._pinned :])
        self.forced[: self._pinned] = forced_tokens(
            item.matcher.automaton, item.matcher.state, self.surest[: self._pinned]
        )

    def _infer(self, item: Denoise, matcher: Matcher, z: NDArray[np.float32], uniforms: NDArray[np.float32]) -> None:
        free, automaton = slice(self._pinned, None), matcher.automaton
        if matcher.forbidden:
            z = z.copy()
            z[0, list(matcher.forbidden)] = _FORBIDDEN
        masses = weigh_token_sets(automaton.token_sets, z)
        backward = backward_masses(matcher, masses)
        best, shares = best_path(matcher, masses.scores), marginals(matcher, masses, backward)
        self.surest[free] = best.tokens
        self.entropy[self._pinned : self._pinned + len(shares.entropy)] = shares.entropy
        self.forced[self._pinned : self._pinned + best.length] = forced_tokens(
            automaton, matcher.state, best.tokens[: best.length]
        )
        self.sampled[free] = _sampled_path(item, matcher, masses, backward, uniforms).tokens


def _matcher_for(matcher: Matcher, pinned: tuple[int, ...], *, free: int, near_deadline: bool) -> Matcher:
    """The matcher after the pinned ids. Near the deadline the text must end on this canvas, if it can."""
    matcher = matcher.after(pinned)
    remaining = matcher.remaining_positions(free)
    if near_deadline and matcher.automaton.distance[matcher.state] <= remaining:
        return replace(matcher, tokens_left=remaining)
    return matcher


def _sampled_path(
    item: Denoise,
    matcher: Matcher,
    masses: TokenSetMasses,
    backward: NDArray[np.float64],
    uniforms: NDArray[np.float32],
) -> CanvasPath:
    """A path sampled at the request's temperature and with its truncation, which affect sampling only."""
    if item.temperature not in (None, 0.0, 1.0):
        masses = weigh_token_sets(matcher.automaton.token_sets, masses.scores.logits / np.float32(item.temperature))
        backward = backward_masses(matcher, masses)
    truncate = None if item.truncation is None else partial(likeliest_tokens, truncation=item.truncation)
    return sample_path(matcher, masses, backward, np.minimum(uniforms, _BELOW_ONE).astype(np.float64), truncate)
