"""Executes a batch on the model: releases, copies, prefills, canvas steps, verifications and decodes. Owns canvases.

Prefills, seals and canvases of an iteration share one pass where the model has one (`models.mixed_pass`); if that
raises, each row has a pass of its own, so that only failing rows are lost. However many rows a batch has, the host
waits for the device once, after all passes are queued.
"""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch

from diffusion_worker.denoise.autoregressive import HiddenStates, decode, prompt_result, score_prompts, token_result
from diffusion_worker.denoise.canvas import Canvas, fresh, warm_start
from diffusion_worker.denoise.draws import CounterDraws, DrawKey, Draws
from diffusion_worker.denoise.exact import Padding
from diffusion_worker.denoise.passes import (
    CanvasRows,
    CausalInputs,
    Outcome,
    QueuedPass,
    Work,
    alike,
    causal_inputs,
    drafts_of,
    finite,
    padded_rows,
    padded_together,
)
from diffusion_worker.denoise.step import CanvasInputs, advance, inputs_of
from diffusion_worker.denoise.verify import CausalPass, verify, verify_result
from diffusion_worker.errors import NotFinite, StepFailed
from diffusion_worker.memory.contexts import Contexts
from diffusion_worker.memory.kv_cache import KvCache, NewContext
from diffusion_worker.memory.mixed_view import Canvases, MixedView
from diffusion_worker.models.device_errors import is_fatal
from diffusion_worker.models.host_to_device import upload
from diffusion_worker.models.interface import DiffusionModel, MixedPass
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

_log = logging.getLogger(__name__)
# Raised by a forward pass for bad shapes, bad ids or lack of memory.
_PASS_ERRORS = (RuntimeError, ValueError, IndexError, TypeError, ArithmeticError, MemoryError)


Result = CanvasResult | TokenResult | VerifyResult | PromptResult


