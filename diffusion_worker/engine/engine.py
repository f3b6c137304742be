"""The asynchronous engine: submit, stream, abort, load, unload and drain over a dedicated device thread.

The device thread loads the model, runs the loop and unloads the model; the event loop never waits for a forward pass.
This is the only module in which asyncio meets that thread.
"""

import asyncio
import contextlib
import gc
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from diffusion_worker.engine.loop import Capacity, Gauge, Loop
from diffusion_worker.engine.output_stream import OutputStream
from diffusion_worker.engine.scheduler import SequenceEvent
from diffusion_worker.engine.startup import open_loop
from diffusion_worker.engine.watchdog import TICK_S
from diffusion_worker.errors import (
    DeviceFailed,
    DeviceHangs,
    Draining,
    NotResident,
    OverCapacity,
    Refused,
    WorkerError,
)
from diffusion_worker.memory.lifecycle import SERVING, ModelLifecycle, memory_in_use, release_cached
from diffusion_worker.models.device_errors import is_fatal
from diffusion_worker.models.interface import DiffusionModel
from diffusion_worker.types.events import Ending
from diffusion_worker.types.model_info import ModelInfo
from diffusion_worker.types.observations import Observer, Outcome, RefusalObserved, StartObserved, StartPhase
from diffusion_worker.types.requests import GenerationRequest, SequenceId
from diffusion_worker.types.status import EngineStatus, Pressure, Residency

IDLE_CHECK_S = 1.0  # interval of memory checks while idle
WAIT_CACHE_S = 0.02  # how long a predicted wait is cached: every response reports it


