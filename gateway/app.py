"""Composition root: creates, connects and closes all components, and serves both ports."""

import asyncio
import contextlib
import gc
import logging
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp, Scope

from gateway.classifier.running import RunningClassifier
from gateway.errors import PolicyError
from gateway.observation import (
    background_task,
    event_logger,
    open_log,
    open_observers,
    open_traces,
    prompt_logger,
    publish_gauges,
    watched_loop,
    watched_states,
)
from gateway.pipeline import Pipeline
from gateway.policy_files.limits import budget_problems
from gateway.policy_files.watch import Policies, PolicyWatcher
from gateway.ports import Clock
from gateway.reliability.loop_lag import LoopLag
from gateway.routing.policy import Policy
from gateway.server.public_server import PublicServer
from gateway.server.routes import admin_routes, public_routes
from gateway.server.sockets import bind_both, inherited
from gateway.settings import Settings
from gateway.state.memory import MemoryStore
from gateway.state.redis import shared_state
from gateway.state.redis_address import read_address
from gateway.state.redis_response_store import open_response_store
from gateway.state.response_store import MemoryResponseStore, ResponseStore
from gateway.telemetry import metric_names as names
from gateway.telemetry.event_log import EventLog, log_policy, log_refused_policy
from gateway.telemetry.gauges import Reading
from gateway.telemetry.loop_lag import LoopWatch
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.metrics_folder import FOLDER_VARIABLE
from gateway.telemetry.multiprocess import MultiprocessMetrics
from gateway.telemetry.recent_decisions import BatchObserver, RecentDecisions
from gateway.telemetry.tracing import Tracing, passing
from gateway.upstreams.http_client.limits import ClientLimits
from gateway.upstreams.http_client.pool import PooledClient
from gateway.upstreams.registry import UpstreamRegistry
from gateway.web.apis.feedback_log import FeedbackLog, request_limit
from gateway.web.apis.table import APIS, apis_with
from gateway.web.auth import fairness_key
from gateway.web.chat import GenerationApis
from gateway.web.console.compose import ConsoleContext, OpenConsole, open_console, shared_decisions
from gateway.web.error_boundary import ErrorBoundary
from gateway.web.ingress import Ingress
from gateway.web.protection import Protection
from twolane.process.http.byte_budget import ByteBudget
from twolane.process.http.server import config_of
from twolane.process.keys_file import KeysFile
from twolane.process.running_requests import RunningRequests
from twolane.process.sockets import raise_descriptor_limit, url_of

if TYPE_CHECKING:
    import aiohttp

CLOSING_S = 3.0  # for the last responses, after the drain period
_log = logging.getLogger("gateway")


class SystemWorld:
    """See `ports.World`. `lag` is that of the event loop whose callers use this world. Its methods are those of the
    system: a request asks for the time a dozen times."""

    def __init__(self, lag: LoopLag | None = None) -> None:
        self.now_s = time.monotonic
        self.wall_s = time.time
        self.sample = random.random
        self.stalled_s = (lag or LoopLag()).stalled_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """Two ASGI applications that share one pipeline."""

    public: ASGIApp
    admin: ASGIApp
    ingress: Ingress
    policies: Policies
    watcher: PolicyWatcher
    protection: Protection
    begin_drain: Callable[[], None]  # end the live streams of the console
    end_drain: Callable[[], None]  # end the requests in progress with an error

    def servers(self, *, drain_s: float) -> tuple[PublicServer, PublicServer]:
        """The servers of the public and of the admin port. `drain_s`: time for requests to finish during shutdown."""
        public = config_of(self.public, drain_s=drain_s, listener=self.protection.public_listener(self.ingress.arrive))
        admin = config_of(self.admin, drain_s=drain_s, listener=self.protection.admin_listener())
        return PublicServer(public), PublicServer(admin)


