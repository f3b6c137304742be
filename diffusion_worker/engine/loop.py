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
from diffusion_worker.engine.scheduler import Limits, Scheduler, SequenceEvent
from diffusion_worker.errors import WorkerError
from diffusion_worker.memory.budget import context_bytes, fit_slots
from diffusion_worker.memory.kv_cache import KvCache
from diffusion_worker.memory.lifecycle import memory_in_use
from diffusion_worker.memory.pressure import BATCH_SHARE, PressureMonitor
from diffusion_worker.memory.slots import SlotTable
from diffusion_worker.models.interface import DiffusionModel
from diffusion_worker.types.events import BlockSealed, Faulted, Finished, PrefixStable
from diffusion_worker.types.observations import Observer, Outcome
from diffusion_worker.types.requests import GenerationRequest, SequenceId
from diffusion_worker.types.status import Pressure

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
        self, model: DiffusionModel, capacity: Capacity, observe: Observer | None = None, gauge: Gauge | None = None
    ) -> None:
        self.model = model
        self.limits, self._max_slots, self.memory_limit_bytes = _plan(model, capacity)
        table = SlotTable(
            model.kv_layers, self._max_slots, itemsize=model.dtype.itemsize, is_reusing=not capacity.is_exact
        )
        cache = KvCache(
            model.kv_layers,
            slots=self._max_slots + capacity.is_exact,  # in exact mode the last one holds nothing, see `denoise.exact`
            slot_tokens=self.limits.max_context,
            dtype=model.dtype,
            device=model.device,
        )
        self.scheduler = Scheduler(model.info, self.limits, table, observe)
        padding = Padding(rows=self.limits.max_num_seqs) if capacity.is_exact else None
        self._stepper = Stepper(model, cache, padding=padding)
        self._gauge = gauge or (lambda: memory_in_use(model.device))
        self._pressure_monitor = PressureMonitor()
        self._allowed_rows, self._max_rows_changed = self.limits.max_num_seqs, False
        self._checked_at = float("-inf")
        self._lock = threading.Lock()

    @property
    def pressure(self) -> Pressure:
        """What memory pressure has made it give up."""
        return self._pressure_monitor.level

    def add(self, request: GenerationRequest) -> SequenceId:
        """See `Scheduler.add`."""
        with self._lock:
            return self.scheduler.add(request, time.monotonic())

    def leave(self, sequence: SequenceId, outcome: Outcome) -> None:
        """See `Scheduler.leave`; takes effect at the next border between steps."""
        with self._lock:
            self.scheduler.leave(sequence, time.monotonic(), outcome=outcome)

    def fault_all(self, error: WorkerError) -> None:
        """See `Scheduler.fault_all`."""
        with self._lock:
            self.scheduler.fault_all(error, time.monotonic())

    def set_max_rows(self, rows: int) -> None:
        """From the next border between steps on, at most so many run together; never more than was planned for."""
        with self._lock:
            self._allowed_rows, self._max_rows_changed = rows, True

    def step(self) -> tuple[SequenceEvent, ...]:
        """One iteration; returns what has happened."""
        self.check_memory()
        with self._lock:
            batch = self.scheduler.next_batch(time.monotonic())
        result = self._stepper.step(batch)
        with self._lock:
            return self.scheduler.update_from_output(batch, result, time.monotonic())

    def check_memory(self) -> None:
        """Look at the memory, at most every PRESSURE_EVERY_S, and give up or take back what its pressure demands and
        what `allow_rows` said."""
        now = time.monotonic()
        if now - self._checked_at < PRESSURE_EVERY_S and not self._max_rows_changed:
            return
        self._checked_at, before = now, self._pressure_monitor.level
        level = self._pressure_monitor.update(*self._gauge(), now)
        with self._lock:
            if level is not before or self._max_rows_changed:
                pressed = int(self.limits.max_num_seqs * BATCH_SHARE[level])
                self.scheduler.set_max_rows(min(pressed, self._allowed_rows), now)
                self._max_rows_changed = False
            if level:
                self.scheduler.evict_retained()
            elif before:
                self.scheduler.restore_slots(self._max_slots)

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
    model: DiffusionModel,
    requests: Sequence[GenerationRequest],
    *,
    max_num_seqs: int = 8,
    observe: Observer | None = None,
) -> tuple[Answer, ...]:
    """Answer all asks, `max_num_seqs` at a time, on the calling thread, with exactly the loop that serves."""
    if not requests:
        return ()
    longest = max(len(request.prompt_ids) + request.max_tokens for request in requests)
    loop = Loop(model, Capacity(max_num_seqs=max_num_seqs, max_waiting=len(requests), max_context=longest), observe)
    ids: dict[SequenceId, list[int]] = {loop.add(request): [] for request in requests}
    ends: dict[SequenceId, Finished | Faulted] = {}
    while loop.scheduler.has_work:
        for sequence, event in loop.step():
            if isinstance(event, BlockSealed | PrefixStable):
                ids[sequence] += event.ids
            elif isinstance(event, Finished | Faulted):
                ends[sequence] = event
    return tuple(Answer(ids=tuple(ids[sequence]), end=ends[sequence]) for sequence in ids)


def _plan(model: DiffusionModel, capacity: Capacity) -> tuple[Limits, int, int]:
    """Limits, how many slots of the longest context fit beside the weights, and the bytes that was planned with."""
    _, limit = memory_in_use(model.device)
    limit = min(limit, capacity.memory_limit_bytes) if capacity.memory_limit_bytes else limit
    max_context = min(capacity.max_context or model.info.max_context, model.info.max_context)
    slots = fit_slots(
        capacity.max_num_seqs + capacity.prefix_slots,
        slot_bytes=context_bytes(model.kv_layers, max_context, model.dtype.itemsize),
        free_bytes=limit - model.info.weight_bytes,
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
