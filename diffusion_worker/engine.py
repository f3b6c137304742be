"""The only place where asyncio meets the thread that owns the device: submit, publish, abort, drain.

One dedicated thread loads the net and turns the loop; the event loop never waits for a forward pass. Knows no text and
no wire.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from diffusion_worker.errors import Draining, Refused, StepFailed
from diffusion_worker.loop import Capacity, Loop
from diffusion_worker.memory.residency import SERVING, Residence, memory_in_use
from diffusion_worker.nets.interface import DiffusionNet
from diffusion_worker.records import (
    Ask,
    BlockSealed,
    EngineStatus,
    Event,
    NetFacts,
    Observer,
    Outcome,
    RefusalObserved,
    Residency,
    SequenceId,
)
from diffusion_worker.scheduler import Occurrence


class Ticket:
    """One submitted ask: iterate it for events, the last of which is Finished or Faulted. Leaving its context, or being
    cancelled while waiting for an event, aborts the sequence. Belongs to the event loop it was made on."""

    def __init__(self, leave: Callable[[Outcome], None]) -> None:
        self._leave = leave
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._is_over = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        if self._is_over:
            raise StopAsyncIteration
        try:
            event = await self._events.get()
        except asyncio.CancelledError:
            self.abort()
            raise
        self._is_over = not isinstance(event, BlockSealed)
        return event

    def abort(self) -> None:
        """The reader has gone: the sequence takes part in no later step and ends in Faulted(Cancelled)."""
        if not self._is_over:
            self._leave(Outcome.CANCELLED)

    def stop(self) -> None:
        """The reader has enough, e.g. it found a stop string: the sequence ends in Finished(stop)."""
        if not self._is_over:
            self._leave(Outcome.FINISHED)

    def deliver(self, event: Event) -> None:
        """Hand an event to the reader; called by the engine on the event loop."""
        self._events.put_nowait(event)


class Engine:
    """Serves asks from one net. Made, started and used on one event loop; the net lives on a thread of its own."""

    def __init__(
        self, load: Callable[[], DiffusionNet], capacity: Capacity | None = None, observe: Observer | None = None
    ) -> None:
        """`load` runs on the engine's thread; it may take long and may raise a CheckpointError."""
        self._load = load
        self._capacity = capacity or Capacity()
        self._observe: Observer = observe or (lambda _observation: None)
        self._residence = Residence()
        self._loop: Loop | None = None
        self._tickets: dict[SequenceId, Ticket] = {}  # touched on the event loop only
        self._idle = asyncio.Event()  # set when the last ticket has retired
        self._work_came = threading.Event()
        self._is_closing = False
        self._thread = threading.Thread(target=self._own_device, name="device", daemon=True)

    def start(self) -> None:
        """Begin to load and return at once; see `ready`."""
        self._events = asyncio.get_running_loop()
        self._loaded: asyncio.Future[None] = self._events.create_future()
        self._stopped = asyncio.Event()
        self._residence.move(Residency.LOADING)
        self._thread.start()

    async def ready(self) -> None:
        """Return when the net serves. Raises what loading raised: a CheckpointError or BadSetting."""
        await asyncio.shield(self._loaded)

    @property
    def facts(self) -> NetFacts | None:
        """What the net says about itself; None before it is loaded."""
        return self._loop.net.facts if self._loop else None

    def submit(self, ask: Ask) -> Ticket:
        """Accept an ask. Raises NotResident, Draining, OverCapacity, PromptTooLong or OutOfRange."""
        try:
            if refusal := self._residence.refusal():
                raise refusal
            assert self._loop is not None, "a residence that admits has a net"
            sequence = self._loop.add(ask)
        except Refused as refusal:
            self._observe(RefusalObserved(reason=refusal.code))
            raise
        ticket = Ticket(lambda outcome: self._leave(sequence, outcome))
        self._tickets[sequence] = ticket
        self._idle.clear()
        self._work_came.set()
        return ticket

    def status(self) -> EngineStatus:
        """One look, for health and metrics; cheap, and good in every state."""
        loop = self._loop
        wait_s = loop.predicted_wait_s() if loop else None
        used, limit = memory_in_use(loop.net.device if loop else None)
        return EngineStatus(
            state=self._residence.state,
            running=loop.scheduler.running if loop else 0,
            waiting=loop.scheduler.waiting if loop else 0,
            max_num_seqs=loop.limits.max_num_seqs if loop else self._capacity.max_num_seqs,
            predicted_wait_ms=None if wait_s is None else wait_s * 1000.0,
            memory_used_bytes=used,
            memory_limit_bytes=loop.memory_limit_bytes if loop else limit,
            kv_bytes=loop.cache.used_bytes() if loop else 0,
        )

    async def drain(self, timeout_s: float) -> None:
        """Refuse what comes, let what runs finish for at most `timeout_s`, then close."""
        self._residence.move(Residency.DRAINING)
        if self._tickets:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), timeout_s)
        await self.close()

    async def close(self) -> None:
        """End what still runs with Draining and stop the thread; returns when it has stopped."""
        self._residence.move(Residency.DRAINING)
        self._is_closing = True
        self._work_came.set()
        if self._thread.is_alive():
            await self._stopped.wait()
            self._thread.join()

    def _leave(self, sequence: SequenceId, outcome: Outcome) -> None:
        if self._loop:
            self._loop.leave(sequence, outcome)
            self._work_came.set()

    def _publish(self, happened: tuple[Occurrence, ...]) -> None:
        """On the event loop: hand events to their tickets; the last event of a sequence retires its ticket."""
        for sequence, event in happened:
            self._tickets[sequence].deliver(event)
            if not isinstance(event, BlockSealed):
                del self._tickets[sequence]
        if not self._tickets:
            self._idle.set()

    def _own_device(self) -> None:
        """The engine's thread, from loading to closing."""
        try:
            loop = Loop(self._load(), self._capacity, self._observe)
        except Exception as error:  # noqa: BLE001 - whatever loading raises belongs to whoever awaits `ready`
            self._tell(self._refuse_to_start, error)
        else:
            self._tell(self._begin_serving, loop)
            self._turn_until_closed(loop)
        finally:
            self._tell(self._stopped.set)

    def _turn_until_closed(self, loop: Loop) -> None:
        while not self._is_closing:
            self._work_came.clear()
            if not loop.scheduler.has_work:
                self._work_came.wait()
                continue
            try:
                happened = loop.turn()
            except Exception as error:  # noqa: BLE001 - the thread must outlive a defect: its sequences fault, others go on
                loop.fault_all(StepFailed(f"the step failed: {error!r}"))
                self._tell(self._turned, Residency.DEGRADED)
                continue
            if self._residence.state is Residency.DEGRADED:
                self._tell(self._turned, Residency.READY)
            if happened:
                self._tell(self._publish, happened)
        loop.fault_all(Draining("the worker is leaving", retry_after_s=1.0))
        self._tell(self._publish, loop.turn())

    def _refuse_to_start(self, error: Exception) -> None:
        if self._residence.state is Residency.LOADING:
            self._residence.move(Residency.COLD)
        self._loaded.set_exception(error)
        self._loaded.exception()  # retrieved: a caller that never awaits `ready` is not warned about it

    def _begin_serving(self, loop: Loop) -> None:
        self._loop = loop
        if self._residence.state is Residency.LOADING:
            self._residence.move(Residency.READY)
        self._loaded.set_result(None)

    def _turned(self, state: Residency) -> None:
        if self._residence.state in SERVING:  # it may be draining by now
            self._residence.move(state)

    def _tell(self, what: Callable[..., object], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop has gone, and with it everyone who would listen
            self._events.call_soon_threadsafe(what, *arguments)
