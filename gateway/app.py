"""Composition root: the only file that knows every concrete class. Opens and closes all of it, serves both ports."""

import asyncio
import contextlib
import gc
import logging
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.classifier.weights import open_classifier
from gateway.errors import GatewayError, PolicyError
from gateway.pipeline import Pipeline
from gateway.policy_files.watch import Follower, Policies
from gateway.ports import Observer
from gateway.routing.policy import Policy
from gateway.server.sockets import bind_both, inherited, url_of
from gateway.settings import Settings
from gateway.state.memory import MemoryStore
from gateway.state.redis import shared_state
from gateway.telemetry import metric_names as names
from gateway.telemetry.decision_log import DecisionLog
from gateway.telemetry.gauges import Reading, lanes_of
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.multiprocess import FOLDER_VARIABLE, TELL_EVERY_S, MultiprocessMetrics
from gateway.telemetry.recent_decisions import Observers, RecentDecisions
from gateway.telemetry.tracing import open_tracing, passing
from gateway.upstreams.http import open_session
from gateway.upstreams.registry import UpstreamRegistry
from gateway.web.admin import admin_app
from gateway.web.asgi_responses import send_error
from gateway.web.auth import Authenticate, Keys, load_keys
from gateway.web.chat import PATH, ChatCompletions
from gateway.web.connection import KEEP_ALIVE_S, ClientConnection
from gateway.web.routes import HotRoutes, public_app

_log = logging.getLogger("gateway")


