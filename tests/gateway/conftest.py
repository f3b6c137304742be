"""A gateway's parts for tests: a clock that is set by hand, scripted targets, a policy in one line."""

import asyncio
import contextlib
import io
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import orjson
import pytest
import uvicorn
from aiohttp import web

from gateway.app import Gateway, open_gateway
from gateway.core.policy import Policy, Route, When, compile_policy
from gateway.pipeline import Answer, Pipeline
from gateway.records import Decision, Hold, Kind, Place, Query, Slo, Target
from gateway.settings import Settings
from gateway.state.memory import MemoryStore
from gateway.upstreams.scripted import Line, Scripted
from gateway.web.openai import parse_chat


class HandClock:
    """Stands still until told; sleeping moves it."""

    def __init__(self) -> None:
        self.time_s = 1000.0

    def now_s(self) -> float:
        return self.time_s

    def wall_s(self) -> float:
        return 1_700_000_000.0 + self.time_s

    async def sleep(self, seconds: float) -> None:
        self.time_s += seconds
        await asyncio.sleep(0)


@dataclass
class Listener:
    """Every decision that was told."""

    decisions: list[Decision] = field(default_factory=list)

    def decided(self, decision: Decision) -> None:
        self.decisions.append(decision)


@dataclass
class Sent:
    """What a client would have got."""

    texts: list[str]
    data: list[bytes]
    error: Any
    broken: Any
    headers: Decision

    @property
    def text(self) -> str:
        return "".join(self.texts)


@dataclass
class Stage:
    """A pipeline over scripted targets, in the order of one route `main`."""

    clock: HandClock
    listener: Listener
    state: MemoryStore
    targets: dict[str, Scripted]
    policy: Policy
    pipeline: Pipeline

    @property
    def decision(self) -> Decision:
        """The one decision of the one request."""
        assert len(self.listener.decisions) == 1
        return self.listener.decisions[0]

    @property
    def attempts(self) -> dict[str, str]:
        return {attempt.target: str(attempt.outcome) for attempt in self.listener.decisions[-1].attempts}

    def query(self, **body: Any) -> Query:
        headers = body.pop("headers", {})
        document = {"model": "auto", "messages": [{"role": "user", "content": "hello"}], **body}
        return parse_chat(orjson.dumps(document), headers, now_s=self.clock.now_s(), principal=None)

    async def send(self, **body: Any) -> Sent:
        """Ask, read to the end, close."""
        answer = await self.pipeline.answer(self.query(**body))
        try:
            return await self.read(answer)
        finally:
            await answer.aclose()

    async def read(self, answer: Answer) -> Sent:
        sent = Sent([], [], answer.error, None, answer.decision(self.clock.now_s()))
        try:
            if answer.error is None:
                async for delta in answer.deltas():
                    sent.data.append(delta.data)
                    sent.texts += [piece.text for piece in delta.pieces]
        except Exception as fault:
            sent.broken = fault
        return sent


BuildStage = Callable[..., Stage]


@pytest.fixture(scope="session")  # it only hands out a function, so property tests may share it
def stage() -> BuildStage:
    """Build a stage: `stage(fast=[lines], quality=[lines], route={...}, fast_target={...})`."""
    return build_stage


def build_stage(*, route: dict[str, Any] | None = None, draw: float = 0.5, **given: Any) -> Stage:
    clock = HandClock()
    lines = {name: value for name, value in given.items() if not name.endswith("_target")}
    scripted = {name: Scripted(_lines(value), sleep=clock.sleep) for name, value in lines.items()}
    targets = {name: _target(name, given.get(f"{name}_target", {})) for name in scripted}
    names = tuple(targets)
    rule = Route(name="main", when=When(), use=names[0], fall_back=names[1:], check=True, hold=Hold.WHOLE)
    policy = compile_policy(
        content_hash="0123456789abcdef",
        targets=targets,
        target_slos={},
        routes=(replace(rule, **(route or {})),),
    )
    state, listener = MemoryStore(), Listener()
    pipeline = Pipeline(
        policies=_Fixed(policy),
        upstreams=lambda target: scripted[target.name],
        state=state,
        observer=listener,
        clock=clock,
        draw=lambda: draw,
    )
    return Stage(clock, listener, state, scripted, policy, pipeline)


@dataclass
class _Fixed:
    current: Policy


def _lines(value: Line | Iterable[Line]) -> list[Line]:
    return [value] if isinstance(value, Line) else list(value)


def _target(name: str, changes: dict[str, Any]) -> Target:
    """`fast` is a worker, so that a route's min_confidence holds for it; the others are not."""
    plain = Target(
        name=name,
        kind=Kind.WORKER if name in ("fast", "careful") else Kind.OPENAI,
        url=f"http://{name}",
        model=name,
        place=Place.EXTERNAL if name == "quality" else Place.IN_CLUSTER,
    )
    return replace(plain, **changes)


