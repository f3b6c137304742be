"""Constrained rows of a denoising step: exact inference over the token automaton instead of masks per position.

A mask per position admits tokens that conflict when two are accepted together. For constrained rows the Viterbi path
therefore replaces the most likely tokens, an exact joint sample replaces the sampled ones, and the entropies of the
marginals decide acceptance. The model's unconstrained probabilities still feed the next step: it was never trained on
projected ones, and they did not help (docs/log.md). The host waits once for all such rows, then infers them side by
side; a step without constrained rows does not wait.

The logits are reduced where they are to scores of token equivalence classes: in torch on an accelerator
(`class_scores`), in C on a CPU. The host chooses a class for each position, and the tokens of these classes are found
beside the logits. Rows whose inference needs the logits themselves, see `_needs_logits`, fetch them.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from diffusion_worker.constraints.inference.class_inference import Inferred, infer
from diffusion_worker.constraints.inference.class_reduction import ClassScores, LogitReducer, class_layout_of
from diffusion_worker.constraints.inference.marginals import backward_masses, marginals
from diffusion_worker.constraints.inference.matcher import CanvasPath, Matcher, forced_tokens, forcing_states
from diffusion_worker.constraints.inference.native import NATIVE
from diffusion_worker.constraints.inference.sample import sample_path
from diffusion_worker.constraints.inference.token_set_scores import TokenSetMasses, weigh_token_sets
from diffusion_worker.constraints.inference.viterbi import best_path
from diffusion_worker.denoise.class_scores import (
    Chunks,
    class_numbers,
    class_scores_of,
    likeliest_members,
    on_device,
    sampled_members,
)
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
    index = upload(rows, sampled.device)
    queued = [_queue(items[row], row, scores.logits) for row in rows]
    uniforms = draw()[index].float().cpu().numpy()  # waits for the logits, too
    began = time.perf_counter()
    found = []
    for finish in _side_by_side([partial(row, numbers) for row, numbers in zip(queued, uniforms, strict=True)]):
        found.append(finish())
        progress()
    seconds = time.perf_counter() - began

    def replaced(old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        return old.index_copy(0, index, new.to(old.dtype))

    surest = replaced(scores.surest, torch.stack([row.surest for row in found]))
    entropy, forced = (
        upload(torch.from_numpy(np.stack([getattr(row, name) for row in found])), sampled.device)
        for name in ("entropy", "forced")
    )
    return Constrained(
        scores=replace(
            scores, entropy=replaced(scores.entropy, entropy), surest=surest, logprob=scores.logprob_of(surest)
        ),
        sampled=replaced(sampled, torch.stack([row.sampled for row in found])),
        forced=replaced(torch.zeros_like(surest, dtype=torch.bool), forced),
        seconds=seconds,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What inference found for a row; [canvas]."""

    surest: torch.Tensor  # on the device
    sampled: torch.Tensor
    entropy: NDArray[np.float64]
    forced: NDArray[np.bool_]


# What is left for the thread of the device, whose current stream other threads do not share.
_Finish = Callable[[], _Found]
# From uniform numbers [canvas]; called once the device has been waited for, in any thread.
_Row = Callable[[NDArray[np.float32]], _Finish]


def _side_by_side(work: Sequence[Callable[[], _Finish]]) -> Iterator[_Finish]:
    """Results in order, from as many threads as torch may use: most of the work does not hold the interpreter lock."""
    threads = min(len(work), torch.get_num_threads(), os.cpu_count() or 1)
    if threads == 1:
        yield from (each() for each in work)
        return

    @torch.inference_mode()
    def run(each: Callable[[], _Finish]) -> _Finish:
        return each()

    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(run, work)


def _queue(item: Denoise, row: int, logits: CanvasLogits) -> _Row:
    """Queue what a row needs of the device."""
    if _needs_logits(item, row, logits) or (_is_on_host(logits) and NATIVE is None):
        return partial(_infer_exactly, item, _annealed(logits, row), logits.raw.device)
    return partial(_infer_on_host, item, row, logits) if _is_on_host(logits) else _queue_reduction(item, row, logits)


def _is_on_host(logits: CanvasLogits) -> bool:
    return logits.raw.device.type == "cpu"


