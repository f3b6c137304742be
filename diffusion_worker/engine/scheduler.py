"""The scheduler: `next_batch` selects the work of an iteration, `update_from_output` takes in its results.

Continuous batching per denoising step (as Orca, Yu et al., OSDI 2022, per token): sequences join and leave at every
iteration, whatever step the others are at. Pure bookkeeping without tensors, threads or a clock: `now`, in seconds, is
an argument.
"""

from collections.abc import Iterable
from collections.abc import Sequence as Ids

from diffusion_worker.engine import output_events
from diffusion_worker.engine.batching import Budget, compose
from diffusion_worker.engine.cost_model import CostModel
from diffusion_worker.engine.limits import Limits
from diffusion_worker.engine.prefill_chunks import prefill_chunks_of
from diffusion_worker.engine.queue import WaitingQueue
from diffusion_worker.engine.sequence import CLOSING_STEPS, Sequence
from diffusion_worker.engine.verified import record_verification, reusable
from diffusion_worker.errors import (
    Cancelled,
    DeadlineExceeded,
    LowConfidence,
    OverCapacity,
    WorkerError,
)
from diffusion_worker.memory.slots import SlotTable
from diffusion_worker.types.drafts import rejected_by
from diffusion_worker.types.events import Event, Faulted, Finished, FinishReason
from diffusion_worker.types.model_info import ModelInfo
from diffusion_worker.types.observations import (
    BlockObserved,
    DraftObserved,
    Observer,
    Outcome,
    PreemptionObserved,
    PrefixObserved,
    StepObserved,
    WaitObserved,
)
from diffusion_worker.types.requests import GenerationRequest, SequenceId
from diffusion_worker.types.step_batch import (
    Batch,
    CanvasResult,
    Copy,
    Decode,
    Denoise,
    Prefill,
    PromptResult,
    StepResult,
    TokenResult,
    Verify,
    VerifyResult,
)

FULL_LOAD = 0.5  # waiting sequences per row of the batch from which thresholds are at their loosest
SequenceEvent = tuple[SequenceId, Event]


