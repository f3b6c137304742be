"""The composition root: builds a worker from settings and serves it.

Sockets listen before the weights are loaded: meanwhile `/health` reports the state and requests receive 503.
"""

import asyncio
import functools
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import uvloop
from starlette.types import ASGIApp

from diffusion_worker.constraint_service.cache import ConstraintCache
from diffusion_worker.constraint_service.service import ConstraintService
from diffusion_worker.engine.engine import Engine
from diffusion_worker.engine.loop import Capacity
from diffusion_worker.errors import BadSetting, CheckpointBroken
from diffusion_worker.models.checkpoint_source import locate
from diffusion_worker.models.compiler import run_eager_without_compiler
from diffusion_worker.models.interface import DiffusionModel
from diffusion_worker.models.loader import LoadOptions, load
from diffusion_worker.settings import Settings
from diffusion_worker.telemetry.metrics import Meters
from diffusion_worker.telemetry.tracing import open_tracing
from diffusion_worker.text.chat_template import load_chat_template
from diffusion_worker.text.tokenizer import load_tokenizer
from diffusion_worker.types.observations import RefusalObserved
from diffusion_worker.web.admin import build_admin
from diffusion_worker.web.routes import build_routes
from diffusion_worker.web.serving_state import ServingState, Tokenization
from twolane.process.http.byte_budget import ByteBudget
from twolane.process.http.connection import Listener
from twolane.process.http.limits import Broken, HttpLimits, limits_of
from twolane.process.http.server import build_server
from twolane.process.json_log import json_lines
from twolane.process.keys_file import KeysFile
from twolane.process.sockets import raise_descriptor_limit, url_of

Load = Callable[[Settings], tuple[Tokenization, DiffusionModel]]
BACKLOG = 2048
CLOSING_S = 5  # grace period for connections and the device thread, after draining


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """An assembled worker, not yet started."""

    serving_state: ServingState
    app: ASGIApp
    admin: ASGIApp
    is_cold: bool  # start without loading weights
    drain_s: float  # for running requests at shutdown
    limits: HttpLimits  # of client connections


def load_checkpoint(settings: Settings) -> tuple[Tokenization, DiffusionModel]:
    """Load tokenizer, chat template and weights from a folder or the hub. Raises a CheckpointError."""
    folder = locate(settings.checkpoint, settings.revision)
    tokenizer = load_tokenizer(folder)
    words = Tokenization(tokenizer=tokenizer, template=load_chat_template(folder, tokenizer))
    options = LoadOptions(
        device=settings.device,
        device_map=settings.device_map,
        dtype=settings.dtype,
        experts=settings.experts,
        quantised=settings.quantised,
        threads=settings.threads,
        is_exact=settings.exact,
        thresholds=settings.thresholds,
    )
    model = load(folder, options)
    run_eager_without_compiler(model.device.type, _say)
    is_worth_it = model.device.type != "cpu" and not settings.exact
    if settings.compile == "always" or (settings.compile == "auto" and is_worth_it):
        model.compile()
    if tokenizer.size > model.info.vocab_size:
        raise CheckpointBroken(
            f"{folder}: tokenizer.json has {tokenizer.size} tokens, but the model has {model.info.vocab_size}"
        )
    return words, model


def build_worker(settings: Settings, load_both: Load = load_checkpoint) -> Worker:
    """Assemble a worker; its weights are loaded on start. Raises BadSetting or ConfigurationError."""
    meters = Meters(settings.model, _version())

    def load_model() -> DiffusionModel:
        serving_state.tokenization, model = load_both(settings)
        return model

    capacity = Capacity(
        max_num_seqs=settings.max_num_seqs,
        max_waiting=settings.max_waiting,
        max_context=settings.max_context or None,
        memory_limit_bytes=settings.memory_limit_bytes,
        prefix_slots=settings.prefix_slots,
        max_prefill_tokens=settings.max_prefill_tokens,
        max_step_tokens=settings.max_step_tokens or None,
        is_exact=settings.exact,
        step_timeout_s=settings.step_timeout_s,
    )
    serving_state = ServingState(
        model=settings.model,
        version=_version(),
        created=int(time.time()),
        engine=Engine(load_model, capacity, meters.observe),
        meters=meters,
        max_body_bytes=settings.max_body_bytes,
        byte_budget=ByteBudget(settings.max_inflight_bytes, largest=settings.max_body_bytes),
        keys=KeysFile(settings.keys_file, allows_restrictions=False) if settings.keys_file else None,
        open_metrics=settings.open_metrics,
        tracing=open_tracing(os.environ),
        constraint_service=ConstraintService(_store(settings.constraint_cache), observe=meters.observe),
    )
    meters.read_bytes(lambda: serving_state.byte_budget.used)
    return Worker(
        serving_state=serving_state,
        app=build_routes(serving_state),
        admin=build_admin(serving_state, drain_s=settings.drain_s),
        is_cold=settings.cold,
        drain_s=settings.drain_s,
        limits=limits_of(settings),
    )