def _needs_logits(item: Denoise, row: int, logits: CanvasLogits) -> bool:
    """Whether inference depends on more than scores of classes: a truncation counts tokens, and tokens are scored anew
    if some are forbidden or penalised, or if positions behind the text are pinned."""
    assert item.matcher is not None
    is_adjusted = row in logits.adjust or bool(item.matcher.forbidden)
    return is_adjusted or item.truncation is not None or bool(item.pinned_suffix)


def _annealed(logits: CanvasLogits, row: int) -> torch.Tensor:
    """Annealed logits [canvas, vocab] of a row on the host, once the device has been waited for. They go there a block
    of positions at a time: memory is planned for no copy of the logits on the device."""
    shape = logits.raw.shape[1:]
    is_pinned = logits.raw.device.type == "cuda"  # a copy to other memory would wait for the device
    whole = torch.empty(shape, dtype=torch.float32, pin_memory=is_pinned)  # torch keeps it for reuse
    for block in position_blocks(*shape, rows=len(logits.raw)):
        whole[block].copy_(logits.annealed_at(row, block), non_blocking=True)
    return whole


def _infer_on_host(item: Denoise, row: int, logits: CanvasLogits, uniforms: NDArray[np.float32]) -> _Finish:
    """Logits that are in the host's memory. In fp32 without a cap they are read in place; otherwise, a few
    positions at a time pass through the processor's cache."""
    canvas = logits.raw.shape[1]
    pinned, temperature = len(item.pinned_prefix), _sampling_temperature(item)
    assert item.matcher is not None
    is_read_in_place = logits.cap == 0.0 and logits.raw.dtype == torch.float32
    annealing = float(logits.temperature[row]) if is_read_in_place else 1.0
    layout = class_layout_of(item.matcher.automaton.token_sets)
    reducer = LogitReducer(layout, canvas - pinned, temperature, annealing)
    if is_read_in_place:
        is_finite = reducer.read(0, logits.raw[row, pinned:].numpy())
    else:
        is_finite = _read_annealed(reducer, row, pinned, logits)
    chunks = Chunks(
        peak=torch.from_numpy(reducer.chunk_peak),
        total=torch.from_numpy(reducer.chunk_total),
        sampling=1.0 / temperature,
    )
    found = _ReducedRow(item, row, logits, chunks).infer(reducer.scores if is_finite else None, uniforms)()
    return lambda: found


def _read_annealed(reducer: LogitReducer, row: int, pinned: int, logits: CanvasLogits) -> bool:
    canvas, vocab = logits.raw.shape[1:]
    blocks = [slice(pinned + at.start, pinned + at.stop) for at in position_blocks(canvas - pinned, vocab)]
    part = torch.empty((blocks[0].stop - blocks[0].start if blocks else 0, vocab), dtype=torch.float32)
    is_finite = True
    for block in blocks:
        few = part[: block.stop - block.start]
        few.copy_(logits.annealed_at(row, block))
        is_finite &= reducer.read(block.start - pinned, few.numpy())
    return is_finite


def _queue_reduction(item: Denoise, row: int, logits: CanvasLogits) -> _Row:
    """Reduce the logits on their device; only the scores of classes are fetched."""
    assert item.matcher is not None
    pinned, sampling = len(item.pinned_prefix), 1.0 / _sampling_temperature(item)
    layout, device = class_layout_of(item.matcher.automaton.token_sets), logits.raw.device
    if pinned == logits.raw.shape[1]:
        nothing = logits.raw.new_empty(0, 0)
        chunks = Chunks(peak=nothing, total=nothing, sampling=sampling)
        return partial(_ReducedRow(item, row, logits, chunks).infer, None)
    numbers, chunks = class_numbers(
        logits.raw[row, pinned:], on_device(layout, device), logits.temperature[row], sampling, logits.cap
    )
    fetched = torch.empty(numbers.shape, dtype=torch.float32, pin_memory=device.type == "cuda")
    fetched.copy_(numbers, non_blocking=True)

    def infer_reduced(uniforms: NDArray[np.float32]) -> _Finish:
        scores = class_scores_of(fetched.numpy(), len(chunks.peak), layout, sampling)
        is_finite = np.isfinite(fetched.numpy()).all()
        return _ReducedRow(item, row, logits, chunks).infer(scores if is_finite else None, uniforms)

    return infer_reduced


