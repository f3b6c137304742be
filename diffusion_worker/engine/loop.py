"""The loop `next_batch -> step -> update_from_output` over one net, as a machine that any thread may feed and one
thread turns.

`run` turns it on the calling thread until all is answered. Knows no asyncio, no text and no wire.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from diffusion_worker.denoise.exact import Padding
from diffusion_worker.denoise.stepper import Stepper
from diffusion_worker.engine.capacity import Limits
from diffusion_worker.engine.scheduler import Occurrence, Scheduler
from diffusion_worker.errors import WorkerError
from diffusion_worker.memory.budget import context_bytes, fit_slots
from diffusion_worker.memory.kv_cache import KvCache
from diffusion_worker.memory.lifecycle import memory_in_use
from diffusion_worker.memory.pressure import ROWS_SHARE, Ladder
from diffusion_worker.memory.slots import SlotTable
from diffusion_worker.models.interface import DiffusionModel
from diffusion_worker.types.generation import (
    BlockSealed,
    Faulted,
    Finished,
    GenerationRequest,
    Outcome,
    PrefixStable,
    Pressure,
    SequenceId,
)
from diffusion_worker.types.observations import Observer

Gauge = Callable[[], tuple[int, int]]  # (used, limit) in bytes, of whatever memory may run short
PRESSURE_EVERY_S = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """How much to take on at once."""

    max_num_seqs: int = 8  # running together; fewer if their contexts would not fit
    max_waiting: int = 64
    max_context: int | None = None  # tokens; None: as many as the net knows positions
    memory_limit_bytes: int = 0  # weights and contexts together; 0: what the device has
    prefix_slots: int = 0  # further slots for contexts kept for reuse; fewer if they would not fit
    prefill_chunk: int = 512
    max_step_tokens: int | None = None
    is_exact: bool = False


class Loop:
    """Scheduler, stepper and cache as one machine. `turn` belongs to one thread, all else may be called from any."""

    def __init__(
        self, net: DiffusionModel, capacity: Capacity, observe: Observer | None = None, gauge: Gauge | None = None
    ) -> None:
        self.net = net
        self.limits, self._all_slots, self.memory_limit_bytes = _plan(net, capacity)
        table = SlotTable(net.kv_layers, self._all_slots, itemsize=net.dtype.itemsize, is_reusing=not capacity.is_exact)
        cache = KvCache(
            net.kv_layers,
            slots=self._all_slots + capacity.is_exact,  # in exact mode the last one holds nothing, see `denoise.exact`
            slot_tokens=self.limits.max_context,
            dtype=net.dtype,
            device=net.device,
        )
        self.scheduler = Scheduler(net.info, self.limits, table, observe)
        padding = Padding(rows=self.limits.max_num_seqs) if capacity.is_exact else None
        self._stepper = Stepper(net, cache, padding=padding)
        self._gauge = gauge or (lambda: memory_in_use(net.device))
        self._ladder = Ladder()
        self._allowed_rows, self._is_told = self.limits.max_num_seqs, False
        self._looked_at = float("-inf")
        self._lock = threading.Lock()

    @property
    def pressure(self) -> Pressure:
        """What memory pressure has made it give up."""
        return self._ladder.rung

    def add(self, ask: GenerationRequest) -> SequenceId:
        """See `Scheduler.add`."""
        with self._lock:
            return self.scheduler.add(ask, time.monotonic())

    def leave(self, sequence: SequenceId, outcome: Outcome) -> None:
        """See `Scheduler.leave`; takes effect at the next border between steps."""
        with self._lock:
            self.scheduler.leave(sequence, time.monotonic(), outcome=outcome)

    def fault_all(self, error: WorkerError) -> None:
        """See `Scheduler.fault_all`."""
        with self._lock:
            self.scheduler.fault_all(error, time.monotonic())

    def allow_rows(self, rows: int) -> None:
        """From the next border between steps on, at most so many run together; never more than was planned for."""
        with self._lock:
            self._allowed_rows, self._is_told = rows, True

    def turn(self) -> tuple[Occurrence, ...]:
        """One iteration; returns what has happened."""
        self.relieve()
        with self._lock:
            batch = self.scheduler.next_batch(time.monotonic())
        result = self._stepper.step(batch)
        with self._lock:
            return self.scheduler.update_from_output(batch, result, time.monotonic())

    def relieve(self) -> None:
        """Look at the memory, at most every PRESSURE_EVERY_S, and give up or take back what its pressure demands and
        what `allow_rows` said."""
        now = time.monotonic()
        if now - self._looked_at < PRESSURE_EVERY_S and not self._is_told:
            return
        self._looked_at, before = now, self._ladder.rung
        rung = self._ladder.read(*self._gauge(), now)
        with self._lock:
            if rung is not before or self._is_told:
                pressed = int(self.limits.max_num_seqs * ROWS_SHARE[rung])
                self.scheduler.limit_rows(min(pressed, self._allowed_rows), now)
                self._is_told = False
            if rung:
                self.scheduler.forget_retained()
            elif before:
                self.scheduler.restore_slots(self._all_slots)

    def predicted_wait_s(self) -> float | None:
        """See `Scheduler.predicted_wait_s`."""
        with self._lock:
            return self.scheduler.predicted_wait_s(time.monotonic())


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """All of one sequence at once."""

    ids: tuple[int, ...]
    end: Finished | Faulted


def run(
    net: DiffusionModel, asks: Sequence[GenerationRequest], *, max_num_seqs: int = 8, observe: Observer | None = None
) -> tuple[Answer, ...]:
    """Answer all asks, `max_num_seqs` at a time, on the calling thread, with exactly the loop that serves."""
    if not asks:
        return ()
    longest = max(len(ask.prompt_ids) + ask.max_tokens for ask in asks)
    loop = Loop(net, Capacity(max_num_seqs=max_num_seqs, max_waiting=len(asks), max_context=longest), observe)
    ids: dict[SequenceId, list[int]] = {loop.add(ask): [] for ask in asks}
    ends: dict[SequenceId, Finished | Faulted] = {}
    while loop.scheduler.has_work:
        for sequence, event in loop.turn():
            if isinstance(event, BlockSealed | PrefixStable):
                ids[sequence] += event.ids
            elif isinstance(event, Finished | Faulted):
                ends[sequence] = event
    return tuple(Answer(ids=tuple(ids[sequence]), end=ends[sequence]) for sequence in ids)


def _plan(net: DiffusionModel, capacity: Capacity) -> tuple[Limits, int, int]:
    """Limits, how many slots of the longest context fit beside the weights, and the bytes that was planned with."""
    _, limit = memory_in_use(net.device)
    limit = min(limit, capacity.memory_limit_bytes) if capacity.memory_limit_bytes else limit
    max_context = min(capacity.max_context or net.info.max_context, net.info.max_context)
    slots = fit_slots(
        capacity.max_num_seqs + capacity.prefix_slots,
        slot_bytes=context_bytes(net.kv_layers, max_context, net.dtype.itemsize),
        free_bytes=limit - net.info.weight_bytes,
    )
    limits = Limits(
        max_num_seqs=min(slots, capacity.max_num_seqs),
        max_waiting=capacity.max_waiting,
        max_context=max_context,
        prefill_chunk=capacity.prefill_chunk,
        max_step_tokens=capacity.max_step_tokens,
        is_exact=capacity.is_exact,
    )
    return limits, slots, limit