class SystemWorld:
    """See `ports.World`."""

    def now_s(self) -> float:
        """Monotonic seconds."""
        return time.monotonic()

    def wall_s(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def sample(self) -> float:
        """From the process's own dice."""
        return random.random()  # noqa: S311 - chance, not a secret


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """Two ASGI applications over one pipeline."""

    public: ASGIApp
    admin: ASGIApp
    policies: Policies
    follower: Follower


@contextlib.asynccontextmanager
async def open_gateway(settings: Settings) -> AsyncIterator[Gateway]:
    """Everything of one gateway but its sockets. Raises CannotStart."""
    keys = load_keys(settings.keys_file) if settings.keys_file else None
    policies = Policies(settings.policy, os.environ)
    async with contextlib.AsyncExitStack() as stack:
        folder = os.environ.get(FOLDER_VARIABLE)
        peers = MultiprocessMetrics(Path(folder)) if folder else None
        metrics, recent = Metrics(peers), RecentDecisions(settings.recent_decisions)
        observers: list[Observer] = [metrics, recent]
        tracing = open_tracing(os.environ)
        if tracing is not None:
            stack.push_async_callback(asyncio.to_thread, tracing.close)
            observers.append(tracing)
        if settings.decision_log is not None:
            observers.append(stack.enter_context(_decision_log(settings, settings.decision_log, metrics)))
        state, clock = MemoryStore(), SystemWorld()
        if settings.redis_url is not None:
            shared = shared_state(state, clock, url=settings.redis_url, namespace=settings.redis_namespace)
            replica = await stack.enter_async_context(shared)
            metrics.gauges.watch(lambda: [Reading(names.STORE_UP, (), replica.is_up)])
        session = open_session(connect_s=settings.connect_s, idle_s=settings.idle_s)
        registry = UpstreamRegistry(session, on_return=state.returned, health_timeout_s=settings.health_timeout_s)
        stack.push_async_callback(registry.aclose)
        registry.keep(policies.current.endpoints)
        await registry.ready(policies.current.endpoints)
        metrics.follow(policies.current, clock.wall_s())
        metrics.gauges.watch(
            lanes_of(lambda: policies.current, state, clock, status_of=lambda target: registry(target).status)
        )
        pipeline = Pipeline(
            policies=policies,
            classify=open_classifier(),
            upstreams=registry,
            state=state,
            observer=Observers(observers, metrics.observer_failed),
            world=clock,
        )
        stack.push_async_callback(pipeline.aclose)
        follower = Follower(
            policies,
            lambda told: _reloaded(told, policies.current, metrics, registry),
            ready=lambda policy: registry.ready(policy.endpoints),
        )
        await stack.enter_async_context(_running(follower.run(settings.policy_watch_s)))
        if peers is not None:
            stack.callback(peers.leave)
            await stack.enter_async_context(_running(_keep_telling(peers, metrics)))
        begin = tracing.begin if tracing else passing
        chat = ChatCompletions(pipeline, clock, max_body_bytes=settings.max_body_bytes, begin=begin)
        public = public_app(lambda: policies.current, lambda target: registry(target).status)
        admin = admin_app(
            policy=lambda: policies.current, pipeline=pipeline, clock=clock, metrics=metrics, recent=recent
        )
        yield Gateway(
            public=_guarded(HotRoutes({PATH: chat}, public), keys),
            admin=_guarded(admin, keys),
            policies=policies,
            follower=follower,
        )


def _reloaded(told: bool | PolicyError, policy: Policy, metrics: Metrics, registry: UpstreamRegistry) -> None:
    """The policy was read again; one that does not load leaves the running one as it is."""
    if isinstance(told, PolicyError):
        metrics.reloaded("refused")
        _log.error("policy not reloaded: %s", told.message)
        return
    registry.keep(policy.endpoints)
    metrics.follow(policy, time.time())
    metrics.reloaded("changed" if told else "unchanged")
    _log.info("policy %s", policy.version)


@contextlib.contextmanager
def _decision_log(settings: Settings, path: Path, metrics: Metrics) -> Iterator[DecisionLog]:
    most_bytes, keep = settings.decision_log_bytes, settings.decision_log_files
    with contextlib.closing(DecisionLog(path, on_drop=metrics.dropped, most_bytes=most_bytes, keep=keep)) as log:
        yield log


async def _keep_telling(peers: MultiprocessMetrics, metrics: Metrics) -> None:
    while True:
        await asyncio.to_thread(peers.tell, metrics.gauges.look())
        await asyncio.sleep(TELL_EVERY_S)


@contextlib.asynccontextmanager
async def _running(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Something that runs beside the requests, and no longer than they."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or ctrl-C; requests under way may finish. Raises CannotStart."""
    handed_down = settings.handed_down
    with contextlib.ExitStack() as sockets:
        bound = inherited(handed_down) if handed_down else bind_both(settings)
        public_socket, admin_socket = (sockets.enter_context(each) for each in bound)
        async with open_gateway(settings) as gateway:
            public, admin = (build_server(app, drain_s=settings.drain_s) for app in (gateway.public, gateway.admin))
            _listen_to_signals(gateway, (public, admin), parent=handed_down[2] if handed_down else None)
            _calm_collector()
            print(
                f"twolane serve: {url_of(public_socket)}, admin {url_of(admin_socket)},"
                f" policy {settings.policy} ({gateway.policies.current.version})",
                flush=True,
            )
            await asyncio.gather(public.serve(sockets=[public_socket]), admin.serve(sockets=[admin_socket]))


def _calm_collector() -> None:
    """What was built at the start lives to the end: look for garbage elsewhere, and not at every few requests."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(25_000, 20, 50)


class Outermost:
    """The last place where an error can be turned into an answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An error nobody expected is logged and answered with 500; behind the first byte it cuts the connection."""
        started = False

        async def watch(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, watch)
        except Exception:  # the outermost place: whatever was not foreseen must still end in exactly one answer
            _log.exception("request failed")
            if started or scope["type"] != "http":
                raise
            await send_error(send, GatewayError("The gateway failed; its log says why."))


def _guarded(app: ASGIApp, keys: Keys | None) -> ASGIApp:
    return Outermost(Authenticate(app, keys))


class _Server(uvicorn.Server):
    """Two servers share one loop, so neither may claim the process's signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them alone."""
        yield


def build_server(app: ASGIApp, *, drain_s: float, keep_alive_s: int = KEEP_ALIVE_S) -> uvicorn.Server:
    """The server of one port. `drain_s` is how long requests may finish when it is told to end."""
    config = uvicorn.Config(
        app,
        loop="none",
        http=ClientConnection,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=keep_alive_s,
        timeout_graceful_shutdown=max(1, round(drain_s)),
    )
    return _Server(config)


def _listen_to_signals(gateway: Gateway, servers: tuple[uvicorn.Server, ...], parent: int | None) -> None:
    """`parent` is readable as soon as the parent process is gone."""

    def leave() -> None:
        for server in servers:
            server.should_exit = True

    def leave_with_parent(pipe: int) -> None:
        loop.remove_reader(pipe)
        leave()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, leave)
    if sys.platform != "win32":
        loop.add_signal_handler(signal.SIGHUP, gateway.follower.ask)
    if parent is not None:
        loop.add_reader(parent, leave_with_parent, parent)
