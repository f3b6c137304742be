"""The composition root: settings to a worker, a worker to a serving process.

The only file that knows every concrete class. It listens before the weights are there: while they load, `/health` says
so and requests get their 503 at once.
"""

import asyncio
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from types import FrameType

import uvicorn
import uvloop
from starlette.types import ASGIApp

from diffusion_worker.engine import Engine
from diffusion_worker.errors import CheckpointBroken
from diffusion_worker.loop import Capacity
from diffusion_worker.nets.interface import DiffusionNet
from diffusion_worker.nets.loader import LoadOptions, load, locate
from diffusion_worker.settings import Settings
from diffusion_worker.telemetry import Meters
from diffusion_worker.text.chat_template import load_chat_template
from diffusion_worker.text.tokenizer import load_tokenizer
from diffusion_worker.web.desk import Desk, Words
from diffusion_worker.web.keys import load_keys
from diffusion_worker.web.routes import build_routes

Load = Callable[[Settings], tuple[Words, DiffusionNet]]
KEEP_ALIVE_S = 75  # longer than clients keep idle connections, so that it is they who close them
BACKLOG = 2048
CLOSING_S = 5  # for connections and the engine's thread, beyond the time to drain


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A worker that is put together and not yet started."""

    desk: Desk
    app: ASGIApp


def load_checkpoint(settings: Settings) -> tuple[Words, DiffusionNet]:
    """Words and weights from disk or hub. Raises a CheckpointError."""
    folder = locate(settings.checkpoint)
    tokenizer = load_tokenizer(folder)
    words = Words(tokenizer=tokenizer, template=load_chat_template(folder, tokenizer))
    options = LoadOptions(
        device=settings.device,
        device_map=settings.device_map,
        dtype=settings.dtype,
        experts=settings.experts,
        quantised=settings.quantised,
        threads=settings.threads,
    )
    net = load(str(folder), options)
    if tokenizer.size > net.facts.vocab_size:
        raise CheckpointBroken(
            f"{folder}: tokenizer.json has {tokenizer.size} words, the weights only {net.facts.vocab_size}"
        )
    return words, net


def build_worker(settings: Settings, load_both: Load = load_checkpoint) -> Worker:
    """Everything but the weights. Raises BadSetting."""
    meters = Meters(settings.model)

    def load_net() -> DiffusionNet:
        desk.words, net = load_both(settings)
        return net

    capacity = Capacity(
        max_num_seqs=settings.max_num_seqs,
        max_waiting=settings.max_waiting,
        memory_limit_bytes=settings.memory_limit_bytes,
    )
    desk = Desk(
        model=settings.model,
        version=_version(),
        created=int(time.time()),
        engine=Engine(load_net, capacity, meters.observe),
        meters=meters,
        max_body_bytes=settings.max_body_bytes,
        keys=load_keys(settings.keys_file) if settings.keys_file else None,
    )
    return Worker(desk=desk, app=build_routes(desk))


def serve(settings: Settings, listener: socket.socket) -> None:
    """Serve on a bound socket until told to leave. Raises BadSetting or a CheckpointError when there is nothing to
    serve."""
    worker = build_worker(settings)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run_worker(worker, listener, settings.drain_s))


async def run_worker(worker: Worker, listener: socket.socket, drain_s: float) -> None:
    """Listen and load at the same time; at a signal refuse what comes, let what runs finish, leave. Raises what loading
    raised."""
    engine, leave = worker.desk.engine, asyncio.Event()
    server = _Server(worker.app, leave)
    host, port = listener.getsockname()[:2]
    listener.listen(BACKLOG)
    engine.start()
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    print(f"twolane worker: http://{place} is open, {worker.desk.model} is loading", flush=True)
    leaving = asyncio.create_task(leave.wait())
    loading = asyncio.create_task(_announce(worker))
    try:
        await asyncio.wait((loading, leaving), return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            loading.result()
            await leaving
        with suppress(TimeoutError):
            async with asyncio.timeout(drain_s + CLOSING_S):
                await engine.drain(drain_s)
    finally:
        leaving.cancel()
        loading.cancel()
        server.should_exit = True
        await serving


async def _announce(worker: Worker) -> None:
    await worker.desk.engine.ready()
    print(f"twolane worker: {worker.desk.model} is ready", flush=True)


class _Server(uvicorn.Server):
    """Uvicorn, but the first signal only sets an event: until the engine has drained, new requests get their 503."""

    def __init__(self, app: ASGIApp, leave: asyncio.Event) -> None:
        config = uvicorn.Config(
            app,
            http="httptools",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=CLOSING_S,
        )
        super().__init__(config)
        self._leave = leave
        self._events = asyncio.get_running_loop()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
        """Called by Python between two byte codes of the main thread, hence the detour over the event loop."""
        if self._leave.is_set():
            self.should_exit = self.force_exit = True  # asked twice: do not wait for connections
        self._events.call_soon_threadsafe(self._leave.set)


def _version() -> str:
    try:
        return metadata.version("twolane")
    except metadata.PackageNotFoundError:  # run from the source tree
        return "0+source"
