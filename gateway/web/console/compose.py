"""Creates the console of a gateway, and runs what it needs in the background."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from starlette.types import ASGIApp

from gateway.policy_files.watch import Policies
from gateway.ports import Clock
from gateway.settings import Settings
from gateway.state.decision_file import DecisionFile
from gateway.state.decision_stream import TIMEOUT_S, DecisionStream
from gateway.state.memory import MemoryStore
from gateway.state.redis_address import read_address
from gateway.state.redis_client import RedisClient
from gateway.telemetry.recent_decisions import BatchObserver, RecentDecisions
from gateway.upstreams.registry import UpstreamRegistry
from gateway.web.console.guard import ConsoleGuard
from gateway.web.console.history import MAX_ROWS, History, SharedDecisions
from gateway.web.console.lanes import LaneWatch
from gateway.web.console.live import LiveFeed
from gateway.web.console.parts import ConsoleParts, Usage
from gateway.web.console.proposals import Proposals
from gateway.web.console.sessions import Sessions
from twolane.process.http.dispatch import Dispatch
from twolane.process.keys_file import KeysFile


@dataclass(frozen=True, slots=True)
class ConsoleContext:
    """The parts of the gateway that its console shows."""

    settings: Settings
    keys: KeysFile | None
    policies: Policies
    state: MemoryStore
    clock: Clock
    recent: RecentDecisions
    registry: UpstreamRegistry
    apis: Mapping[str, ASGIApp]
    shared: SharedDecisions | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenConsole:
    """`app` is the ASGI application below `/console`; `end` ends its streams, which would last for ever."""

    app: ASGIApp
    end: Callable[[], None]


@contextlib.asynccontextmanager
async def shared_decisions(
    settings: Settings, observers: list[BatchObserver], folder: Path | None
) -> AsyncIterator[SharedDecisions | None]:
    """Share decisions until the block ends, with one more of the `observers`: through Redis, or between the processes
    of this gateway, in their `folder`. None for a single process without Redis, or without a console."""
    stream: DecisionStream | DecisionFile
    async with contextlib.AsyncExitStack() as stack:
        if settings.console == "off" or (settings.redis_url is None and folder is None):
            yield None
            return
        if settings.redis_url is not None:
            redis = RedisClient(read_address(settings.redis_url, settings.redis_ca_file), timeout_s=TIMEOUT_S)
            stack.push_async_callback(redis.aclose)
            stream = DecisionStream(redis, namespace=settings.redis_namespace, capacity=MAX_ROWS)
            shared = SharedDecisions(stream, settings.replica_name)
        else:
            assert folder is not None
            stream = DecisionFile(folder, capacity=MAX_ROWS)
            stack.push_async_callback(stream.aclose)
            shared = SharedDecisions(stream, settings.replica_name, scope="gateway")
        observers.append(shared)
        async with shared.sharing():
            yield shared


@contextlib.asynccontextmanager
async def open_console(context: ConsoleContext) -> AsyncIterator[OpenConsole | None]:
    """The console until the block ends; None if it is switched off."""
    if context.settings.console == "off":
        yield None
        return
    policies, clock, state = context.policies, context.clock, context.state
    lanes = LaneWatch(policy=lambda: policies.current, state=state, clock=clock, status_of=context.registry.status_of)
    history = History(recent=context.recent, shared=context.shared)
    feed = LiveFeed(history=history, lanes=lanes, version=lambda: policies.current.version)
    sessions = _sessions(context)
    usage = Usage(
        quota=lambda name, limit: state.quota(name, limit, clock.now_s()),
        spent=lambda name: state.budgets.spent(name, clock.wall_s()),
    )
    parts = ConsoleParts(
        policy=lambda: policies.current,
        history=history,
        feed=feed,
        proposals=Proposals(path=policies.path, environment=os.environ),
        usage=usage,
        current_keys=sessions.keys if sessions else None,
        sessions=sessions,
        apis=context.apis,
        trace_url=context.settings.trace_url,
        public_url=f"http://{context.settings.host}:{context.settings.port}",
    )
    watching = asyncio.create_task(lanes.run(), name="lanes of the console")
    try:
        yield OpenConsole(app=ConsoleGuard(Dispatch({}, lambda: _app(parts)), sessions), end=feed.end)
    finally:
        feed.end()
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


def _app(parts: ConsoleParts) -> ASGIApp:
    """Imported when the console is first opened."""
    from gateway.web.console.app import Console

    return Console(parts)


def _sessions(context: ConsoleContext) -> Sessions | None:
    keys, secret = context.keys, context.settings.console_secret
    if keys is None:
        return None
    given = {"secret": secret.encode()} if secret else {}
    return Sessions(keys=lambda: keys.current, wall_s=context.clock.wall_s, **given)
