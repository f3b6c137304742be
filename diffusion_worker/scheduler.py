"""Who runs next and what came of it: `next_batch`, then someone steps, then `settle`.

Continuous batching at the grain of one step: sequences join and leave at every iteration, whatever step their
neighbours are at. Pure bookkeeping: no tensors, no clock (`now`, in seconds, is an argument), no threads.
"""

import heapq
from collections import deque
from dataclasses import dataclass

from diffusion_worker.errors import Cancelled, DeadlineExceeded, OutOfRange, OverCapacity, PromptTooLong, WorkerError
from diffusion_worker.records import (
    Ask,
    BlockObserved,
    BlockSealed,
    Event,
    Faulted,
    Finished,
    FinishReason,
    NetFacts,
    Observer,
    Outcome,
    Reading,
    SequenceId,
    SequenceObserved,
    StepObserved,
)
from diffusion_worker.sequence import Sequence
from diffusion_worker.work import Batch, CanvasResult, StepResult, TokenResult

Occurrence = tuple[SequenceId, Event]
_NEWEST = 0.1  # weight of the newest measurement in a running mean


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What may run and wait at once."""

    max_num_seqs: int  # running together
    max_waiting: int  # beyond them, before asks are refused
    max_context: int  # tokens, prompt and answer together


class Scheduler:
    """Every sequence added ends in exactly one Finished or Faulted."""

    def __init__(self, facts: NetFacts, limits: Limits, observe: Observer | None = None) -> None:
        self._facts = facts
        self._limits = limits
        self._observe: Observer = observe or (lambda _observation: None)
        self._waiting: deque[Sequence] = deque()
        self._running: dict[SequenceId, Sequence] = {}
        self._left: list[SequenceId] = []  # ended; the next batch frees their rows
        self._outbox: list[Occurrence] = []
        self._next_id: SequenceId = 1
        self._began = 0.0
        self._step_s: float | None = None
        self._passes: dict[Reading, float] = {}  # mean number of passes of finished sequences

    @property
    def running(self) -> int:
        """Sequences that take part in the next step."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Sequences that wait for a place."""
        return len(self._waiting)

    @property
    def has_work(self) -> bool:
        """Whether another iteration is due, be it only to free rows or to tell what happened."""
        return bool(self._waiting or self._running or self._left or self._outbox)

    def add(self, ask: Ask, now: float) -> SequenceId:
        """Accept an ask. Raises PromptTooLong, OutOfRange or OverCapacity; then nothing has changed."""
        self._check(ask)
        if self.running + self.waiting >= self._limits.max_num_seqs + self._limits.max_waiting:
            raise OverCapacity(
                f"{self.running} requests run and {self.waiting} wait", retry_after_s=self.predicted_wait_s() or 1.0
            )
        sequence = Sequence(
            id=self._next_id, ask=ask, submitted=now, pending=ask.prompt_ids, steps_to_go=ask.recipe.steps
        )
        self._next_id += 1
        self._waiting.append(sequence)
        return sequence.id

    def leave(self, sequence_id: SequenceId, now: float, *, outcome: Outcome = Outcome.CANCELLED) -> None:
        """End a sequence early if it has not ended: cancelled, or finished because its reader has enough. It takes part
        in no later step."""
        for sequence in (*self._running.values(), *self._waiting):
            if sequence.id == sequence_id and outcome is Outcome.FINISHED:
                self._finish(sequence, FinishReason.STOP, now)
            elif sequence.id == sequence_id:
                self._fault(sequence, Cancelled("the request was aborted"), now, outcome)

    def fault_all(self, error: WorkerError, now: float) -> None:
        """End everything that runs or waits with the same error."""
        for sequence in (*self._running.values(), *self._waiting):
            self._fault(sequence, error, now)

    def next_batch(self, now: float) -> Batch:
        """What to do in this iteration: free what has left, admit what fits, advance all that run."""
        self._began = now
        self._admit(now)
        releases, self._left = tuple(self._left), []
        canvases = [sequence for sequence in self._running.values() if not sequence.is_read]
        appends = [sequence.append() for sequence in canvases]
        return Batch(
            releases=releases,
            appends=tuple(append for append in appends if append),
            denoises=tuple(sequence.denoise() for sequence in canvases),
            reads=tuple(sequence.read() for sequence in self._running.values() if sequence.is_read),
        )

    def settle(self, batch: Batch, result: StepResult, now: float) -> tuple[Occurrence, ...]:
        """Take in what a step found; returns everything that has happened since the last call. Results of sequences
        that left in the meantime are dropped."""
        self._measure(now - self._began, len(batch.denoises) + len(batch.reads))
        for fault in result.faults:
            if sequence := self._running.get(fault.sequence):
                self._fault(sequence, fault.error, now)
        for append in batch.appends:
            if sequence := self._running.get(append.sequence):
                sequence.appended()
        for canvas in result.canvases:
            if sequence := self._running.get(canvas.sequence):
                self._settle_canvas(sequence, canvas, now)
        for token in result.tokens:
            if sequence := self._running.get(token.sequence):
                self._settle_token(sequence, token, now)
        happened, self._outbox = tuple(self._outbox), []
        return happened

    def predicted_wait_s(self) -> float | None:
        """How long an ask added now would wait for a place; None until a step has been measured."""
        if self._step_s is None:
            return None
        places = [self._passes_to_go(sequence) for sequence in self._running.values()]
        places += [0.0] * (self._limits.max_num_seqs - len(places))
        heapq.heapify(places)
        for sequence in self._waiting:
            heapq.heapreplace(places, places[0] + self._passes_to_go(sequence))
        return places[0] * self._step_s

    def _check(self, ask: Ask) -> None:
        wanted = len(ask.prompt_ids) + ask.max_tokens
        if wanted > self._limits.max_context:
            raise PromptTooLong(
                f"{len(ask.prompt_ids)} prompt tokens and max_tokens {ask.max_tokens} make {wanted}, "
                f"the context holds {self._limits.max_context}",
                param="messages",
            )
        for name, ids in (("messages", ask.prompt_ids), ("prediction", ask.start_ids)):
            if ids and not (min(ids) >= 0 and max(ids) < self._facts.vocab_size):
                raise OutOfRange(f"a token id lies outside the vocabulary of {self._facts.vocab_size}", param=name)

    def _admit(self, now: float) -> None:
        for sequence in tuple(self._waiting):
            if sequence.is_due(now):
                self._fault(sequence, DeadlineExceeded("the deadline passed in the queue"), now)
        while self._waiting and len(self._running) < self._limits.max_num_seqs:
            sequence = self._waiting.popleft()
            self._running[sequence.id] = sequence

    def _settle_canvas(self, sequence: Sequence, canvas: CanvasResult, now: float) -> None:
        stop = sequence.stepped(canvas, is_late=self._would_be_late(sequence, now))
        if stop is None:
            return
        steps = sequence.ask.recipe.steps - sequence.steps_to_go
        self._observe(BlockObserved(stop=stop, denoising_steps=steps, mean_entropy=canvas.mean_entropy))
        visible, has_end = sequence.seal(canvas, self._facts.end_ids)
        self._emit(sequence, visible, now)
        if not self._ended(sequence, now, has_end=has_end):
            sequence.open_block(canvas.ids)

    def _settle_token(self, sequence: Sequence, token: TokenResult, now: float) -> None:
        sequence.took(token)
        has_end = token.id in self._facts.end_ids
        if not has_end:
            self._emit(sequence, (token.id,), now)
        self._ended(sequence, now, has_end=has_end)

    def _ended(self, sequence: Sequence, now: float, *, has_end: bool) -> bool:
        """Finish the sequence if it is answered, full, or would not get further in time."""
        if has_end:
            self._finish(sequence, FinishReason.STOP, now)
        elif sequence.is_full:
            self._finish(sequence, FinishReason.LENGTH, now)
        elif self._would_be_late(sequence, now):
            self._finish(sequence, FinishReason.DEADLINE, now)
        return sequence.id not in self._running

    def _emit(self, sequence: Sequence, ids: tuple[int, ...], now: float) -> None:
        if sequence.first_block_at is None:
            sequence.first_block_at = now
        self._outbox.append((sequence.id, BlockSealed(ids=ids, block=sequence.block, usage=sequence.usage())))

    def _finish(self, sequence: Sequence, reason: FinishReason, now: float) -> None:
        reading = sequence.ask.reading
        self._passes[reading] = _running_mean(self._passes.get(reading), sequence.forward_passes)
        self._outbox.append((sequence.id, Finished(reason=reason, usage=sequence.usage())))
        self._end(sequence, now, Outcome.FINISHED)

    def _fault(self, sequence: Sequence, error: WorkerError, now: float, outcome: Outcome = Outcome.FAULTED) -> None:
        self._outbox.append((sequence.id, Faulted(error=error, usage=sequence.usage())))
        self._end(sequence, now, outcome)

    def _end(self, sequence: Sequence, now: float, outcome: Outcome) -> None:
        if self._running.pop(sequence.id, None):
            self._left.append(sequence.id)
        else:
            self._waiting.remove(sequence)
        first = sequence.first_block_at
        self._observe(
            SequenceObserved(
                reading=sequence.ask.reading,
                outcome=outcome,
                first_block_s=None if first is None else first - sequence.submitted,
                total_s=now - sequence.submitted,
                usage=sequence.usage(),
            )
        )

    def _measure(self, seconds: float, rows: int) -> None:
        if rows:  # an iteration that only freed rows says nothing about the price of a step
            self._step_s = _running_mean(self._step_s, seconds)
            self._observe(StepObserved(seconds=seconds, rows=rows))

    def _would_be_late(self, sequence: Sequence, now: float) -> bool:
        """Whether one more step would probably end after the deadline."""
        return sequence.is_due(now + (self._step_s or 0.0))

    def _passes_to_go(self, sequence: Sequence) -> float:
        at_most = sequence.passes_at_most()
        expected = min(self._passes.get(sequence.ask.reading, at_most), at_most)
        return max(1.0, expected - sequence.forward_passes)


def _running_mean(known: float | None, newest: float) -> float:
    return newest if known is None else known + _NEWEST * (newest - known)
