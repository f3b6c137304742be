"""The synchronous engine loop over one model: `next_batch -> step -> update_from_output`.

One thread calls `step`; any thread may add requests. `run` completes a list of requests on the calling thread. Free of
asyncio, text and HTTP.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from diffusion_worker.denoise.exact import Padding
from diffusion_worker.denoise.stepper import Stepper
from diffusion_worker.engine.device_check import DeviceCheck
from diffusion_worker.engine.limits import Limits
from diffusion_worker.engine.scheduler import Scheduler, SequenceEvent
from diffusion_worker.engine.step_cost import positions_of
from diffusion_worker.engine.warm_up import CudaPeak, largest_batch, run_largest_step
from diffusion_worker.engine.watchdog import StepWatchdog
from diffusion_worker.errors import DeviceFailed, StepFailed, WorkerError
from diffusion_worker.memory.kv_cache import KvCache
from diffusion_worker.memory.lifecycle import fullest, memory_in_use, tensor_bytes
from diffusion_worker.memory.pressure import BATCH_SHARE, PressureMonitor
from diffusion_worker.memory.serving_plan import Demand, ModelMemory, ServingPlan, plan_serving
from diffusion_worker.memory.slots import SlotTable
from diffusion_worker.models.device_errors import is_fatal
from diffusion_worker.models.interface import DiffusionModel
from diffusion_worker.types.events import BlockSealed, Faulted, Finished, PrefixStable
from diffusion_worker.types.observations import Observer, Outcome
from diffusion_worker.types.requests import GenerationRequest, SequenceId
from diffusion_worker.types.status import Pressure

Gauge = Callable[[], tuple[int, int]]  # (used, limit) in bytes of the memory under pressure
PRESSURE_EVERY_S = 0.25
SUSPECT_STEPS = 2  # consecutive steps with faulting rows, after which the device is checked
GROW_RETRY_S = 5.0  # after there was no memory for more slots


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """Configuration of the loop: concurrency, queue, context length and memory; see `memory.serving_plan`."""

    max_num_seqs: int = 8  # running; fewer if that many do not fit with `max_context`
    max_waiting: int = 64
    max_context: int | None = None  # tokens; None: the longest default that fits
    memory_limit_bytes: int = 0  # weights, contexts, steps and reserve; 0: the memory of the device
    prefix_slots: int = 0  # additional slots for the prefix cache; fewer if they do not fit
    max_prefill_tokens: int = 2048
    max_step_tokens: int | None = None
    is_exact: bool = False
    step_timeout_s: float = 300.0  # without progress, at least, before a device counts as hanging


class Loop:
    """Scheduler, stepper and KV cache of one model. One thread calls `step`; all other methods are thread-safe.

    `memory`: (used, limit) in bytes when they were last measured: of the device, or of this worker's tensors if their
    limit is configured. `watchdog` is checked by another thread."""

    def __init__(
        self,
        model: DiffusionModel,
        capacity: Capacity,
        observe: Observer | None = None,
        gauge: Gauge | None = None,
        plan: ServingPlan | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """`plan`: by default `plan_of` the model. `clock` returns seconds (None: of the monotonic clock). Raises
        BadSetting if nothing fits, or an error of the device."""
        self.model, self._clock = model, clock or _monotonic_s
        self.plan = plan or plan_of(model, capacity)
        is_mixed = model.mixed_pass is not None and not capacity.is_exact
        self.limits, self._max_slots = _limits(self.plan, capacity, is_mixed=is_mixed), self.plan.slots
        table = SlotTable(
            model.kv_layers,
            self._max_slots,
            itemsize=model.dtype.itemsize,
            is_reusing=not capacity.is_exact,
            rereads_last=model.info.scores_prompts,
            has_template_weights=model.info.has_template_weights,
        )
        cache = KvCache(
            model.kv_layers,
            slots=self._max_slots + capacity.is_exact,  # exact mode keeps an empty slot, see `denoise.exact`
            slot_tokens=self.limits.max_context,
            dtype=model.dtype,
            device=model.device,
        )
        self.scheduler = Scheduler(model.info, self.limits, table, observe)
        self._padding = Padding(rows=self.limits.max_num_seqs) if capacity.is_exact else None
        self._stepper = Stepper(model, cache, padding=self._padding)
        self.watchdog = StepWatchdog(capacity.step_timeout_s, self._clock)
        self._stepper.progress = self.watchdog.progress
        self._gauge = gauge or (lambda: memory_in_use(model.device))
        self._is_limited = capacity.memory_limit_bytes > 0
        self.memory = self._usages()[-1]
        self._pressure_monitor = PressureMonitor()
        self._allowed_rows, self._max_rows_changed = self.limits.max_num_seqs, False
        self._checked_at, self._grow_from = float("-inf"), float("-inf")
        self._device_check = DeviceCheck(model)
        self._faulting_steps = 0  # consecutive ones, in which a row faulted
        self._is_stepping = False  # in the stepper: an error there leaves the cache in an unknown state
        self._lock = threading.Lock()

    def warm_up(self) -> int | None:
        """Run the passes of the largest step, before any request; see `warm_up.run_largest_step`. On a CPU, where such
        a step may take a minute, runs small ones. The watchdog sees a step after all kernels exist, so that it does not
        learn how long it takes to compile them. Returns the measured peak in bytes beside weights and slots (None: not
        measured). Raises the error of the step."""
        check, limits = self._device_check, self.limits
        if self.model.device.type != "cpu":
            watched = self.watchdog.step(positions_of(largest_batch(self.model.info, limits)))
            meter = CudaPeak(self.model.device)
            return run_largest_step(self.model, self._stepper.cache, limits, self._padding, meter, watched)
        error = check.failure_of_kinds() if self.model.is_compiled else None
        with self.watchdog.step(check.positions):
            if error := error or check.failure():
                raise error
        return None

    @property
    def pressure(self) -> Pressure:
        """Current memory-pressure level."""
        return self._pressure_monitor.level

    def add(self, request: GenerationRequest) -> SequenceId:
        """See `Scheduler.add`."""
        with self._lock:
            return self.scheduler.add(request, self._clock())

    def leave(self, sequence: SequenceId, outcome: Outcome) -> None:
        """See `Scheduler.leave`; takes effect before the next step."""
        with self._lock:
            self.scheduler.leave(sequence, self._clock(), outcome=outcome)

    def fault_all(self, error: WorkerError) -> tuple[SequenceEvent, ...]:
        """See `Scheduler.fault_all`; returns all events that are not delivered yet. Does not use the device."""
        with self._lock:
            self.scheduler.fault_all(error, self._clock())
            return self.scheduler.take_events()

    def set_max_rows(self, rows: int) -> None:
        """Run at most `rows` sequences from the next step on, and never more than `max_num_seqs`."""
        with self._lock:
            self._allowed_rows, self._max_rows_changed = rows, True

    def step(self) -> tuple[SequenceEvent, ...]:
        """Run one iteration and return its events."""
        self.check_memory()
        with self._lock:
            batch = self.scheduler.next_batch(self._clock())
        self._is_stepping = True
        with self.watchdog.step(positions_of(batch)):
            result = self._stepper.step(batch)
        self._is_stepping = False
        if batch.prefills or batch.rows:
            self._faulting_steps = self._faulting_steps + 1 if result.faults else 0
        now = self._clock()
        if batch.slots is not None and result.slots != batch.slots:
            self._grow_from = now + GROW_RETRY_S
        with self._lock:
            return self.scheduler.update_from_output(batch, result, now)

    def recover(self, error: Exception) -> None:
        """After `step` has raised `error`: end the running sequences and invalidate all cached contexts, because copies
        and passes of the step are lost. After a defect outside the stepper the queued ones end, too, since one of them
        may be the cause. Raises DeviceFailed, and leaves all sequences as they are, if the device cannot go on."""
        if is_fatal(error):
            raise DeviceFailed(f"the device failed: {error}", retry_after_s=1.0) from error
        try:
            with self.watchdog.step():
                self._stepper.reset()
        except Exception as second:  # of any kind: nothing can be computed on contents that are unknown
            raise DeviceFailed(f"the KV cache cannot be reset: {second}", retry_after_s=1.0) from second
        self.check_device()
        failure, now = StepFailed(f"the step failed: {error!r}"), self._clock()
        with self._lock:
            if not self._is_stepping:
                self.scheduler.fault_all(failure, now)
            self.scheduler.reset(failure, now, slots=self._stepper.slots)
        self._is_stepping = False

    @property
    def is_suspect(self) -> bool:
        """Whether the device may be the reason why rows fault, see `check_device`."""
        return self._faulting_steps >= SUSPECT_STEPS

    def check_device(self) -> None:
        """Step a small request. Raises DeviceFailed if it fails; otherwise only the requests before it have failed."""
        self._faulting_steps = 0
        with self.watchdog.step():
            failure = self._device_check.failure()
        if failure is not None:
            raise DeviceFailed(f"the device failed a check: {failure}", retry_after_s=1.0) from failure

    def check_memory(self) -> None:
        """Apply the memory-pressure level and `set_max_rows`: drop or restore the prefix cache, and shrink or grow the
        batch. Reads the memory usage at most every PRESSURE_EVERY_S."""
        now = self._clock()
        if now - self._checked_at < PRESSURE_EVERY_S and not self._max_rows_changed:
            return
        self._checked_at, before = now, self._pressure_monitor.level
        with self.watchdog.step():
            usages = self._usages()
        self.memory = usages[-1]
        level = self._pressure_monitor.update(*fullest(usages), now)
        with self._lock:
            if level is not before or self._max_rows_changed:
                pressed = int(self.limits.max_num_seqs * BATCH_SHARE[level])
                self.scheduler.set_max_rows(min(pressed, self._allowed_rows), now)
                self._max_rows_changed = False
            if level:
                self.scheduler.evict_retained()
            elif now >= self._grow_from:
                self.scheduler.restore_slots(self._max_slots)

    def _usages(self) -> tuple[tuple[int, int], ...]:
        """(used, limit) in bytes of the device and, with a configured limit, of this worker's tensors."""
        if not self._is_limited:
            return (self._gauge(),)
        own = tensor_bytes(self.model.device, self.model.info.weight_bytes + self._stepper.cache.allocated_bytes)
        return self._gauge(), (own, self.plan.memory_limit_bytes)

    def predicted_wait_s(self) -> float | None:
        """See `Scheduler.predicted_wait_s`."""
        with self._lock:
            return self.scheduler.predicted_wait_s(self._clock())


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Complete output of one sequence."""

    ids: tuple[int, ...]
    end: Finished | Faulted


def run(
    model: DiffusionModel,
    requests: Sequence[GenerationRequest],
    *,
    max_num_seqs: int = 8,
    observe: Observer | None = None,
) -> tuple[Answer, ...]:
    """Complete all requests on the calling thread, `max_num_seqs` at a time, with the same loop as the server. Returns
    one Answer per request, in order."""
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


def plan_of(model: DiffusionModel, capacity: Capacity, *, step_scale: float = 1.0) -> ServingPlan:
    """See `plan_serving`, for a loaded model and the memory of its device."""
    _, limit = memory_in_use(model.device)
    return plan_serving(
        ModelMemory(
            kv_layers=model.kv_layers,
            step=model.info.step,
            itemsize=model.dtype.itemsize,
            weight_bytes=model.info.weight_bytes,
            max_context=model.info.max_context,
            canvas_length=model.info.denoising.canvas_length,
        ),
        Demand(
            max_num_seqs=capacity.max_num_seqs,
            prefix_slots=capacity.prefix_slots,
            max_prefill_tokens=capacity.max_prefill_tokens,
            max_context=capacity.max_context,
            spare_slots=int(capacity.is_exact),
        ),
        min(limit, capacity.memory_limit_bytes) if capacity.memory_limit_bytes else limit,
        step_scale=step_scale,
    )


def _monotonic_s() -> float:
    return time.monotonic()


def _limits(plan: ServingPlan, capacity: Capacity, *, is_mixed: bool) -> Limits:
    return Limits(
        max_num_seqs=plan.max_num_seqs,
        max_waiting=capacity.max_waiting,
        max_context=plan.max_context,
        max_prefill_tokens=capacity.max_prefill_tokens,
        max_step_tokens=capacity.max_step_tokens,
        is_exact=capacity.is_exact,
        is_mixed=is_mixed,
    )