@pytest.fixture
def tight_slo() -> Slo:
    """100 ms, and quick to probe."""
    return Slo(p95_ms=100, window_s=12, probe_every_s=0.5, hold_down_s=1)


@dataclass
class FakeServer:
    """An OpenAI-compatible server on loopback that does what `answer` says; `lost` counts clients that hung up."""

    answer: Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[Any] = field(default_factory=list)
    lost: int = 0
    url: str = ""
    health: dict[str, Any] | None = None
    models: dict[str, Any] | None = None

    async def chat(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(orjson.loads(await request.read()))
        self.headers.append(request.headers)
        try:
            return await self.answer(request, self.bodies[-1])
        except (asyncio.CancelledError, ConnectionError):
            self.lost += 1
            raise

    async def tell_health(self, _: web.Request) -> web.Response:
        return web.json_response(self.health, status=200 if self.health and self.health["state"] == "ready" else 503)

    async def tell_models(self, _: web.Request) -> web.Response:
        return web.json_response(self.models)


@contextlib.asynccontextmanager
async def fake_server(answer: Any = None, *, port: int = 0, **given: Any) -> AsyncIterator[FakeServer]:
    """Serve on a free port, or again on one that was used before."""
    server = FakeServer(answer=answer or says_hello, **given)
    app = web.Application(client_max_size=1 << 26)
    app.router.add_post("/v1/chat/completions", server.chat)
    app.router.add_get("/health", server.tell_health)
    app.router.add_get("/v1/models", server.tell_models)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port, reuse_address=True)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        await runner.cleanup()


def completion(text: str, **usage: Any) -> dict[str, Any]:
    """A whole answer."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    used = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5, **usage}
    return {"id": "c1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": used}


def chunk(text: str) -> bytes:
    """One event of a stream."""
    choice = {"index": 0, "delta": {"content": text}}
    plain = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return b"data: " + orjson.dumps(plain) + b"\n\n"


async def says_hello(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """Whole or streamed, as asked."""
    if not body.get("stream"):
        return web.json_response(completion("hello"))
    stream = await start_stream(request)
    for text in ("hel", "lo"):
        await stream.write(chunk(text))
    await stream.write(b"data: [DONE]\n\n")
    return stream


async def start_stream(request: web.Request) -> web.StreamResponse:
    """The head of a stream of events."""
    stream = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await stream.prepare(request)
    return stream


@dataclass
class RealGateway:
    """A gateway on two free ports, and a client for it."""

    gateway: Gateway
    url: str
    admin_url: str
    client: aiohttp.ClientSession

    async def ask(self, body: Any = None, **headers: str) -> tuple[int, dict[str, str], Any]:
        """POST a chat request; what is not a mapping goes as it is."""
        body = {"model": "auto", "messages": [{"role": "user", "content": "hi"}]} if body is None else body
        data = io.BytesIO(orjson.dumps(body) if isinstance(body, dict) else body)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.client.post(f"{self.url}/v1/chat/completions", data=data, headers=names) as response:
            raw = await response.read()
            is_json = response.content_type == "application/json"
            lowered = {name.lower(): value for name, value in response.headers.items()}
            return response.status, lowered, orjson.loads(raw) if is_json else raw

    async def metrics(self) -> str:
        async with self.client.get(f"{self.admin_url}/metrics") as response:
            return await response.text()


@contextlib.asynccontextmanager
async def real_gateway(tmp_path: Path, policy: str, **settings: Any) -> AsyncIterator[RealGateway]:
    """Serve a policy, written as text, on loopback in this very loop."""
    file = tmp_path / "policy.yaml"
    file.write_text(policy)
    chosen = Settings(port=0, admin_port=0, policy=file, **settings)
    async with open_gateway(chosen) as gateway, contextlib.AsyncExitStack() as stack:
        urls = [await stack.enter_async_context(_served(app)) for app in (gateway.public, gateway.admin)]
        client = await stack.enter_async_context(aiohttp.ClientSession())
        yield RealGateway(gateway, urls[0], urls[1], client)


@contextlib.asynccontextmanager
async def _served(app: Any) -> AsyncIterator[str]:
    bound = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, lifespan="off", log_config=None, ws="none", loop="none", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server._serve([bound]))  # the public door would claim the process's signals
    try:
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.001)
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


@pytest.fixture(scope="session")
def fake() -> Any:
    """A server to stand behind the gateway: `async with fake(answer) as server`."""
    return fake_server


@pytest.fixture
def serving(tmp_path: Path) -> Any:
    """A real gateway: `async with serving(policy_text) as gateway`."""
    return lambda policy, **settings: real_gateway(tmp_path, policy, **settings)


@pytest.fixture(scope="session")
def wire() -> Any:
    """Answers as bytes: `completion`, `chunk`, `start_stream`."""
    return SimpleNamespace(completion=completion, chunk=chunk, start_stream=start_stream, says_hello=says_hello)