class _ReducedRow:
    """A row whose logits were reduced to scores of classes and chunks [free positions, …]. Pinned positions come first
    and keep their token."""

    def __init__(self, item: Denoise, row: int, logits: CanvasLogits, chunks: Chunks) -> None:
        self._item, self._row, self._logits, self._chunks = item, row, logits, chunks
        self._canvas, self._pinned = logits.raw.shape[1], len(item.pinned_prefix)

    def infer(self, scores: ClassScores | None, uniforms: NDArray[np.float32]) -> _Finish:
        """Infer classes; without scores, all positions are pinned, or the logits are not finite and the row fails after
        the step. What is returned finds the tokens of the classes."""
        given, pinned = self._item.matcher, self._pinned
        assert given is not None
        matcher: Matcher = given
        entropy, forced = np.zeros(self._canvas), np.zeros(self._canvas, np.bool_)
        forced[:pinned] = forced_tokens(matcher.automaton, matcher.state, np.array(self._item.pinned_prefix, np.int64))
        found = None
        if scores is not None and pinned < self._canvas:
            free = self._canvas - pinned
            matcher = _matcher_for(matcher, self._item.pinned_prefix, free=free, near_deadline=self._item.near_deadline)
            found = infer(matcher, scores, np.minimum(uniforms[pinned:], _BELOW_ONE).astype(np.float64))
            entropy[pinned : pinned + len(found.entropy)] = found.entropy
            forced[pinned : pinned + len(found.best)] = forcing_states(matcher.automaton)[found.states]
        return lambda: _Found(entropy=entropy, forced=forced, **self._texts(matcher, found))

    def _texts(self, matcher: Matcher, found: Inferred | None) -> dict[str, torch.Tensor]:
        """The most likely text and the sample [canvas], on the device."""
        device, padding = self._logits.raw.device, matcher.automaton.padding_id if found else 0
        given = [*self._item.pinned_prefix, *[padding] * (self._canvas - self._pinned)]
        if found is None:
            text = upload(given, device)
            return {"surest": text, "sampled": text}
        layout = on_device(class_layout_of(matcher.automaton.token_sets), device)
        best, drawn = len(found.best), len(found.drawn)
        host = torch.from_numpy(np.concatenate([given, found.best, found.drawn, found.rests]))
        numbers = upload(host, device)
        text, *classes = torch.split(numbers, [self._canvas, best, drawn, drawn])
        surest, sampled = text.long(), text.long()
        free = slice(self._pinned, self._pinned + best)
        surest[free] = likeliest_members(layout, self._chunks, classes[0].long(), self._logits_at(best))
        free = slice(self._pinned, self._pinned + drawn)
        sampled[free] = sampled_members(
            layout, self._chunks, classes[1].long(), classes[2].double(), self._logits_at(drawn)
        )
        return {"surest": surest, "sampled": sampled}

    def _logits_at(self, count: int) -> Callable[[torch.Tensor], torch.Tensor]:
        """Annealed logits of tokens [count, …] at the first free positions."""
        return lambda tokens: self._logits.annealed_tokens(self._row, self._pinned, tokens[:count])


def _sampling_temperature(item: Denoise) -> float:
    """Of the sample, on top of the annealing; greedy rows use no sample."""
    return 1.0 if item.temperature in (None, 0.0) else float(item.temperature)


def _infer_exactly(item: Denoise, z: torch.Tensor, device: torch.device, uniforms: NDArray[np.float32]) -> _Finish:
    """From the logits of the row on the host."""
    row = _ConstrainedRow(item, z.numpy(), uniforms)

    def finish() -> _Found:
        surest, sampled = (upload(torch.from_numpy(each), device) for each in (row.surest, row.sampled))
        return _Found(surest=surest, sampled=sampled, entropy=row.entropy, forced=row.forced)

    return finish


class _ConstrainedRow:
    """Inference for one row from its logits; arrays of [canvas]. Pinned positions come first and keep their token. A
    row whose logits are not finite is left at zero: it fails after the step."""

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
    if (temperature := _sampling_temperature(item)) != 1.0:
        masses = weigh_token_sets(matcher.automaton.token_sets, masses.scores.logits / np.float32(temperature))
        backward = backward_masses(matcher, masses)
    truncate = None if item.truncation is None else partial(likeliest_tokens, truncation=item.truncation)
    return sample_path(matcher, masses, backward, np.minimum(uniforms, _BELOW_ONE).astype(np.float64), truncate)
