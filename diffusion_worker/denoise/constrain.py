"""The rows of a step whose answers are constrained: whole texts in place of tokens that do not know of each other.

A mask per position would admit tokens that clash as soon as two are committed together. So for these rows the best text
of the constraint replaces the surest tokens, an exact joint sample the sampled ones, and the entropies of the marginals
decide what is accepted. The net's own probabilities still feed its next step: it was never trained on projected ones,
and they were seen to help nothing (docs/log.md). It is done on the host, behind one transfer for all such rows; a step
without them waits for nothing. Knows logits and automata, no requests.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from diffusion_worker.constraints.inference.marginals import backward_masses, marginals
from diffusion_worker.constraints.inference.matcher import CanvasPath, Matcher, forced_tokens
from diffusion_worker.constraints.inference.sample import sample_path
from diffusion_worker.constraints.inference.token_set_scores import TokenSetMasses, weigh_token_sets
from diffusion_worker.constraints.inference.viterbi import best_path
from diffusion_worker.denoise.score import Scores
from diffusion_worker.models.host_to_device import upload
from diffusion_worker.types.step_batch import Denoise

_FORBIDDEN = np.float32(-1e9)  # below whatever a canvas of logits can add up to
_BELOW_ONE = 1.0 - 2.0**-24  # the largest float32 below 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """Scores and proposals of a step in which some rows are constrained."""

    scores: Scores
    sampled: torch.Tensor  # [rows, canvas]
    forced: torch.Tensor  # [rows, canvas] the constraint left no choice
    seconds: float = 0.0  # that the host worked on it; waiting for the device is not counted


def constrain(
    items: Sequence[Denoise],
    scores: Scores,
    sampled: torch.Tensor,
    draw: Callable[[], torch.Tensor],
    logits: torch.Tensor,
) -> Texts:
    """Scores [rows, canvas, vocab] and sampled tokens [rows, canvas], those of constrained rows replaced. `draw` gives
    the numbers [rows, canvas] in [0, 1) that decide what is sampled; `logits` are those of the net, for the confidence
    in the texts."""
    rows = [row for row, item in enumerate(items) if item.matcher is not None]
    if not rows:
        return Texts(scores=scores, sampled=sampled, forced=torch.zeros_like(scores.surest, dtype=torch.bool))
    place = upload(rows, logits.device)
    fetched = torch.cat([scores.z[place].float().flatten(1), draw()[place].float()], dim=-1).cpu().numpy()
    began = time.perf_counter()
    canvas, vocab = scores.z.shape[1:]  # logits come first, whole: numpy would copy what lies in pieces
    said = [
        _Said(items[row], seen[:-canvas].reshape(canvas, vocab), seen[-canvas:])
        for row, seen in zip(rows, fetched, strict=True)
    ]
    seconds = time.perf_counter() - began

    def replaced(old: torch.Tensor, name: str) -> torch.Tensor:
        new = torch.from_numpy(np.stack([getattr(each, name) for each in said]))
        return old.index_copy(0, place, upload(new, old.device).to(old.dtype))

    surest = replaced(scores.surest, "surest")
    return Texts(
        scores=replace(
            scores,
            entropy=replaced(scores.entropy, "entropy"),
            surest=surest,
            logprob=logits.gather(-1, surest[..., None])[..., 0] - logits.logsumexp(-1),
        ),
        sampled=replaced(sampled, "sampled"),
        forced=replaced(torch.zeros_like(surest, dtype=torch.bool), "forced"),
        seconds=seconds,
    )


class _Said:
    """What one constrained row says; arrays of [canvas]. Pinned positions come first, they keep their token. A row
    whose logits are not finite is left empty: it is faulted after the step."""

    def __init__(self, item: Denoise, z: NDArray[np.float32], uniforms: NDArray[np.float32]) -> None:
        canvas, self._pinned = len(z), len(item.head)
        self.surest, self.sampled = np.zeros((2, canvas), np.int64)
        self.surest[: self._pinned] = self.sampled[: self._pinned] = item.head
        self.entropy = np.zeros(canvas)
        self.forced = np.zeros(canvas, np.bool_)
        assert item.matcher is not None
        if self._pinned < canvas and np.isfinite(z).all():
            matcher = _cursor_of(item.matcher, item.head, free=canvas - self._pinned, near_deadline=item.near_deadline)
            self._read(matcher, z[self._pinned :], uniforms[self._pinned :], item.temperature)
        self.forced[: self._pinned] = forced_tokens(
            item.matcher.automaton, item.matcher.state, self.surest[: self._pinned]
        )

    def _read(
        self, matcher: Matcher, z: NDArray[np.float32], uniforms: NDArray[np.float32], temperature: float | None
    ) -> None:
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
        self.sampled[free] = _drawn(matcher, masses, backward, uniforms, temperature).tokens


def _cursor_of(matcher: Matcher, head: tuple[int, ...], *, free: int, near_deadline: bool) -> Matcher:
    """Behind what is pinned. In a hurry the text must close on this canvas, if it can."""
    behind = matcher.after(head)
    room = behind.remaining_positions(free)
    if near_deadline and behind.automaton.distance[behind.state] <= room:
        return replace(behind, tokens_left=room)
    return behind


def _drawn(
    matcher: Matcher,
    masses: TokenSetMasses,
    backward: NDArray[np.float64],
    uniforms: NDArray[np.float32],
    temperature: float | None,
) -> CanvasPath:
    """A text sampled as the request wants it: `temperature` scales what is sampled and nothing else."""
    if temperature not in (None, 0.0, 1.0):
        masses = weigh_token_sets(matcher.automaton.token_sets, masses.scores.logits / np.float32(temperature))
        backward = backward_masses(matcher, masses)
    return sample_path(matcher, masses, backward, np.minimum(uniforms, _BELOW_ONE).astype(np.float64))