class Stepper:
    """Runs the `step` between `next_batch` and `update_from_output`, on one thread. With a `padding` (exact mode), the
    shape of a pass does not depend on other rows."""

    def __init__(
        self, model: DiffusionModel, cache: KvCache, draws: Draws | None = None, padding: Padding | None = None
    ) -> None:
        self.model = model
        self.cache = cache
        self._contexts = Contexts(model, cache)
        self._draws = draws or CounterDraws(model.device)
        self._padding = padding
        self._canvases: dict[SequenceId, Canvas] = {}
        self._drafts: dict[SequenceId, torch.Tensor] = {}  # of this step, [canvas] float64
        self.progress: Callable[[], None] = lambda: None  # called at each pass and each constrained row

    @torch.inference_mode()
    def step(self, batch: Batch) -> StepResult:
        """Run one iteration. If a pass over several rows raises, each row is retried alone, so that only failing rows
        fault. After any other error the contents of the cache are unknown, see `reset`."""
        self._prepare(batch)
        drafts = (item.draft for item in batch.verifications if item.draft is not None)
        reading: list[Prefill | Decode] = [*batch.prefills, *(item for item in batch.decodes if len(item.ids) > 1)]
        canvases = [*batch.denoises, *drafts]
        outcomes: list[Outcome] = []
        models = (*map(self._model_of, reading), *map(self._model_of, canvases))
        for model in {id(each): each for each in models}.values():
            mine = [item for item in reading if self._model_of(item) is model]
            own = [item for item in canvases if self._model_of(item) is model]
            outcomes += self._mixed(model, mine, own) or self._apart(model, mine, own)
        self._drafts = drafts_of(outcomes, batch)
        lost = {outcome.sequence for outcome in outcomes if isinstance(outcome, RowFault)}
        verifications = [item for item in batch.verifications if item.sequence not in lost]
        for verified in self._together(self.model, verifications, lambda item: item.count):
            outcomes += self._isolated(verified, self._verify)
        decodes = [item for item in batch.decodes if len(item.ids) == 1]
        for decoded in self._together(self.model, decodes, lambda _: 1):
            outcomes += self._isolated(decoded, self._read)
        return replace(self._fetch(outcomes), slots=None if batch.slots is None else self.slots)

    @property
    def slots(self) -> int:
        """Number of cache slots for sequences."""
        return self.cache.slots - (self._padding is not None)

    @torch.inference_mode()
    def reset(self) -> None:
        """Invalidate the contents of the cache. Canvases stay: a step replaces them, but never writes to them."""
        self._contexts.reset()

    def _model_of(self, item: Prefill | Denoise | Decode) -> DiffusionModel:
        """The model whose passes an item takes part in."""
        fills = (isinstance(item, Prefill) and item.fills) or (isinstance(item, Denoise) and item.template is not None)
        return self.model.for_templates if fills else self.model

    def _prepare(self, batch: Batch) -> None:
        for sequence in batch.releases:
            self._canvases.pop(sequence, None)
        if batch.slots is not None:
            self._contexts.resize(batch.slots + (self._padding is not None))
        for copy in batch.copies:
            self._contexts.copy(copy.source, copy.target, copy.tokens)

    def _mixed(
        self, model: DiffusionModel, reading: Sequence[Prefill | Decode], canvases: Sequence[Denoise]
    ) -> list[Outcome] | None:
        """One pass over causal rows and canvases of a model; None if there is no such pass, or if it failed."""
        run = self._mixed_pass_of(model)
        if run is None or not reading:
            return None
        outcomes, queued = list[Outcome](), list[tuple[CanvasRows, torch.Tensor]]()

        def queue() -> None:
            inputs = self._causal_inputs(model, reading)
            rows = self._canvas_rows(canvases, reading) if canvases else None
            if rows is None:
                view = MixedView(self.cache, inputs.new)
                states, _ = run(inputs.ids, None, None, view)
            else:
                view = MixedView(self.cache, inputs.new, rows.canvases)
                states, logits = run(inputs.ids, rows.ids, rows.soft, view)
                queued.extend([] if logits is None else [(rows, logits)])
            outcomes.extend(self._read_pass(reading, inputs, HiddenStates(states=states, firsts=inputs.firsts), view))

        if not self._succeeds(queue):
            return None
        if canvases:  # the first try has the logits; one row alone needs a pass of its own
            outcomes += self._isolated(canvases, lambda i: self._advance(*queued.pop()) if queued else self._denoise(i))
        return outcomes

    def _apart(
        self, model: DiffusionModel, reading: Sequence[Prefill | Decode], canvases: Sequence[Denoise]
    ) -> list[Outcome]:
        """Causal passes, then one of canvases. Where a mixed pass has failed, each causal row is alone."""
        groups = self._together(model, reading, lambda item: len(item.ids))
        if self._mixed_pass_of(model) is not None:
            groups = [[item] for item in reading]
        outcomes = [outcome for group in groups for outcome in self._isolated(group, self._read)]
        lost = {outcome.sequence for outcome in outcomes if isinstance(outcome, RowFault)}
        if rest := [item for item in canvases if item.sequence not in lost]:
            outcomes += self._isolated(rest, self._denoise)
        return outcomes

    def _read(self, items: Sequence[Prefill | Decode]) -> list[Outcome]:
        """A causal pass over the ids of the items."""
        model = self._model_of(items[0])
        inputs = self._causal_inputs(model, items)
        hidden, view = inputs.run(model, self.cache)
        return self._read_pass(items, inputs, hidden, view)

    def _read_pass(
        self, items: Sequence[Prefill | Decode], inputs: CausalInputs, hidden: HiddenStates, view: NewContext
    ) -> list[Outcome]:
        """The outcomes of a causal pass. Writing it to the slots comes last: a pass must not be repeated after that."""
        self._scored(items, inputs, hidden)()
        outcomes: list[Outcome] = []
        for rows in alike(range(len(items)), lambda row: isinstance(items[row], Decode)):
            own, states = [items[row] for row in rows], hidden.of(rows)
            decodes = [item for item in own if isinstance(item, Decode)]
            if decodes:
                ends = [(item.slot, item.at + len(item.ids) if item.ends_prompt else 0) for item in decodes]
                chosen = decode(self.model, decodes, states, self._draws)
                report = torch.cat([chosen, self._contexts.surprise(ends)], dim=1)
            else:  # a context that holds NaN must not enter the prefix cache, even if it denoises no canvas
                report = finite(states, [len(item.ids) for item in own])
            outcomes.append(QueuedPass(items=own, report=report, prompts=score_prompts(self.model, own, states)))
        self.cache.seal(view)
        return outcomes

    def _scored(
        self, items: Sequence[Prefill | Decode], inputs: CausalInputs, hidden: HiddenStates
    ) -> Callable[[], None]:
        """Score the tokens of a causal pass, for the confidence; returns the function that stores the scores. The
        tokens of a Decode after the prompt, one or the known part of a canvas, are not scored, nor are those of a
        prompt for another model."""
        is_other, places = self._model_of(items[0]) is not self.model, inputs.places
        skipped = [
            place
            for item, place in zip(items, places, strict=True)
            if is_other or (isinstance(item, Decode) and not item.ends_prompt)
        ]
        return self._contexts.score(places, inputs.ids, hidden.states, skipped=skipped)

    def _denoise(self, items: Sequence[Denoise]) -> list[Outcome]:
        """One pass over canvases of any length, padded on the right to the longest."""
        rows, bucket = self._canvas_rows(items), None if self._padding is None else self.cache.slot_tokens
        own = rows.canvases
        context = self.cache.canvas_view(own.slots, own.lengths, own.width, canvases=own.widths, bucket=bucket)
        return self._advance(rows, self._model_of(items[0]).denoise(rows.ids, rows.soft, context))

    def _advance(self, rows: CanvasRows, logits: torch.Tensor) -> list[Outcome]:
        """Advance the canvases from the logits [rows, width, vocab] of their pass, each length by itself, so that
        padding takes part in nothing but the pass."""
        outcomes: list[Outcome] = []
        first = 0
        for group, each in zip(rows.groups, rows.inputs, strict=True):
            length = group[0].denoising.canvas_length
            seen = logits[first : first + len(group), :length]
            first += len(group)
            if missing := len(each.items) - len(group):  # dummies, whose results are dropped
                seen = torch.cat([seen, seen[:1].expand(missing, -1, -1)])
            done = advance(self._model_of(group[0]), each, seen, self._draws, self.progress)
            surprises = self._contexts.surprise([(i.slot, i.at if i.opens and i.block == 0 else 0) for i in group])
            outcomes.append(
                QueuedPass(
                    items=group,
                    report=torch.cat([done.report[: len(group)], surprises], dim=1),
                    canvases=done.canvases[: len(group)],
                    constraint_s=done.constraint_s,
                    labels=done.labels,
                    holes=done.holes,
                    sharing=rows.sharing,
                )
            )
        return outcomes

    def _inputs(self, items: Sequence[Denoise]) -> CanvasInputs:
        canvases = [self._canvas_of(item) for item in items]
        return inputs_of(*(self._padding.fill(items, canvases) if self._padding else (items, canvases)))

    def _canvas_rows(self, items: Sequence[Denoise], reading: Sequence[Prefill | Decode] = ()) -> CanvasRows:
        groups = alike(items, lambda item: item.denoising.canvas_length)
        inputs = [self._inputs(group) for group in groups]
        rows = [item for group in groups for item in group]
        slots, lengths = [item.slot for item in rows], [item.at for item in rows]
        canvases = [item.denoising.canvas_length for item in rows]
        width, count = max(canvases), len(rows)
        if self._padding is not None:
            missing = self._padding.rows - count
            width, count = max(width, self.model.info.denoising.canvas_length), self._padding.rows
            slots, lengths = slots + [self.cache.slots - 1] * missing, lengths + [0] * missing
            canvases = canvases + [width] * missing
        parts = list(zip(groups, inputs, strict=True))
        return CanvasRows(
            groups=groups,
            inputs=inputs,
            ids=padded_rows([each.ids[: len(group)] for group, each in parts], count, width),
            soft=padded_rows([each.soft[: len(group)] for group, each in parts], count, width),
            canvases=Canvases(slots=tuple(slots), lengths=tuple(lengths), widths=tuple(canvases), width=width),
            sharing=frozenset(item.sequence for item in reading),
        )

    def _verify(self, items: Sequence[Verify]) -> list[Outcome]:
        """One causal pass over the drafts of all rows. Nothing is written to the cache before the host knows which
        tokens agree."""
        inputs = self._causal_inputs(self.model, items)
        for item, first in zip(items, inputs.firsts, strict=True):
            if item.draft is not None:
                known = len(item.ids)
                inputs.ids[first + known : first + item.count] = self._drafts[item.sequence][known : item.count].long()
        hidden, view = inputs.run(self.model, self.cache)
        seen = CausalPass(items=items, ids=inputs.rows(inputs.ids), hidden=inputs.rows(hidden.states))
        report = verify(self.model, seen, self._draws, self.progress)

        def commit(written: Sequence[int]) -> None:
            for item, count in zip(items, written, strict=True):
                self._contexts.skip(item.slot, item.at, count)
            if any(written):
                self.cache.seal(view, written)

        return [QueuedPass(items=items, report=report.flatten(1), commit=commit, width=report.shape[1])]

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
                yield queued.canvas_result(item, row, fetched)

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

    def _together(
        self, model: DiffusionModel, items: Sequence[Work], tokens: Callable[[Work], int]
    ) -> list[list[Work]]:
        """Groups for causal passes: all rows, as many as padding allows, or one row each in exact mode."""
        if self._padding is not None:
            return [[item] for item in items]
        if model.mixed_pass is None:
            return padded_together(items, tokens)
        return [list(items)] if items else []

    def _mixed_pass_of(self, model: DiffusionModel) -> MixedPass | None:
        """The mixed pass of a model; None if it has none, and in exact mode, where shapes must not depend on others."""
        return model.mixed_pass if self._padding is None else None

    def _causal_inputs(
        self, model: DiffusionModel, items: Sequence[Prefill | Decode] | Sequence[Verify]
    ) -> CausalInputs:
        """Rows are padded where there is no mixed pass, in exact mode to equal shapes."""
        widths = (0 if isinstance(item, Decode) else item.width for item in items)
        width = 0 if self._padding is None else max(widths)
        return causal_inputs(items, model.device, is_padded=self._mixed_pass_of(model) is None, width=width)

    def _succeeds(self, run: Callable[[], None]) -> bool:
        """Whether passes that can be repeated in parts have not raised; see `_isolated`."""
        self.progress()
        try:
            run()
        except _PASS_ERRORS as error:
            if is_fatal(error):
                raise
            _log.warning("a pass over several rows failed, each row gets one by itself: %s", error)
            return False
        return True

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
        self._contexts.zero(item.slot)
        return RowFault(sequence=item.sequence, slot=item.slot, error=error)