@contextlib.asynccontextmanager
async def open_gateway(settings: Settings) -> AsyncIterator[Gateway]:
    """A complete gateway without its sockets. Raises CannotStart or ConfigurationError."""
    policies = Policies(settings.policy, os.environ)
    async with contextlib.AsyncExitStack() as stack:
        keys = await _open_keys(stack, settings)
        peers = MultiprocessMetrics(Path(folder)) if (folder := os.environ.get(FOLDER_VARIABLE)) else None
        metrics, events = Metrics(peers), EventLog(time.monotonic)
        recent = RecentDecisions(settings.recent_decisions, settings.replica_name)
        stack.callback(metrics.flush)
        batched: list[BatchObserver] = [metrics, recent]
        tracing = open_traces(stack, settings, metrics, batched)
        log = open_log(stack, settings, metrics, batched)
        shared = await stack.enter_async_context(shared_decisions(settings, batched, peers.folder if peers else None))
        observers = open_observers(stack, batched, events, metrics=metrics, recent=recent)
        watch = await stack.enter_async_context(watched_loop(metrics))
        state, clock = MemoryStore(), SystemWorld(watch.lag)
        if is_shared := settings.redis_url is not None:
            await stack.enter_async_context(_shared_state(state, clock, metrics, settings.redis_url, settings))
        _warn_of_budgets(policies.current, is_shared=is_shared)
        registry = _registry(settings, on_return=state.reset_breaker)
        await _open_targets(stack, registry, policies.current)
        metrics.set_policy(policies.current, clock.wall_s())
        await stack.enter_async_context(watched_states(metrics, events, policies, state, clock, registry))
        classifier = await _open_classifier(stack, policies.current, settings)
        pipeline = Pipeline(
            policies=policies,
            classify=classifier,
            upstreams=registry,
            state=state,
            observer=observers,
            world=clock,
        )
        if log and settings.decision_log_prompts:
            pipeline.on_plan = prompt_logger(log)
        stack.push_async_callback(pipeline.aclose)
        on_reload = partial(_on_reload, policies, metrics, registry, is_shared=is_shared)
        watcher = PolicyWatcher(policies, on_reload, prepare_targets=partial(_prepare, registry, classifier))
        await stack.enter_async_context(background_task(watcher.run(settings.policy_watch_s)))
        if peers is not None:
            await stack.enter_async_context(background_task(publish_gauges(peers, metrics)))
        store = await stack.enter_async_context(_response_store(settings, clock))
        generation = _generation(settings, pipeline, clock=clock, tracing=tracing, store=store)
        both: dict[str, Any] = {"policy": lambda: policies.current, "clock": clock}
        feedback = _feedback(event_logger(log, observers), metrics, state=state, **both)
        kept: dict[str, Any] = {"policy": both["policy"], "store": store, "feedback": feedback}
        public = public_routes(generation.routes, status_of=registry.status_of, **kept)
        admin = admin_routes(pipeline=pipeline, metrics=metrics, recent=recent, **both)
        seen = ConsoleContext(settings, keys, policies, state, clock, recent, registry, generation.routes, shared)
        console = await stack.enter_async_context(open_console(seen))
        protection, ingress = _protection(settings, keys, metrics), _ingress(watch, metrics, keys, generation)
        parts: dict[str, Any] = {"policies": policies, "watcher": watcher, "on_status": metrics.responded}
        applications = _Applications(public, admin, console, generation.routes)
        yield _protected(applications, protection, ingress=ingress, on_end=pipeline.stop, **parts)


def _generation(
    settings: Settings, pipeline: Pipeline, *, clock: Clock, tracing: Tracing | None, store: ResponseStore | None
) -> GenerationApis:
    begin = tracing.begin if tracing else passing
    return GenerationApis(pipeline, clock, heartbeat_s=settings.heartbeat_s, begin=begin, apis=apis_with(store))


def _feedback(
    record: Callable[[dict[str, Any]], None] | None,
    metrics: Metrics,
    *,
    policy: Callable[[], Policy],
    state: MemoryStore,
    clock: Clock,
) -> FeedbackLog:
    return FeedbackLog(record, request_limit(policy, state, clock, metrics.key_rate_limited), clock.wall_s)


