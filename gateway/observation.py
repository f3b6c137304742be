"""Opens what observes a gateway: decision log, states of lanes and targets, and the event loop."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from typing import Any, Final

from gateway.policy_files.watch import Policies
from gateway.ports import Clock
from gateway.reliability.loop_lag import LoopLag
from gateway.settings import Settings
from gateway.state.memory import MemoryStore
from gateway.telemetry.decision_json import prompt_event
from gateway.telemetry.decision_log import DecisionLog
from gateway.telemetry.event_log import EventLog, StateLog, states_of
from gateway.telemetry.gauges import lane_gauges
from gateway.telemetry.loop_lag import LoopWatch
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.multiprocess import PUBLISH_EVERY_S, MultiprocessMetrics
from gateway.telemetry.recent_decisions import BatchObserver, Observers, RecentDecisions
from gateway.telemetry.tracing import Tracing, open_tracing
from gateway.types import Plan, Query
from gateway.upstreams.registry import UpstreamRegistry

_LATEST_S: Final = 0.05


def prompt_logger(log: DecisionLog) -> Callable[[Query, Plan], None]:
    """Logs the texts of requests, unless the request or its route is private."""

    def record(query: Query, plan: Plan) -> None:
        if not (query.private or plan.private):
            log.record(prompt_event(query))

    return record


@contextlib.asynccontextmanager
async def watched_states(
    metrics: Metrics, events: EventLog, policies: Policies, state: MemoryStore, clock: Clock, registry: UpstreamRegistry
) -> AsyncIterator[None]:
    """Exports the states of lanes and targets, and logs their changes until the block ends."""
    metrics.gauges.add_source(lane_gauges(lambda: policies.current, state, clock, status_of=registry.status_of))
    states = states_of(
        lambda: policies.current, state, clock, status_of=registry.status_of, last_failure=events.last_failure
    )
    async with background_task(StateLog(states).run()):
        yield


def open_traces(
    stack: contextlib.AsyncExitStack, settings: Settings, metrics: Metrics, observers: list[BatchObserver]
) -> Tracing | None:
    """The tracing that the environment asks for, as a further observer; closed with the stack."""
    tracing = open_tracing(os.environ, replica=settings.replica_name, provider_of=metrics.provider_of)
    if tracing is not None:
        stack.push_async_callback(asyncio.to_thread, tracing.close)
        observers.append(tracing)
    return tracing


def open_log(
    stack: contextlib.AsyncExitStack, settings: Settings, metrics: Metrics, observers: list[BatchObserver]
) -> DecisionLog | None:
    """The decision log that the settings ask for, as a further observer; closed with the stack. Raises
    ConfigurationError."""
    if settings.decision_log is None:
        return None
    max_bytes, keep = settings.decision_log_bytes, settings.decision_log_files
    log = DecisionLog(
        settings.decision_log,
        on_drop=metrics.dropped,
        max_bytes=max_bytes,
        keep=keep,
        replica=settings.replica_name,
    )
    observers.append(stack.enter_context(contextlib.closing(log)))
    return log


def open_observers(
    stack: contextlib.AsyncExitStack,
    batched: list[BatchObserver],
    events: EventLog,
    *,
    metrics: Metrics,
    recent: RecentDecisions,
) -> Observers:
    """All observers as one. What waits for a batch is handed on within a twentieth of a second, before somebody reads
    it, and when the stack is closed: before what was opened earlier."""
    later = partial(asyncio.get_running_loop().call_later, _LATEST_S)
    observers = Observers(batched, metrics.observer_failed, at_once=(events,), later=later)
    recent.before_reading = metrics.before_reading = observers.flush
    stack.callback(observers.flush)
    return observers


def event_logger(log: DecisionLog | None, observers: Observers) -> Callable[[dict[str, Any]], None] | None:
    """Logs events behind the decisions that they may be about; None without a log."""
    if log is None:
        return None

    def record(event: dict[str, Any]) -> None:
        observers.flush()
        log.record(event)

    return record


@contextlib.asynccontextmanager
async def watched_loop(metrics: Metrics) -> AsyncIterator[LoopWatch]:
    """Measures the lag of the running event loop until the block ends."""
    watch = LoopWatch(LoopLag(), metrics.loop_lagged)
    async with background_task(watch.run()):
        yield watch


async def publish_gauges(peers: MultiprocessMetrics, metrics: Metrics) -> None:
    """Publish the gauges of this process to the others until cancelled."""
    with contextlib.closing(peers):
        while True:
            await asyncio.to_thread(peers.publish, metrics.gauges.refresh())
            await asyncio.sleep(PUBLISH_EVERY_S)


@contextlib.asynccontextmanager
async def background_task(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run a coroutine in the background until the block ends."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