class Scheduler:
    """Schedules sequences; each one added ends in exactly one Finished or Faulted event."""

    def __init__(self, info: ModelInfo, limits: Limits, slots: SlotTable, observe: Observer | None = None) -> None:
        self._info = info
        self._limits = limits
        self._observe: Observer = observe or (lambda _observation: None)
        self.slots = slots
        self.rows = limits.max_num_seqs  # sequences that may run now; fewer under memory pressure
        self._cost_model = CostModel(is_mixed=limits.is_mixed)
        self._budget = Budget(
            positions=limits.max_step_tokens,
            prompt_tokens=limits.max_prefill_tokens,
            cuts_chunks=not limits.is_exact,
        )
        self._queue = WaitingQueue(self._cost_model)
        self._running: dict[SequenceId, Sequence] = {}
        self._released: list[SequenceId] = []  # ended sequences, whose canvases the next batch releases
        self._copies: list[Copy] = []
        self._resized: int | None = None
        self._outbox: list[SequenceEvent] = []
        self._next_id: SequenceId = 1
        self._iteration_start = 0.0

    @property
    def running(self) -> int:
        """Number of running sequences: those that have a slot."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Number of queued sequences."""
        return len(self._queue)

    @property
    def has_work(self) -> bool:
        """Whether another iteration is needed, if only to release ended sequences or to deliver events."""
        return bool(self._queue or self._running or self._released or self._outbox or self._resized is not None)

    def add(self, request: GenerationRequest, now: float) -> SequenceId:
        """Queue a request and return its id. Raises PromptTooLong, OutOfRange or OverCapacity without any effect."""
        self._limits.check(request, self._info.vocab_size)
        if self.running + self.waiting >= self._limits.max_num_seqs + self._limits.max_waiting:
            raise OverCapacity(
                f"the queue is full: {self.running} requests running, {self.waiting} waiting",
                retry_after_s=self.predicted_wait_s(now) or 1.0,
            )
        sequence = Sequence(
            id=self._next_id,
            request=request,
            submitted=now,
            prefill_chunks=prefill_chunks_of(request.prompt_ids, self._limits.prefill_chunk),
            weights=self._info.confidence_weights(request.decoding_mode),
        )
        sequence.predicted_wait = self._queue.predict_wait(self._running.values(), self.rows, now, sequence)
        self._next_id += 1
        self._queue.add(sequence)
        return sequence.id

    def leave(self, sequence_id: SequenceId, now: float, *, outcome: Outcome = Outcome.CANCELLED) -> None:
        """End a sequence early: cancelled, or finished because its consumer has enough, such as at a stop string. It
        takes part in no later step. Does nothing if the sequence has ended."""
        for sequence in self._all():
            if sequence.id == sequence_id and outcome is Outcome.FINISHED:
                self._finish(sequence, FinishReason.STOP, now)
            elif sequence.id == sequence_id:
                self._fault(sequence, Cancelled("the request was aborted"), now, outcome)

    def fault_all(self, error: WorkerError, now: float) -> None:
        """End all running and queued sequences with `error`."""
        for sequence in self._all():
            self._fault(sequence, error, now)

    def set_max_rows(self, rows: int, now: float) -> None:
        """Run at most `rows` sequences from now on; those with the most remaining work are preempted."""
        self.rows = min(max(1, rows), self._limits.max_num_seqs)
        for sequence in sorted(self._running.values(), key=lambda s: self._queue.priority(s, now))[self.rows :]:
            self._preempt(sequence, now)

    def evict_retained(self) -> int:
        """Drop the prefix cache and free its slots; returns the number of contexts dropped."""
        dropped = self.slots.evict_retained()
        self._copies = []  # only copies into the prefix cache are pending here, possibly into slots that are now freed
        slots = min(max(self.slots.shrunk_to(), self.rows), len(self.slots))
        if slots < len(self.slots) or self._resized is not None:  # also in place of slots that were to be added
            self.slots.resize(slots)
            self._resized = slots
        return dropped

    def restore_slots(self, slots: int) -> None:
        """Ask for `slots` slots again; they are used once a step has reported that it had the memory for them."""
        if slots > len(self.slots):
            self._resized = slots

    def reset(self, error: WorkerError, now: float, *, slots: int) -> None:
        """After a failed step: end the running sequences with `error` and forget all cached contexts. The cache has
        `slots` slots. Queued sequences stay, and are prefilled from the start when they run."""
        for sequence in tuple(self._running.values()):
            self._fault(sequence, error, now)
        self._copies, self._resized = [], None
        self.slots.reset(slots)

    def next_batch(self, now: float) -> Batch:
        """The work of the next iteration: release ended sequences, admit queued ones, advance what fits the budget."""
        self._iteration_start = now
        self._admit(now)
        self._set_load()
        items = compose(self._running.values(), lambda each: self._queue.priority(each, now), self._budget)
        releases, self._released = tuple(self._released), []
        copies, self._copies = tuple(self._copies), []
        slots, self._resized = self._resized, None
        return Batch(
            slots=slots,
            releases=releases,
            copies=copies,
            prefills=tuple(items.prefills),
            denoises=tuple(items.denoises),
            verifications=tuple(items.verifications),
            decodes=tuple(items.decodes),
        )

    def update_from_output(self, batch: Batch, result: StepResult, now: float) -> tuple[SequenceEvent, ...]:
        """Take in the results of a step; returns all events since the last call. Results of sequences that ended in
        the meantime are dropped."""
        self._measure(now - self._iteration_start, batch, result.constraint_s)
        if result.slots is not None:
            self.slots.resize(result.slots)
        for fault in result.faults:
            if sequence := self._running.get(fault.sequence):
                self._fault(sequence, fault.error, now)
            self.slots.invalidate(fault.slot)
        self._update_prompts(result.prompts)
        for prefill in batch.prefills:
            if sequence := self._active_sequence(prefill):
                sequence.record_prefill(prefill.ids)
                self._extend(sequence, prefill.ids)
        denoises = {item.sequence: item for item in batch.denoises}
        for canvas in result.canvases:
            if sequence := self._active_sequence(denoises[canvas.sequence]):
                self._update_canvas(sequence, canvas, now)
        verifications = {item.sequence: item for item in batch.verifications}
        for verified in result.verifications:
            if sequence := self._active_sequence(verifications[verified.sequence]):
                self._update_verified(sequence, verifications[verified.sequence], verified, now)
        decodes = {item.sequence: item for item in batch.decodes}
        for token in result.tokens:
            if sequence := self._active_sequence(decodes[token.sequence]):
                self._update_token(sequence, decodes[token.sequence], token, now)
        return self.take_events()

    def _update_prompts(self, prompts: Iterable[PromptResult]) -> None:
        for scored in prompts:
            if (sequence := self._running.get(scored.sequence)) and sequence.slot is not None:
                self.slots.keep_scores(sequence.slot, sequence.record_prompt(scored))

    def take_events(self) -> tuple[SequenceEvent, ...]:
        """All events since the last call."""
        happened, self._outbox = tuple(self._outbox), []
        return happened

    def predicted_wait_s(self, now: float) -> float | None:
        """Predicted wait, in seconds, of a request added now; None until a step has been measured."""
        predicted_wait = self._queue.predict_wait(self._running.values(), self.rows, now)
        return predicted_wait.wait_s if predicted_wait else None

    def _all(self) -> tuple[Sequence, ...]:
        return (*self._running.values(), *self._queue)

    def _admit(self, now: float) -> None:
        for sequence in self._queue.overdue(now):
            self._fault(sequence, DeadlineExceeded("the deadline passed while the request was queued"), now)
        if victim := self._queue.victim(self._running.values(), now, is_full=len(self._running) >= self.rows):
            self._preempt(victim, now)
        while len(self._running) < self.rows and self.slots.free and (best := self._queue.first(now)):
            self._allocate_slot(best, now)
            self._queue.remove(best)

    def _set_load(self) -> None:
        """Tell all sequences how long the queue is. In exact mode, an answer must not depend on others."""
        load = 0.0 if self._limits.is_exact else min(1.0, self.waiting / (FULL_LOAD * self.rows))
        for sequence in self._running.values():
            sequence.load = load

    def _allocate_slot(self, sequence: Sequence, now: float) -> None:
        """Allocate a slot, reusing as much of another slot's context as possible."""
        ids, request = sequence.all_ids, sequence.request
        allocation = self.slots.acquire(
            sequence.id,
            ids,
            at_most=reusable(sequence),
            scores=request.prompt_logprobs,
            fills=request.template is not None,
        )
        if allocation.copy:
            self._copies.append(allocation.copy)
        if allocation.reused:
            self._observe(PrefixObserved(tokens=allocation.reused))
        sequence.allocate(allocation, chunk=None if self._limits.is_exact else self._limits.prefill_chunk)
        self._running[sequence.id] = sequence
        sequence.times.schedule(now)
        sequence.near_deadline = self._would_be_late(sequence, now, steps=CLOSING_STEPS)
        if sequence.predicted_wait and sequence.predicted_wait.wait_s and not sequence.preempted:
            self._cost_model.record_wait(sequence.predicted_wait, now - sequence.submitted)
            self._observe(WaitObserved(predicted_s=sequence.predicted_wait.wait_s, actual_s=now - sequence.submitted))

    def _preempt(self, sequence: Sequence, now: float) -> None:
        assert sequence.slot is not None
        del self._running[sequence.id]
        self.slots.release(sequence.slot)
        sequence.preempt(now)
        sequence.times.preempt(now)
        self._queue.add(sequence)
        self._observe(PreemptionObserved())

    def _active_sequence(self, item: Prefill | Denoise | Verify | Decode) -> Sequence | None:
        """The sequence of an item, or None if it ended while the step ran. Its slot is free by then, and the step may
        have overwritten entries of a ring buffer, so the slot's contents are invalidated."""
        sequence = self._running.get(item.sequence)
        if sequence is None and not isinstance(item, Denoise):
            self.slots.invalidate(item.slot)
        return sequence

    def _extend(self, sequence: Sequence, ids: Ids[int]) -> None:
        assert sequence.slot is not None
        self.slots.extend(sequence.slot, ids)
        if sequence.context == sequence.boundary and (copy := self.slots.snapshot(sequence.slot)):
            self._copies.append(copy)

    def _update_canvas(self, sequence: Sequence, canvas: CanvasResult, now: float) -> None:
        stop = sequence.record_step(canvas, is_late=self._would_be_late(sequence, now))
        sequence.near_deadline = self._would_be_late(sequence, now, steps=CLOSING_STEPS)
        steps, entropy = sequence.steps_done, canvas.mean_entropy
        sequence.times.step(self._iteration_start, now, block=sequence.block, step=steps, entropy=entropy)
        if sequence.is_hopeless():
            self._doubt(sequence, now)
            return
        if stop is None:
            self._send(sequence, output_events.unsealed(sequence, canvas, self._info.end_ids))
            return
        self._send(sequence, output_events.draft(sequence, canvas, self._info.end_ids))
        self._cost_model.record_block(sequence)
        self._observe(BlockObserved(stop=stop, denoising_steps=steps, mean_entropy=entropy))
        fresh, has_end = sequence.seal(canvas, self._info.end_ids, is_late=self._would_be_late(sequence, now))
        if sequence.is_hopeless():
            self._doubt(sequence, now)
            return
        self._emit(sequence, fresh, now, canvas)
        if not self._ended(sequence, now, has_end=has_end):
            sequence.open_block(canvas.ids)

    def _send(self, sequence: Sequence, events: Iterable[Event]) -> None:
        self._outbox += ((sequence.id, event) for event in events)

    def _update_token(self, sequence: Sequence, decode: Decode, token: TokenResult, now: float) -> None:
        if decode.ends_prompt:
            self._send(sequence, output_events.scored_prompt(sequence))
        if not sequence.request.max_tokens:
            sequence.record_prefill(decode.ids)
            self._extend(sequence, decode.ids)
            self._finish(sequence, FinishReason.LENGTH, now)
            return
        sequence.record_token(token, decode.ids)
        self._send(sequence, output_events.chosen(sequence, (token,), self._info.end_ids, rejected=0))
        self._update_output(sequence, [(token,)], decode.ids, now)

    def _update_verified(self, sequence: Sequence, item: Verify, result: VerifyResult, now: float) -> None:
        cached = record_verification(sequence, item, result)
        self._observe(DraftObserved(drafted=item.drafted, accepted=result.accepted))
        rejected = rejected_by(result, item.drafted, self._info.end_ids)
        self._send(sequence, output_events.chosen(sequence, result.tokens, self._info.end_ids, rejected=rejected))
        self._update_output(sequence, output_events.parts(sequence, result), cached, now)

    def _update_output(self, sequence: Sequence, parts: output_events.Parts, cached: Ids[int], now: float) -> None:
        """Emit recorded tokens of a causal pass, part by part; the pass has `cached` ids in the slot."""
        sequence.times.step(self._iteration_start, now, block=sequence.block)
        self._extend(sequence, cached)
        has_end = False
        for number, tokens in enumerate(parts, 1):
            is_late = number == len(parts) and self._would_be_late(sequence, now)
            streamed, has_end = sequence.emit(tokens, self._info.end_ids, is_late=is_late)
            if sequence.is_hopeless():
                self._doubt(sequence, now)
                return
            if streamed or sequence.request.top_logprobs is not None:
                self._emit(sequence, streamed, now, tokens=tokens)
        self._ended(sequence, now, has_end=has_end)

    def _ended(self, sequence: Sequence, now: float, *, has_end: bool) -> bool:
        """Finish the sequence at an end token, at `max_tokens`, or if its deadline leaves no time for another step."""
        if has_end:
            self._finish(sequence, FinishReason.STOP, now)
        elif sequence.is_full:
            self._finish(sequence, FinishReason.LENGTH, now)
        elif self._would_be_late(sequence, now):
            self._finish(sequence, FinishReason.DEADLINE, now)
        return sequence.id not in self._running

    def _emit(
        self,
        sequence: Sequence,
        ids: tuple[int, ...],
        now: float,
        canvas: CanvasResult | None = None,
        *,
        tokens: tuple[TokenResult, ...] = (),
    ) -> None:
        sequence.times.seal(now)
        self._send(sequence, (output_events.sealed(sequence, ids, canvas, tokens),))

    def _finish(self, sequence: Sequence, reason: FinishReason, now: float) -> None:
        self._cost_model.record_finished(sequence)
        self._outbox.append((sequence.id, Finished(reason=reason, usage=sequence.usage())))
        self._end(sequence, now, Outcome.FINISHED)

    def _fault(self, sequence: Sequence, error: WorkerError, now: float, outcome: Outcome = Outcome.FAULTED) -> None:
        self._outbox.append((sequence.id, Faulted(error=error, usage=sequence.usage())))
        self._end(sequence, now, outcome)

    def _doubt(self, sequence: Sequence, now: float) -> None:
        """End a sequence whose confidence cannot reach its minimum."""
        error = LowConfidence(f"the confidence of the answer is below {sequence.request.min_confidence:g}")
        self._fault(sequence, error, now, Outcome.LOW_CONFIDENCE)

    def _end(self, sequence: Sequence, now: float, outcome: Outcome) -> None:
        if self._running.pop(sequence.id, None):
            assert sequence.slot is not None
            self.slots.release(sequence.slot, retain=outcome is not Outcome.FAULTED)
        else:
            self._queue.remove(sequence)
        self._released.append(sequence.id)
        self._observe(output_events.observed(sequence, outcome, now))

    def _measure(self, seconds: float, batch: Batch, constraint_s: float) -> None:
        if rows := batch.rows:  # an iteration that only releases says nothing about the cost of a step
            self._cost_model.record_step(seconds, batch)
            self._observe(StepObserved(seconds=seconds, rows=rows, constraint_s=constraint_s))

    def _would_be_late(self, sequence: Sequence, now: float, *, steps: int = 1) -> bool:
        """Whether `steps` more steps are predicted to end after the deadline."""
        if sequence.request.deadline_s is None:
            return False
        return sequence.is_due(now + steps * (self._cost_model.step_s(self._running.values() or (sequence,)) or 0.0))