async def _open_keys(stack: contextlib.AsyncExitStack, settings: Settings) -> KeysFile | None:
    """The API keys, which are followed until the stack closes. Raises ConfigurationError."""
    if settings.keys_file is None:
        return None
    keys = KeysFile(settings.keys_file)
    await stack.enter_async_context(background_task(keys.follow()))
    return keys


async def _open_classifier(stack: contextlib.AsyncExitStack, policy: Policy, settings: Settings) -> RunningClassifier:
    classifier = RunningClassifier(policy.weights)
    await stack.enter_async_context(background_task(classifier.follow(settings.policy_watch_s)))
    return classifier


async def _open_targets(stack: contextlib.AsyncExitStack, registry: UpstreamRegistry, policy: Policy) -> None:
    stack.push_async_callback(registry.aclose)
    registry.set_targets(policy.endpoints)
    await registry.prepare(policy.endpoints)


async def _prepare(registry: UpstreamRegistry, classifier: RunningClassifier, policy: Policy) -> None:
    """Load what a new policy needs. Raises CannotStart."""
    await registry.prepare(policy.endpoints)
    await classifier.use(policy.weights)


def _registry(settings: Settings, *, on_return: Callable[[str], None]) -> UpstreamRegistry:
    """The clients of targets."""
    limits = ClientLimits(connect_s=settings.connect_s)

    def session() -> "aiohttp.ClientSession":
        from gateway.upstreams.http_client.aiohttp_client import open_session

        return open_session(connect_s=settings.connect_s)

    return UpstreamRegistry(
        session,
        on_return,
        plain=PooledClient(limits) if settings.http_client == "pooled" else None,
        health_timeout_s=settings.health_timeout_s,
    )


def _protection(settings: Settings, keys: KeysFile | None, metrics: Metrics) -> Protection:
    budget = ByteBudget(settings.max_inflight_bytes, largest=settings.max_body_bytes)
    metrics.gauges.add_source(lambda: [Reading(names.BYTES_IN_FLIGHT, (), budget.used)])
    return Protection(settings=settings, keys=keys, budget=budget, on_refused=metrics.listener_refused)


@contextlib.asynccontextmanager
async def _response_store(settings: Settings, clock: SystemWorld) -> AsyncIterator[ResponseStore | None]:
    limits: dict[str, Any] = {
        "max_bytes": settings.responses_bytes,
        "max_read_bytes": settings.max_body_bytes,
        "lifetime_s": settings.responses_s,
    }
    if not settings.responses_bytes:
        yield None
    elif settings.responses_store == "redis" and settings.redis_url is not None:
        address = read_address(settings.redis_url, settings.redis_ca_file)
        async with open_response_store(address=address, namespace=settings.redis_namespace, **limits) as store:
            yield store
    else:
        yield MemoryResponseStore(now_s=clock.now_s, **limits)


def _warn_of_budgets(policy: Policy, *, is_shared: bool) -> None:
    if not is_shared and any(limit.is_daily for limit in policy.limits):
        _log.warning("daily budgets are counted by each process alone; set --redis-url to count them together")
    for problem in budget_problems(policy):
        _log.warning(problem)


def _on_reload(
    policies: Policies, metrics: Metrics, registry: UpstreamRegistry, result: bool | PolicyError, *, is_shared: bool
) -> None:
    """Apply a reloaded policy; an invalid one leaves the running policy in place."""
    policy = policies.current
    if isinstance(result, PolicyError):
        metrics.reloaded("refused")
        log_refused_policy(result.message)
        return
    registry.set_targets(policy.endpoints)
    metrics.set_policy(policy, time.time())
    metrics.reloaded("changed" if result else "unchanged")
    if result:
        _warn_of_budgets(policy, is_shared=is_shared)
    log_policy(policy.version, is_changed=result)