def serve(settings: Settings, public: socket.socket, admin: socket.socket | None = None) -> None:
    """Serve on bound sockets until a signal arrives. Raises BadSetting or a CheckpointError if the model cannot be
    loaded, and DeviceFailed if the device fails."""
    raise_descriptor_limit()
    worker = build_worker(settings)
    with _logging(settings), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run_worker(worker, public, admin))


async def run_worker(worker: Worker, public: socket.socket, admin: socket.socket | None = None) -> None:
    """Listen while loading; at a signal, reject new requests, let running ones finish, and return. Raises the error of
    loading, or DeviceFailed once the device has failed."""
    engine, leave, hurry = worker.serving_state.engine, asyncio.Event(), asyncio.Event()
    apps = [worker.app, worker.admin] if admin else [worker.app]
    servers = [build_server(app, drain_s=CLOSING_S, listener=listener_of(worker)) for app in apps]
    _listen_to_signals(leave, hurry)
    engine.start(cold=worker.is_cold)
    sockets = [public] + ([admin] if admin else [])
    for each in sockets:
        each.listen(BACKLOG)  # before the line that announces them
    serving = [asyncio.create_task(server.serve(sockets=[each])) for server, each in zip(servers, sockets, strict=True)]
    print(_opening_line(worker, public, admin), flush=True)
    leaving, failing = asyncio.create_task(leave.wait()), asyncio.create_task(engine.failure())
    following = [asyncio.create_task(keys.follow())] if (keys := worker.serving_state.keys) else []
    loading = None if worker.is_cold else asyncio.create_task(_announce(worker))
    try:
        if loading:
            await asyncio.wait([loading, leaving], return_when=asyncio.FIRST_COMPLETED)
            if loading.done():
                loading.result()
        await asyncio.wait([leaving, failing], return_when=asyncio.FIRST_COMPLETED)
        if failing.done():
            raise failing.result()
    finally:
        for task in (leaving, failing, *following, *([loading] if loading else [])):
            task.cancel()
        await _drain(worker, hurry)
        worker.serving_state.running.end()  # the engine has none left: those that read a body, or compile a constraint
        await worker.serving_state.constraint_service.close()
        if worker.serving_state.tracing is not None:
            await asyncio.to_thread(worker.serving_state.tracing.close)
        for server in servers:
            server.should_exit = True
        await asyncio.gather(*serving)
    if engine.is_hanging:  # since the signal
        raise await engine.failure()


def listener_of(worker: Worker) -> Listener:
    """The client connections of one port."""
    state = worker.serving_state

    def on_broken(broken: Broken) -> None:
        state.meters.observe(RefusalObserved(reason=broken.value))

    return Listener(worker.limits, on_broken, budget=state.byte_budget)


async def _drain(worker: Worker, hurry: asyncio.Event) -> None:
    """Let running requests finish. A second ctrl-C ends the drain; also after a failure, because the device thread runs
    until the engine is closed."""
    engine = worker.serving_state.engine
    draining, hurrying = asyncio.create_task(engine.drain(worker.drain_s)), asyncio.create_task(hurry.wait())
    try:
        await asyncio.wait((draining, hurrying), timeout=worker.drain_s, return_when=asyncio.FIRST_COMPLETED)
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSING_S):
                await (engine.close() if hurry.is_set() else draining)
    finally:
        for task in (draining, hurrying):
            task.cancel()
        await asyncio.gather(draining, hurrying, return_exceptions=True)


async def _announce(worker: Worker) -> None:
    await worker.serving_state.engine.ready()
    print(f"twolane worker: {worker.serving_state.model} is ready", flush=True)


def _opening_line(worker: Worker, public: socket.socket, admin: socket.socket | None) -> str:
    state = "cold" if worker.is_cold else "loading"
    admin_url = f" (admin {url_of(admin)})" if admin else ""
    return f"twolane worker: {url_of(public)} is open{admin_url}, {worker.serving_state.model} is {state}"


def _listen_to_signals(leave: asyncio.Event, hurry: asyncio.Event) -> None:
    """SIGTERM and ctrl-C start the drain; a second ctrl-C ends it."""

    def on_interrupt() -> None:
        (hurry if leave.is_set() else leave).set()

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, leave.set)
    loop.add_signal_handler(signal.SIGINT, on_interrupt)


def _logging(settings: Settings) -> AbstractContextManager[None]:
    return json_lines(sys.stderr) if settings.log == "json" else nullcontext()


def _store(folder: Path | None) -> ConstraintCache:
    try:
        return ConstraintCache(folder)
    except OSError as error:
        raise BadSetting(f"--constraint-cache {folder}: {error.strerror or error}") from error


def _say(line: str) -> None:
    print(f"twolane worker: {line}", flush=True)


@functools.cache
def _version() -> str:
    try:
        return metadata.version("twolane")
    except metadata.PackageNotFoundError:  # run from the source tree
        return "0+source"