class Engine:
    """Serves requests with one model, on one event loop. The model runs in a thread of its own."""

    def __init__(
        self,
        load: Callable[[], DiffusionModel],
        capacity: Capacity | None = None,
        observe: Observer | None = None,
        gauge: Gauge | None = None,
    ) -> None:
        """`load` runs on the device thread and may raise a CheckpointError. `gauge` returns (used, limit) in bytes; by
        default those of the device."""
        self._load = load
        self._capacity = capacity or Capacity()
        self._observe: Observer = observe or (lambda _observation: None)
        self._gauge = gauge
        self._allowed_rows: int | None = None  # set by `limit`; None: the configured maximum
        self._lifecycle = ModelLifecycle()
        self._loop: Loop | None = None
        self._streams: dict[SequenceId, OutputStream] = {}  # used on the event loop only
        self._idle = asyncio.Event()  # set while no stream is open
        self._cached_wait: tuple[float, float | None] = (float("-inf"), None)  # (time of prediction, wait in seconds)
        self._wakeup = threading.Event()
        self._should_unload = threading.Event()  # the device thread should unload the model
        self._commands: queue.SimpleQueue[bool] = queue.SimpleQueue()  # True: load the model, False: end the thread
        self._watching: asyncio.Task[None] | None = None
        self._is_hanging = False  # the device thread will never return
        self._thread = threading.Thread(target=self._run_device_thread, name="device", daemon=True)

    def start(self, *, cold: bool = False) -> None:
        """Start the device thread and begin loading; returns at once, see `ready`. With `cold`, loading waits for
        `load`."""
        self._events = asyncio.get_running_loop()
        self._loaded: asyncio.Future[None] = self._events.create_future()
        self._failure: asyncio.Future[DeviceFailed] = self._events.create_future()
        self._evicted = asyncio.Event()
        self._stopped = asyncio.Event()
        self._thread.start()
        self._watching = asyncio.create_task(self._watch_steps())
        if not cold:
            self._begin_loading()

    async def ready(self) -> None:
        """Wait until the model is loaded. Raises the error of loading: a CheckpointError or BadSetting."""
        await asyncio.shield(self._loaded)

    async def failure(self) -> DeviceFailed:
        """Wait until the device fails or hangs. All requests have ended by then or are refused, and the process should
        exit."""
        return await asyncio.shield(self._failure)

    @property
    def is_hanging(self) -> bool:
        """Whether the device thread makes no progress and cannot be ended."""
        return self._is_hanging

    async def load(self) -> None:
        """Load the weights and wait until they serve. Raises the error of loading, NotResident while the weights are
        being unloaded, or Draining."""
        if self._lifecycle.state is Residency.COLD:
            self._loaded = self._events.create_future()
            self._begin_loading()
        elif self._lifecycle.state is not Residency.LOADING and (refusal := self._lifecycle.refusal()):
            raise refusal
        await self.ready()

    async def unload(self, timeout_s: float) -> None:
        """Reject new requests, let running ones finish for at most `timeout_s` seconds, and unload the weights; returns
        when their memory is free. Raises NotResident while they are loading, or Draining."""
        if self._lifecycle.state is Residency.COLD:
            return
        if self._lifecycle.state not in SERVING:
            raise self._lifecycle.refusal() or Draining("the worker is shutting down")
        self._lifecycle.transition(Residency.EVICTING)
        self._evicted.clear()
        await self._finish_all(timeout_s)
        self._should_unload.set()
        self._wakeup.set()
        await self._evicted.wait()

    @property
    def max_rows(self) -> int:
        """Upper bound of `limit`: sequences that can run together."""
        return self._loop.limits.max_num_seqs if self._loop else self._capacity.max_num_seqs

    def limit(self, rows: int) -> None:
        """Run at most `rows` sequences from the next step on, also after a reload."""
        self._allowed_rows = rows
        if self._loop:
            self._loop.set_max_rows(rows)
            self._wakeup.set()

    @property
    def info(self) -> ModelInfo | None:
        """Properties of the loaded model, with the served context length; None while it is not loaded."""
        loop = self._loop
        return replace(loop.model.info, max_context=loop.limits.max_context) if loop else None

    def refusal(self) -> Refused | None:
        """The error for requests that cannot be accepted now, or None."""
        return self._lifecycle.refusal()

    def submit(self, request: GenerationRequest) -> OutputStream:
        """Queue a request and return its event stream. Raises NotResident, Draining, OverCapacity, PromptTooLong or
        OutOfRange."""
        try:
            if refusal := self._lifecycle.refusal():
                raise refusal
            assert self._loop is not None, "a serving state has a model"
            if self._loop.pressure is Pressure.ADMISSION:
                raise OverCapacity("out of memory headroom", retry_after_s=1.0)
            sequence = self._loop.add(request)
        except Refused as refusal:
            self._observe(RefusalObserved(reason=refusal.code))
            raise
        output_stream = OutputStream(lambda outcome: self._leave(sequence, outcome))
        self._streams[sequence] = output_stream
        self._idle.clear()
        self._wakeup.set()
        return output_stream

    def status(self) -> EngineStatus:
        """A snapshot for health endpoints and metrics, in every state."""
        loop = self._loop
        wait_s = loop.predicted_wait_s() if loop else None
        used, limit = loop.memory if loop else memory_in_use(None)
        return EngineStatus(
            state=self._lifecycle.state,
            running=loop.scheduler.running if loop else 0,
            waiting=loop.scheduler.waiting if loop else 0,
            max_num_seqs=loop.scheduler.rows if loop else self._capacity.max_num_seqs,
            predicted_wait_ms=None if wait_s is None else wait_s * 1000.0,
            memory_used_bytes=used,
            memory_limit_bytes=limit,
            kv_bytes=loop.scheduler.slots.used_bytes() if loop else 0,
            weight_bytes=loop.model.info.weight_bytes if loop else 0,
            retained_contexts=loop.scheduler.slots.retained if loop else 0,
            pressure=loop.pressure if loop else Pressure.NONE,
        )

    def predicted_wait_ms(self) -> float | None:
        """Predicted wait of a request submitted now, at most WAIT_CACHE_S old; None until a step has been measured.
        Cheaper than `status`, which reads the memory usage."""
        now = time.monotonic()
        if now - self._cached_wait[0] >= WAIT_CACHE_S or self._cached_wait[1] is None:
            self._cached_wait = (now, self._loop.predicted_wait_s() if self._loop else None)
        wait_s = self._cached_wait[1]
        return None if wait_s is None else wait_s * 1000.0

    async def drain(self, timeout_s: float) -> None:
        """Reject new requests, let running ones finish for at most `timeout_s` seconds, then close."""
        self._lifecycle.transition(Residency.DRAINING)
        await self._finish_all(timeout_s)
        await self.close()

    async def close(self) -> None:
        """Fail remaining requests with Draining and stop the device thread; returns when it has stopped. A thread that
        hangs is left to the end of the process."""
        self._lifecycle.transition(Residency.DRAINING)
        self._commands.put(False)
        self._should_unload.set()
        self._wakeup.set()
        if self._thread.is_alive():
            await self._stopped.wait()
            if not self._is_hanging:
                self._thread.join()
        if self._watching is not None:
            self._watching.cancel()

    async def _finish_all(self, timeout_s: float) -> None:
        if self._streams:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), timeout_s)

    def _leave(self, sequence: SequenceId, outcome: Outcome) -> None:
        if self._loop:
            self._loop.leave(sequence, outcome)
            self._wakeup.set()

    def _publish(self, happened: tuple[SequenceEvent, ...]) -> None:
        """On the event loop: deliver events to their streams and close the streams of ended sequences."""
        for sequence, event in happened:
            self._streams[sequence].deliver(event)
            if isinstance(event, Ending):
                del self._streams[sequence]
        if not self._streams:
            self._idle.set()

    def _begin_loading(self) -> None:
        self._lifecycle.transition(Residency.LOADING)
        self._commands.put(True)

    def _run_device_thread(self) -> None:
        """The device thread: load, serve and unload the model for each command."""
        try:
            while self._commands.get():
                self._serve_one_model()
        finally:
            self._call_soon(self._stopped.set)

    def _serve_one_model(self) -> None:
        try:
            began = time.monotonic()
            model = self._load()
            self._observe(StartObserved(phase=StartPhase.LOAD, seconds=time.monotonic() - began))
            loop = open_loop(model, self._capacity, self._observe, self._gauge)
            del model  # unloading frees the memory with the loop
        except Exception as error:  # noqa: BLE001 - every loading error is raised by `ready`
            refusal: Exception = error
            if is_fatal(error) and not isinstance(error, DeviceFailed):
                refusal = DeviceFailed(f"the device failed: {error}", retry_after_s=1.0)
            if isinstance(refusal, WorkerError):  # a defect keeps its traceback
                _forget_frames(error)
            self._call_soon(self._refuse_to_start, refusal)
            return
        self._call_soon(self._begin_serving, loop)
        try:
            self._run_until_unload(loop)
            reason = self._shutdown_error()
        except Exception as error:  # noqa: BLE001 - a worker that cannot recover must not go on saying that it is ready
            reason = failure = _failure_of(error)
            self._call_soon(self._fail, failure)
        self._call_soon(self._publish, loop.fault_all(reason))
        del loop
        self._call_soon(self._release_model)

    def _run_until_unload(self, loop: Loop) -> None:
        while not self._should_unload.is_set():
            self._wakeup.clear()
            try:
                self._turn(loop)
            except DeviceFailed:
                raise
            except Exception as error:  # noqa: BLE001 - the thread must survive: running sequences fail, later ones are served
                loop.recover(error)
                self._call_soon(self._set_state, Residency.DEGRADED)

    def _turn(self, loop: Loop) -> None:
        """One step, or one wait while there is no work."""
        if not loop.scheduler.has_work:
            loop.check_memory()
            self._update_state(loop)
            self._wakeup.wait(IDLE_CHECK_S)
            return
        happened = loop.step()
        self._update_state(loop)
        if happened:
            self._call_soon(self._publish, happened)
        if loop.is_suspect:
            loop.check_device()

    def _update_state(self, loop: Loop) -> None:
        """Degraded while memory pressure shrinks the batch; a successful step restores the ready state."""
        state = Residency.DEGRADED if loop.pressure >= Pressure.BATCH else Residency.READY
        if self._lifecycle.state is not state:
            self._call_soon(self._set_state, state)

    def _shutdown_error(self) -> WorkerError:
        if self._lifecycle.state is Residency.EVICTING:
            return NotResident("the weights are being unloaded", retry_after_s=1.0)
        return Draining("the worker is shutting down", retry_after_s=1.0)

    async def _watch_steps(self) -> None:
        """Declare the device as hanging if a step makes no progress, see `StepWatchdog`."""
        while not self._is_hanging:
            loop = self._loop
            await asyncio.sleep(loop.watchdog.tick_s if loop else TICK_S)
            if loop and (silence_s := loop.watchdog.silence_s(time.monotonic())) is not None:
                failure = DeviceHangs(f"a step has made no progress for {silence_s:.0f} s", retry_after_s=1.0)
                self._is_hanging = True
                self._publish(loop.fault_all(failure))
                self._fail(failure)
                for waited_for in (self._evicted, self._stopped):
                    waited_for.set()

    def _refuse_to_start(self, error: Exception) -> None:
        if isinstance(error, DeviceFailed):
            self._fail(error)
        elif self._lifecycle.state is Residency.LOADING:
            self._lifecycle.transition(Residency.COLD)
        self._loaded.set_exception(error)
        self._loaded.exception()  # mark as retrieved: no warning if `ready` is never awaited

    def _fail(self, failure: DeviceFailed) -> None:
        """On the event loop: refuse all requests from now on."""
        self._loop = None
        if self._lifecycle.state is not Residency.DRAINING:
            self._lifecycle.transition(Residency.FAILED)
        if not self._failure.done():
            self._failure.set_result(failure)

    def _begin_serving(self, loop: Loop) -> None:
        self._loop = loop
        if self._allowed_rows is not None:
            loop.set_max_rows(self._allowed_rows)
        if self._lifecycle.state is Residency.LOADING:
            self._lifecycle.transition(Residency.READY)
        self._loaded.set_result(None)

    def _release_model(self) -> None:
        """On the event loop, after the device thread has dropped the model: drop the last reference. Unloading frees
        the memory at once; closing leaves that to the end of the process, because a full collection is slow."""
        self._loop = None
        if self._lifecycle.state is Residency.EVICTING:
            gc.collect()
            try:
                release_cached()
            except RuntimeError as error:  # the driver reports what has happened before
                self._fail(_failure_of(error))
            else:
                self._should_unload.clear()
                self._lifecycle.transition(Residency.COLD)
        self._evicted.set()

    def _set_state(self, state: Residency) -> None:
        if self._lifecycle.state in SERVING:  # it may be draining or unloading by now
            self._lifecycle.transition(state)

    def _call_soon(self, callback: Callable[..., object], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop is closed: nobody is waiting
            self._events.call_soon_threadsafe(callback, *arguments)


def _forget_frames(error: BaseException | None) -> None:
    """Drop the tracebacks of an error and its causes: their frames would keep weights in memory."""
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def _failure_of(error: Exception) -> DeviceFailed:
    if isinstance(error, DeviceFailed):
        return error
    return DeviceFailed(f"the worker cannot recover from an error: {error!r}", retry_after_s=1.0)
