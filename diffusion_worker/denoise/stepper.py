"""Carries out a batch on the net: releases, causal passes, canvas steps, reads; owns the tensors of running sequences.

Knows the net, the cache and the canvases; knows nothing of queues, budgets or why a batch is what it is.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch

from diffusion_worker.denoise.canvas import Canvas, fresh, warm_start
from diffusion_worker.denoise.draws import CounterDraws, DrawKey, Draws
from diffusion_worker.denoise.read import padded, read
from diffusion_worker.denoise.step import step
from diffusion_worker.errors import NotFinite, StepFailed
from diffusion_worker.memory.kv_cache import KvCache
from diffusion_worker.nets.interface import DiffusionNet
from diffusion_worker.records import SequenceId
from diffusion_worker.work import Append, Batch, CanvasResult, Denoise, Read, RowFault, StepResult, TokenResult

Work = TypeVar("Work", Append, Denoise, Read)
Result = CanvasResult | TokenResult | RowFault
# What a forward pass raises on bad shapes, bad ids or too little memory.
_PASS_ERRORS = (RuntimeError, ValueError, IndexError, TypeError, ArithmeticError, MemoryError)


class Stepper:
    """`step(batch)` is the middle one of the three verbs: next_batch, step, settle. One thread calls it."""

    def __init__(self, net: DiffusionNet, cache: KvCache, draws: Draws | None = None) -> None:
        self.net = net
        self.cache = cache
        self._draws = draws or CounterDraws(net.device)
        self._canvases: dict[SequenceId, Canvas] = {}

    @torch.inference_mode()
    def step(self, batch: Batch) -> StepResult:
        """One iteration. A failing row faults alone: where a pass over several rows raises, each is tried by itself."""
        for sequence in batch.releases:
            self.release(sequence)
        beginning: tuple[Append | Read, ...] = (*batch.appends, *batch.reads)
        for first in beginning:
            if first.at == 0:
                self.cache.open(first.sequence)
        results: list[Result] = []
        for group in _alike(batch.appends, lambda item: item.at == 0):
            results += self._isolated(group, self._append)
        lost = {result.sequence for result in results}
        for steps in _alike([i for i in batch.denoises if i.sequence not in lost], lambda i: i.recipe.canvas_length):
            results += self._isolated(steps, self._denoise)
        for reads in _alike(batch.reads, lambda item: item.at == 0):
            results += self._isolated(reads, self._read)
        return StepResult(
            canvases=tuple(r for r in results if isinstance(r, CanvasResult)),
            tokens=tuple(r for r in results if isinstance(r, TokenResult)),
            faults=tuple(r for r in results if isinstance(r, RowFault)),
        )

    def release(self, sequence: SequenceId) -> None:
        """Forget a sequence, if it is known."""
        self._canvases.pop(sequence, None)
        if sequence in self.cache:
            self.cache.release(sequence)

    def _append(self, items: Sequence[Append]) -> list[Result]:
        view = self.cache.appending([i.sequence for i in items], [len(i.ids) for i in items])
        self.net.encode(padded([i.ids for i in items], self.net.device), view)
        self.cache.seal(view)
        return []

    def _denoise(self, items: Sequence[Denoise]) -> list[Result]:
        canvases = [self._canvas_of(item) for item in items]
        context = self.cache.reading([i.sequence for i in items], items[0].recipe.canvas_length)
        done = step(self.net, items, canvases, context, self._draws)
        results: list[Result] = []
        columns = (done.logprob, done.mean_entropy, done.accepted, done.settled)
        for item, canvas, *row in zip(items, done.canvases, *(column.tolist() for column in columns), strict=True):
            logprobs, mean_entropy, accepted, is_settled = row
            if not math.isfinite(mean_entropy):
                results.append(self._not_finite(item.sequence))
                continue
            self._canvases[item.sequence] = canvas
            results.append(
                CanvasResult(
                    sequence=item.sequence,
                    ids=tuple(canvas.surest.tolist()),
                    logprobs=tuple(logprobs),
                    mean_entropy=mean_entropy,
                    accepted=accepted,
                    is_settled=is_settled,
                )
            )
        return results

    def _read(self, items: Sequence[Read]) -> list[Result]:
        view = self.cache.appending([i.sequence for i in items], [len(i.ids) for i in items])
        chosen = read(self.net, items, view, self._draws)
        self.cache.seal(view)
        return [
            TokenResult(sequence=item.sequence, id=token, logprob=logprob)
            if math.isfinite(logprob)
            else self._not_finite(item.sequence)
            for item, token, logprob in zip(items, chosen.ids.tolist(), chosen.logprob.tolist(), strict=True)
        ]

    def _canvas_of(self, item: Denoise) -> Canvas:
        """The canvas as the last step left it, or a fresh one at the first step of a block."""
        if item.step < item.recipe.steps:
            return self._canvases[item.sequence]
        length, facts = item.recipe.canvas_length, self.net.facts
        if item.start_ids:
            start = warm_start(item.start_ids, length=length, end_id=facts.end_ids[0], pad_id=facts.pad_id)
            ids = torch.tensor(start, device=self.net.device)
        else:
            key = DrawKey(sequence=item.sequence, seed=item.seed, block=item.block, step=item.step)
            ids = self._draws.opening(key, length, facts.vocab_size)
        return fresh(ids, facts.hidden_size, self.net.dtype)

    def _isolated(self, items: Sequence[Work], run: Callable[[Sequence[Work]], list[Result]]) -> list[Result]:
        """Run the items together; if that raises, one by one, so that only those which raise alone are lost. Sound
        because a pass commits (context, canvases) only after its last tensor operation."""
        try:
            return run(items)
        except _PASS_ERRORS as error:
            if len(items) > 1:
                return [result for item in items for result in self._isolated([item], run)]
            return [self._fault(items[0].sequence, StepFailed(f"the forward pass failed: {error}"))]

    def _not_finite(self, sequence: SequenceId) -> RowFault:
        return self._fault(sequence, NotFinite("the net returned NaN or infinity"))

    def _fault(self, sequence: SequenceId, error: NotFinite | StepFailed) -> RowFault:
        self._canvases.pop(sequence, None)
        if sequence in self.cache:
            self.cache.release(sequence, scrub=True)
        return RowFault(sequence=sequence, error=error)


def _alike(items: Iterable[Work], trait: Callable[[Work], object]) -> list[list[Work]]:
    """Items grouped by a trait that all rows of one pass must share (or that would pad short rows to long ones)."""
    groups: dict[object, list[Work]] = {}
    for item in items:
        groups.setdefault(trait(item), []).append(item)
    return list(groups.values())
