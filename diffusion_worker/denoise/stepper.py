"""Executes a batch on the model: releases, copies, prefills, canvas steps, verifications and decodes. Owns canvases.

However many rows a batch has, the host waits for the device once, after all passes are queued.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

import torch

from diffusion_worker.denoise.autoregressive import decode, padded, prompt_result, score_prompts, token_result
from diffusion_worker.denoise.canvas import Canvas, fresh, warm_start
from diffusion_worker.denoise.draws import CounterDraws, DrawKey, Draws
from diffusion_worker.denoise.exact import Padding
from diffusion_worker.denoise.passes import QueuedPass
from diffusion_worker.denoise.step import CanvasInputs, advance, canvas_result, inputs_of
from diffusion_worker.denoise.verify import CausalPass, verify, verify_result
from diffusion_worker.errors import NotFinite, StepFailed
from diffusion_worker.memory.kv_cache import KvCache
from diffusion_worker.memory.prompt_scores import PromptScores
from diffusion_worker.models.device_errors import is_fatal
from diffusion_worker.models.host_to_device import upload
from diffusion_worker.models.interface import DiffusionModel
from diffusion_worker.types.requests import SequenceId
from diffusion_worker.types.step_batch import (
    Batch,
    CanvasResult,
    Decode,
    Denoise,
    Prefill,
    PromptResult,
    RowFault,
    StepResult,
    TokenResult,
    Verify,
    VerifyResult,
)

Work = TypeVar("Work", Prefill, Denoise, Verify, Decode)
# Raised by a forward pass for bad shapes, bad ids or lack of memory.
_PASS_ERRORS = (RuntimeError, ValueError, IndexError, TypeError, ArithmeticError, MemoryError)


Outcome = QueuedPass | RowFault
Result = CanvasResult | TokenResult | VerifyResult | PromptResult


class Stepper:
    """Runs the `step` between `next_batch` and `update_from_output`, on one thread. With a `padding` (exact mode), the
    shape of a pass does not depend on other rows."""

    def __init__(
        self, model: DiffusionModel, cache: KvCache, draws: Draws | None = None, padding: Padding | None = None
    ) -> None:
        self.model = model
        self.cache = cache
        self._draws = draws or CounterDraws(model.device)
        self._padding = padding
        self._canvases: dict[SequenceId, Canvas] = {}
        self._drafts: dict[SequenceId, torch.Tensor] = {}  # of this step, [canvas] float64
        self._prompt_scores = _prompt_scores(model, cache) if model.info.scores_prompts else None
        self.progress: Callable[[], None] = lambda: None  # called at each pass and each constrained row

    @torch.inference_mode()
    def step(self, batch: Batch) -> StepResult:
        """Run one iteration. If a pass over several rows raises, each row is retried alone, so that only failing rows
        fault. After any other error the contents of the cache are unknown, see `reset`."""
        self._prepare(batch)
        outcomes: list[Outcome] = []
        for group in self._together(batch.prefills, lambda item: (item.is_seal, self._model_of(item))):
            outcomes += self._isolated(group, self._prefill)
        lost = {outcome.sequence for outcome in outcomes if isinstance(outcome, RowFault)}
        drafts = (item.draft for item in batch.verifications if item.draft is not None)
        denoises = [item for item in (*batch.denoises, *drafts) if item.sequence not in lost]
        for canvases in _alike(denoises, self._model_of):
            outcomes += self._isolated(canvases, self._denoise)
        self._drafts = _drafts(outcomes, batch)
        lost = {outcome.sequence for outcome in outcomes if isinstance(outcome, RowFault)}
        verifications = [item for item in batch.verifications if item.sequence not in lost]
        for verified in self._together(verifications, lambda item: item.slot >= 0):
            outcomes += self._isolated(verified, self._verify)
        for decodes in self._together(batch.decodes, lambda item: item.at == 0):
            outcomes += self._isolated(decodes, self._decode)
        return replace(self._fetch(outcomes), slots=None if batch.slots is None else self.slots)

    @property
    def slots(self) -> int:
        """Number of cache slots for sequences."""
        return self.cache.slots - (self._padding is not None)

    @torch.inference_mode()
    def reset(self) -> None:
        """Invalidate the contents of the cache. Canvases stay: a step replaces them, but never writes to them."""
        self.cache.reset()
        if self._prompt_scores is not None:
            self._prompt_scores.reset()

    def _model_of(self, item: Prefill | Denoise | Decode) -> DiffusionModel:
        """The model whose passes an item takes part in."""
        fills = (isinstance(item, Prefill) and item.fills) or (isinstance(item, Denoise) and item.template is not None)
        return self.model.for_templates if fills else self.model

    def _prepare(self, batch: Batch) -> None:
        for sequence in batch.releases:
            self._canvases.pop(sequence, None)
        if batch.slots is not None:
            self.cache.resize(batch.slots + (self._padding is not None))
            if self._prompt_scores is not None:
                self._prompt_scores.resize(self.cache.slots)
        for copy in batch.copies:
            self.cache.copy(copy.source, copy.target, copy.tokens)
            if self._prompt_scores is not None:
                self._prompt_scores.copy(copy.source, copy.target, copy.tokens)

    def _encode(self, items: Sequence[Prefill | Decode], *, width: int = 0) -> tuple[torch.Tensor, Callable[[], None]]:
        """A causal pass over the ids of the items: their hidden states [rows, new, hidden], and the function that
        writes the pass to the slots."""
        view = self.cache.prefill_view(
            [i.slot for i in items], [i.at for i in items], [len(i.ids) for i in items], width=width
        )
        ids = padded([i.ids for i in items], self.model.device, width=width)
        hidden = self._model_of(items[0]).encode(ids, view)
        store = self._scored(items, ids, hidden)

        def seal() -> None:
            store()
            self.cache.seal(view)

        return hidden, seal

    def _scored(self, items: Sequence[Prefill | Decode], ids: torch.Tensor, hidden: torch.Tensor) -> Callable[[], None]:
        """Score the tokens of a causal pass, for the confidence; returns the function that stores the scores. The
        tokens of a Decode after the prompt, one or the known part of a canvas, are not scored, nor are those of a
        prompt for another model."""
        scores = self._prompt_scores
        if scores is None:
            return lambda: None
        is_other = self._model_of(items[0]) is not self.model
        unscored = [i for i in items if is_other or (isinstance(i, Decode) and not i.ends_prompt)]
        places = [(i.slot, i.at, len(i.ids)) for i in items]
        is_read = len(unscored) < len(items)
        store = scores.score(places, ids, hidden, self.model.prompt_logits) if is_read else None

        def keep() -> None:
            if store is not None:
                store()
            for item in unscored:
                scores.skip(item.slot, item.at, len(item.ids))

        return keep

    def _prompt_surprise(self, tokens: Sequence[tuple[int, int]]) -> torch.Tensor:
        """Surprise [rows, 1] of the first `tokens` tokens of each slot; 0 for no tokens. See `types.confidence`."""
        surprises = torch.zeros(len(tokens), 1, dtype=torch.double, device=self.model.device)
        for row, (slot, count) in enumerate(tokens):
            if self._prompt_scores is not None and count:
                surprises[row] = self._prompt_scores.surprise(slot, count)
        return surprises

    def _prefill(self, items: Sequence[Prefill]) -> list[Outcome]:
        hidden, seal = self._encode(items, width=self._width(items))
        # A context that holds NaN must not enter the prefix cache, even if its owner never denoises a canvas.
        finite = (hidden - hidden).flatten(1).sum(-1, keepdim=True)  # [rows, 1] 0, or NaN if any value is not finite
        report = finite.double()
        prompts = score_prompts(self.model, items, hidden)
        seal()
        return [QueuedPass(items=items, report=report, prompts=prompts)]

    def _denoise(self, items: Sequence[Denoise]) -> list[Outcome]:
        """One pass over canvases of any length, padded on the right to the longest; then each length by itself, so
        that padding takes part in nothing but the pass."""
        groups = _alike(items, lambda item: item.denoising.canvas_length)
        inputs = [self._inputs(group) for group in groups]
        logits = self._logits(groups, inputs)
        outcomes: list[Outcome] = []
        first = 0
        for group, each in zip(groups, inputs, strict=True):
            length = group[0].denoising.canvas_length
            seen = logits[first : first + len(group), :length]
            first += len(group)
            if missing := len(each.items) - len(group):  # dummies, whose results are dropped
                seen = torch.cat([seen, seen[:1].expand(missing, -1, -1)])
            done = advance(self._model_of(group[0]), each, seen, self._draws, self.progress)
            surprises = self._prompt_surprise([(i.slot, i.at if i.opens and i.block == 0 else 0) for i in group])
            outcomes.append(
                QueuedPass(
                    items=group,
                    report=torch.cat([done.report[: len(group)], surprises], dim=1),
                    canvases=done.canvases[: len(group)],
                    constraint_s=done.constraint_s,
                    labels=done.labels,
                    holes=done.holes,
                )
            )
        return outcomes

    def _inputs(self, items: Sequence[Denoise]) -> CanvasInputs:
        canvases = [self._canvas_of(item) for item in items]
        return inputs_of(*(self._padding.fill(items, canvases) if self._padding else (items, canvases)))

    def _logits(self, groups: Sequence[Sequence[Denoise]], inputs: Sequence[CanvasInputs]) -> torch.Tensor:
        """Logits [rows, longest canvas, vocab] of all rows; those of padding mean nothing."""
        rows = [item for group in groups for item in group]
        slots, lengths = [item.slot for item in rows], [item.at for item in rows]
        canvases, bucket = [item.denoising.canvas_length for item in rows], None
        width, count = max(canvases), len(rows)
        if self._padding is not None:
            missing, bucket = self._padding.rows - count, self.cache.slot_tokens
            width, count = max(width, self.model.info.denoising.canvas_length), self._padding.rows
            slots, lengths = slots + [self.cache.slots - 1] * missing, lengths + [0] * missing
            canvases = canvases + [width] * missing
        ids = _padded_rows([each.ids[: len(group)] for group, each in zip(groups, inputs, strict=True)], count, width)
        soft = _padded_rows([each.soft[: len(group)] for group, each in zip(groups, inputs, strict=True)], count, width)
        context = self.cache.canvas_view(slots, lengths, width, canvases=canvases, bucket=bucket)
        return self._model_of(rows[0]).denoise(ids, soft, context)

    def _decode(self, items: Sequence[Decode]) -> list[Outcome]:
        hidden, seal = self._encode(items)
        report = decode(self.model, items, hidden, self._draws)
        prompts = score_prompts(self.model, items, hidden)
        seal()
        surprises = self._prompt_surprise([(i.slot, i.at + len(i.ids) if i.ends_prompt else 0) for i in items])
        return [QueuedPass(items=items, report=torch.cat([report, surprises], dim=1), prompts=prompts)]

    def _verify(self, items: Sequence[Verify]) -> list[Outcome]:
        """One causal pass over the drafts of all rows. Nothing is written to the cache before the host knows which
        tokens agree."""
        slots, lengths, counts = [i.slot for i in items], [i.at for i in items], [i.count for i in items]
        width = self._width(items)
        view = self.cache.prefill_view(slots, lengths, counts, width=width)
        texts = [(*item.ids, *item.given[: item.drafted]) for item in items]
        ids = padded(texts, self.model.device, width=max(*counts, width))
        for row, item in enumerate(items):
            if item.draft is not None:
                known = len(item.ids)
                ids[row, known : item.count] = self._drafts[item.sequence][known : item.count].long()
        hidden = self.model.encode(ids, view)
        report = verify(self.model, CausalPass(items=items, ids=ids, hidden=hidden), self._draws, self.progress)

        def commit(written: Sequence[int]) -> None:
            for item, count in zip(items, written, strict=True):
                if self._prompt_scores is not None and count:
                    self._prompt_scores.skip(item.slot, item.at, count)
            if any(written):
                self.cache.seal(view, written)

        return [QueuedPass(items=items, report=report.flatten(1), commit=commit, width=ids.shape[1])]

    def _fetch(self, outcomes: Sequence[Outcome]) -> StepResult:
        """Fetch all reports in one copy, the only wait for the device."""
        self.progress()
        passes = [outcome for outcome in outcomes if isinstance(outcome, QueuedPass)]
        numbers = torch.cat([each.numbers for each in passes]).tolist() if passes else []
        faults = {outcome.sequence: outcome for outcome in outcomes if isinstance(outcome, RowFault)}
        results: list[Result] = []
        at = 0
        for each in passes:
            own, written = numbers[at : at + each.numbers.numel()], [0] * len(each.items)
            at += len(own)
            for row, (item, fetched, prompt) in enumerate(each.rows(own)):
                if item.sequence in faults:
                    continue
                if not all(map(math.isfinite, (*fetched, *prompt))):
                    faults[item.sequence] = self._fault(item, NotFinite("the model returned NaN or infinity"))
                    continue
                found = list(self._results(each, row, fetched, prompt))
                written[row] = sum(result.cached for result in found if isinstance(result, VerifyResult))
                results += found
            if each.commit is not None:
                each.commit(written)
        return StepResult(
            canvases=tuple(each for each in results if isinstance(each, CanvasResult)),
            tokens=tuple(each for each in results if isinstance(each, TokenResult)),
            verifications=tuple(each for each in results if isinstance(each, VerifyResult)),
            prompts=tuple(each for each in results if isinstance(each, PromptResult)),
            faults=tuple(faults.values()),
            constraint_s=sum(each.constraint_s for each in passes),
        )

    def _results(
        self, queued: QueuedPass, row: int, fetched: Sequence[float], prompt: Sequence[float]
    ) -> Iterator[Result]:
        """The results of one row, on the host; none of a draft, which its verification reports."""
        item = queued.items[row]
        if prompt and isinstance(item, Prefill | Decode):
            yield prompt_result(item, prompt)
        if isinstance(item, Verify):
            yield verify_result(item, fetched, self.model.info.end_ids, width=queued.width)
        elif isinstance(item, Decode):
            yield token_result(item, fetched[:-1], prompt_surprise=fetched[-1])
        elif isinstance(item, Denoise):
            self._canvases[item.sequence] = queued.canvases[row]
            if item.sequence not in self._drafts:
                labels, holes = queued.labels[row], queued.holes[row]
                yield canvas_result(item, fetched[:-1], labels, holes=holes, prompt_surprise=fetched[-1])

    def _canvas_of(self, item: Denoise) -> Canvas:
        """The canvas of the last step, or a new one at the first step of a block."""
        if not item.opens:
            return self._canvases[item.sequence]
        length, info = item.denoising.canvas_length, self.model.info
        if item.start_ids:
            width = length - len(item.pinned_suffix)
            start = warm_start(item.start_ids, length=width, end_id=info.end_ids[0], pad_id=info.pad_id)
            ids = upload((*start, *item.pinned_suffix), self.model.device)
        else:
            key = DrawKey(sequence=item.sequence, seed=item.seed, block=item.block, step=item.step)
            ids = self._draws.opening(key, length, info.vocab_size)
        return fresh(ids, info.hidden_size, self.model.dtype, is_anchored=item.anchor > 0.0)

    def _together(self, items: Sequence[Work], trait: Callable[[Work], object]) -> list[list[Work]]:
        """Groups for causal passes: rows with the same trait together, or one row each in exact mode."""
        return _alike(items, trait) if self._padding is None else [[item] for item in items]

    def _width(self, items: Sequence[Prefill | Verify]) -> int:
        """Positions that a causal pass has at least: only exact mode needs equal shapes."""
        return 0 if self._padding is None else max(item.width for item in items)

    def _isolated(self, items: Sequence[Work], run: Callable[[Sequence[Work]], list[Outcome]]) -> list[Outcome]:
        """Run the items together; if that raises, one by one, so that only failing items are lost. This is safe because
        a pass commits context and canvases only after its last tensor operation. An error of the commit itself
        (CacheDamaged), or one that the device does not survive, fails the step."""
        self.progress()
        try:
            return run(items)
        except _PASS_ERRORS as error:
            if is_fatal(error):
                raise
            if len(items) > 1:
                return [outcome for item in items for outcome in self._isolated([item], run)]
            return [self._fault(items[0], StepFailed(f"the forward pass failed: {error}"))]

    def _fault(self, item: Prefill | Denoise | Verify | Decode, error: NotFinite | StepFailed) -> RowFault:
        self._canvases.pop(item.sequence, None)
        self.cache.zero(item.slot)
        if self._prompt_scores is not None:
            self._prompt_scores.zero(item.slot)
        return RowFault(sequence=item.sequence, slot=item.slot, error=error)


def _prompt_scores(model: DiffusionModel, cache: KvCache) -> PromptScores:
    return PromptScores(
        slots=cache.slots,
        slot_tokens=cache.slot_tokens,
        hidden_size=model.info.hidden_size,
        dtype=model.dtype,
        device=model.device,
    )


def _drafts(outcomes: Sequence[Outcome], batch: Batch) -> dict[SequenceId, torch.Tensor]:
    """The canvases [canvas] that the steps of verified sequences draft, on the device."""
    drafting = {item.sequence for item in batch.verifications if item.draft is not None}
    return {
        item.sequence: outcome.report[row]
        for outcome in outcomes
        if isinstance(outcome, QueuedPass)
        for row, item in enumerate(outcome.items)
        if isinstance(item, Denoise) and item.sequence in drafting
    }


def _padded_rows(parts: Sequence[torch.Tensor], rows: int, width: int) -> torch.Tensor:
    """Parts [some rows, canvas, ...] of unequal length as one tensor [rows, width, ...], padded with zeros."""
    if len(parts) == 1 and parts[0].shape[:2] == (rows, width):
        return parts[0]
    padded_parts = parts[0].new_zeros((rows, width, *parts[0].shape[2:]))
    first = 0
    for part in parts:
        padded_parts[first : first + len(part), : part.shape[1]] = part
        first += len(part)
    return padded_parts


def _alike(items: Iterable[Work], trait: Callable[[Work], object]) -> list[list[Work]]:
    """Group items by a trait that all rows of one pass share."""
    groups: dict[object, list[Work]] = {}
    for item in items:
        groups.setdefault(trait(item), []).append(item)
    return list(groups.values())
