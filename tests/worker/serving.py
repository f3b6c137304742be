"""A worker with the toy model, assembled by the product's own composition root, for all tests."""

import asyncio
import atexit
import contextlib
import functools
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from diffusion_worker.app import Worker, build_worker, listener_of
from diffusion_worker.constraint_service import validator_process
from diffusion_worker.constraint_service.compiler_pool import CompilerPool
from diffusion_worker.constraint_service.compiler_process import Compiler
from diffusion_worker.constraint_service.job_pool import JobPool, JobProcess, Times
from diffusion_worker.constraint_service.pipe_framing import Work, read_refusal, respond
from diffusion_worker.engine.engine import Engine
from diffusion_worker.models.toy import ToyModel
from diffusion_worker.settings import Settings
from diffusion_worker.text.chat_template import load_chat_template
from diffusion_worker.text.tokenizer import Tokenizer, load_tokenizer
from diffusion_worker.types.requests import DenoisingParams
from diffusion_worker.web.serving_state import Tokenization
from tests.served import served
from training.vocabulary import save_tokenizer
from twolane.process.http.server import build_server

MODEL = "toy"
READ, VERIFIED = f"{MODEL}:autoregressive", f"{MODEL}:verified"
CHAT = "/v1/chat/completions"
PATIENT = Times(quick_s=300.0, limit_s=300.0, wait_s=300.0)
PLAIN = False  # for httpx's `verify`: loopback speaks plain HTTP, and reading the certificates takes 0.1 s per client


@functools.cache
def toy_words() -> Tokenization:
    """Tokenizer and template of the embedded checkpoint."""
    with tempfile.TemporaryDirectory() as name:
        save_tokenizer(Path(name))
        tokenizer = load_tokenizer(Path(name))
        return Tokenization(tokenizer=tokenizer, template=load_chat_template(Path(name), tokenizer))


def toy_tokenizer() -> Tokenizer:
    return toy_words().tokenizer


def toy_model(answer: str | None = None, **knobs: Any) -> ToyModel:
    """A model that always answers with `answer`, or else repeats the user's text."""
    tokenizer = toy_tokenizer()
    specials = set(tokenizer.specials.values())

    def script(prompt: tuple[int, ...]) -> tuple[int, ...]:
        if answer is not None:
            return tokenizer.encode_plain(answer)
        return tuple(token for token in prompt if token not in specials)

    return ToyModel(
        script, **{"vocab_size": tokenizer.size, "denoising": DenoisingParams(canvas_length=16, steps=16), **knobs}
    )


@functools.cache
def compiled() -> Path:
    """A constraint cache for all workers of this test process. It finds a constraint by its content and vocabulary, so
    no test can tell whether another one had it compiled. Pass `constraint_cache=None` to do without."""
    folder = Path(tempfile.mkdtemp(prefix="twolane-constraints-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


class JobThread(JobProcess):
    """Does the jobs of a process in a thread: a process takes a fifth of a second of processor time to start, and most
    tests would start two. Tests of processes, of their limits and of hostile jobs start processes."""

    def __init__(self, work: Work) -> None:
        super().__init__("none", longest_s=0.0)
        self._work = work

    async def start(self) -> None: ...

    async def ensure_running(self) -> Any: ...

    async def request(self, job: bytes, *_limits: Any, **_more: Any) -> bytes:
        response = await asyncio.to_thread(respond, self._work, job)
        if response[:1] == b"-":
            raise read_refusal(response[1:])
        return response[1:]


@functools.cache
def job_threads() -> tuple[JobThread, JobThread]:
    """A compiler and a validator: the vocabulary is loaded once for all tests of this process."""
    return JobThread(Compiler().work), JobThread(validator_process.work)


def compiling_in_processes() -> CompilerPool:
    """Longer limits, so that a busy machine does not look like a constraint that is too hard."""
    return CompilerPool(compiling=PATIENT, validating=PATIENT)


def compiling_in_threads() -> CompilerPool:
    pool = compiling_in_processes()
    for jobs, thread in zip((pool._compilers, pool._validators), job_threads(), strict=True):
        _let_do(jobs, thread)
    return pool


def _let_do(jobs: JobPool, thread: JobThread) -> None:
    jobs._processes, jobs._idle = (thread,), [thread]


def toy_settings(**given: Any) -> Settings:
    return Settings(**{"checkpoint": "toy", "name": MODEL, "port": 0, "constraint_cache": compiled(), **given})


def build(model: ToyModel, words: Tokenization | None = None, **settings: Any) -> Worker:
    """A worker that is not started. It compiles and validates in threads."""
    worker = build_worker(toy_settings(**settings), lambda _settings: (words or toy_words(), model))
    worker.serving_state.constraint_service._pool = compiling_in_threads()
    return worker


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A running worker and a client."""

    worker: Worker
    model: ToyModel
    client: httpx.AsyncClient

    @property
    def engine(self) -> Engine:
        return self.worker.serving_state.engine

    async def ask(self, text: str = "hello", *, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
        """One chat completion."""
        body = {"model": MODEL, "messages": [{"role": "user", "content": text}], **fields}
        return await self.client.post(CHAT, json=body, headers=headers)


@contextlib.asynccontextmanager
async def serving(model: ToyModel, words: Tokenization | None = None, **settings: Any) -> AsyncIterator[Served]:
    """A loaded worker without a socket."""
    worker = build(model, words, **settings)
    worker.serving_state.engine.start()
    transport = httpx.ASGITransport(app=worker.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://worker") as client:
        try:
            await worker.serving_state.engine.ready()
            model.passes = 0  # without the warm-up
            yield Served(worker=worker, model=model, client=client)
        finally:
            await worker.serving_state.engine.close()
            await worker.serving_state.constraint_service.close()


@contextlib.asynccontextmanager
async def listening(model: ToyModel, words: Tokenization | None = None, **settings: Any) -> AsyncIterator[Served]:
    """The same behind a real socket on a free port."""
    async with serving(model, words, **settings) as inner:
        server = build_server(inner.worker.app, drain_s=60, listener=listener_of(inner.worker))
        async with served(server) as [url], httpx.AsyncClient(base_url=url, timeout=120) as client:
            yield Served(worker=inner.worker, model=model, client=client)


async def until(holds: Callable[[], bool], within_s: float = 120) -> None:
    """Wait until a condition holds; fails the test on a timeout."""
    async with asyncio.timeout(within_s):
        while not holds():  # noqa: ASYNC110 - many kinds of things are waited for
            await asyncio.sleep(0.002)


def events(text: str) -> list[str]:
    """The data of each server-sent event."""
    return [part.removeprefix("data: ") for part in text.split("\n\n") if part]