def _ingress(watch: LoopWatch, metrics: Metrics, keys: KeysFile | None, generation: GenerationApis) -> Ingress:
    """Where requests to generate wait for the event loop; health checks and other routes do not."""

    def key_of(scope: Scope) -> str:
        return fairness_key(scope, keys.current if keys else None)

    def streams() -> int:
        return generation.streams

    ingress = Ingress(paths=frozenset(APIS), watch=watch, on_shed=metrics.shed, key_of=key_of, streams=streams)
    watch.is_busy, watch.has_streams = lambda: ingress.is_busy, lambda: ingress.has_requests
    return ingress


@contextlib.asynccontextmanager
async def _shared_state(
    state: MemoryStore, clock: SystemWorld, metrics: Metrics, url: str, settings: Settings
) -> AsyncIterator[None]:
    """Share the state with the other replicas until the block ends."""
    address, namespace = read_address(url, settings.redis_ca_file), settings.redis_namespace
    async with shared_state(state, state.budgets, clock, address=address, namespace=namespace) as replica:
        metrics.gauges.add_source(lambda: [Reading(names.STORE_UP, (), replica.is_up)])
        yield


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or ctrl-C, then let running requests finish. Raises CannotStart or ConfigurationError."""
    handed_down = settings.handed_down
    raise_descriptor_limit()
    with contextlib.ExitStack() as sockets:
        bound = inherited(handed_down) if handed_down else bind_both(settings)
        first, admin_socket = (sockets.enter_context(each) for each in bound)
        async with open_gateway(settings) as gateway:
            public, admin = gateway.servers(drain_s=settings.drain_s + CLOSING_S)
            stop = _install_signal_handlers(gateway, (public, admin), drain_s=settings.drain_s)
            if handed_down:
                public.receive_connections(first, on_parent_gone=stop)
                admin.owns_sockets = False
            _tune_garbage_collector()
            print(
                f"twolane serve: {f'process {os.getpid()}' if handed_down else url_of(first)},"
                f" admin {url_of(admin_socket)},"
                f" policy {settings.policy} ({gateway.policies.current.version})",
                flush=True,
            )
            listening = [] if handed_down else [first]
            await asyncio.gather(public.serve(sockets=listening), admin.serve(sockets=[admin_socket]))


def _tune_garbage_collector() -> None:
    """Objects created at startup live forever: exclude them from collection, and collect less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(25_000, 20, 50)


@dataclass(frozen=True, slots=True)
class _Applications:
    public: ASGIApp
    admin: ASGIApp
    console: OpenConsole | None  # on the admin port
    generation: Mapping[str, ASGIApp]  # also in `public`


def _protected(
    apps: _Applications,
    protection: Protection,
    *,
    on_end: Callable[[], None],
    on_status: Callable[[int], None],
    **more: Any,
) -> Gateway:
    """The applications behind their protection. `on_end` is called before the requests in progress are ended,
    `on_status` for every response of the public port."""
    running, direct = RunningRequests(), protection.direct(apps.generation)

    def end_drain() -> None:
        on_end()
        running.end()

    return Gateway(
        public=protection.preflight(ErrorBoundary(protection.public(apps.public), running, on_status, direct)),
        admin=ErrorBoundary(protection.admin(apps.admin, apps.console.app if apps.console else None), running),
        protection=protection,
        begin_drain=apps.console.end if apps.console else _nothing,
        end_drain=end_drain,
        **more,
    )


def _nothing() -> None:
    """Without a console no stream lasts for ever."""


def _install_signal_handlers(
    gateway: Gateway, servers: tuple[PublicServer, ...], *, drain_s: float
) -> Callable[[], None]:
    """Returns the function that stops the servers. A second ctrl-C ends the drain."""

    def stop() -> None:
        if not any(server.should_exit for server in servers):
            gateway.begin_drain()
            loop.call_later(drain_s, gateway.end_drain)
        for server in servers:
            server.stop()

    def interrupt() -> None:
        if any(server.should_exit for server in servers):
            gateway.end_drain()
        stop()

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop)
    loop.add_signal_handler(signal.SIGINT, interrupt)
    if sys.platform != "win32":
        loop.add_signal_handler(signal.SIGHUP, gateway.watcher.request_reload)
    return stop
