"""A gateway on real sockets, assembled by its own composition root, and fake target servers."""

import asyncio
import contextlib
import functools
import io
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import aiohttp
import orjson
from aiohttp import web
from yarl import URL

from gateway.app import Gateway, open_gateway
from gateway.classifier.weights import FILE, open_classifier
from gateway.routing.classify import Classify
from gateway.settings import Settings
from tests.served import served


@dataclass
class FakeServer:
    """An OpenAI-compatible server on loopback that responds with `answer`; `lost` counts clients that disconnected."""

    answer: Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]
    bodies: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    headers: list[Any] = field(default_factory=list)
    lost: int = 0
    url: str = ""
    health: dict[str, Any] | None = None
    models: dict[str, Any] | None = None

    async def chat(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(orjson.loads(await request.read()))
        self.paths.append(request.path)
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
    for path in ("chat/completions", "completions", "embeddings", "decisions", "responses"):
        app.router.add_post(f"/v1/{path}", server.chat)
    app.router.add_post("/tokenize", server.chat)
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


STOP = b'data: {"id":"c1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'


async def says_hello(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """Whole or streamed, as requested; with the call that `function_call` names."""
    if not body.get("stream"):
        answer = completion("hello")
        if isinstance(named := body.get("function_call"), dict):
            answer["choices"][0]["message"]["function_call"] = {**named, "arguments": "{}"}
        return web.json_response(answer)
    stream = await start_stream(request)
    for text in ("hel", "lo"):
        await stream.write(chunk(text))
    await stream.write(STOP + b"data: [DONE]\n\n")
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

    async def ask(
        self, body: Any = None, *, path: str = "/v1/chat/completions", **headers: str
    ) -> tuple[int, dict[str, str], Any]:
        """POST a request, a chat request by default; a body that is not a mapping is sent unchanged."""
        body = {"model": "auto", "messages": [{"role": "user", "content": "hi"}]} if body is None else body
        data = io.BytesIO(json.dumps(body).encode() if isinstance(body, dict) else body)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.client.post(f"{self.url}{path}", data=data, headers=names) as response:
            raw = await response.read()
            is_json = response.content_type == "application/json"
            lowered = {name.lower(): value for name, value in response.headers.items()}
            return response.status, lowered, orjson.loads(raw) if is_json else raw

    async def metrics(self, **headers: str) -> str:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.client.get(f"{self.admin_url}/metrics", headers=names) as response:
            return await response.text()


def classifier(path: Path = FILE) -> Classify:
    """The shipped one is shared by all gateways: reading its weights is most of a gateway's start."""
    return _shipped_classifier() if path == FILE else open_classifier(path)


@functools.cache
def _shipped_classifier() -> Classify:
    return open_classifier()


@contextlib.asynccontextmanager
async def real_gateway(tmp_path: Path, policy: str, **settings: Any) -> AsyncIterator[RealGateway]:
    """Serve a policy, given as text, on loopback in the running event loop."""
    file = tmp_path / "policy.yaml"
    file.write_text(policy)
    # On a busy machine a slow target is still reachable, and headers are complete: no heartbeat precedes them.
    patient = {"connect_s": 60, "health_timeout_s": 60, "heartbeat_s": 0}
    chosen = Settings(**{"port": 0, "admin_port": 0, "policy": file, **patient, **settings})
    async with contextlib.AsyncExitStack() as stack:
        with patch("gateway.classifier.running.open_classifier", classifier):
            gateway = await stack.enter_async_context(open_gateway(chosen))
        urls = await stack.enter_async_context(served(*gateway.servers(drain_s=1)))
        client = await stack.enter_async_context(aiohttp.ClientSession())
        yield RealGateway(gateway, urls[0], urls[1], client)


def two_lanes(fast: str, quality: str, **route: Any) -> str:
    """A policy with the target `fast` first and `quality` as its fallback."""
    return orjson.dumps(
        {
            "version": 1,
            "targets": {
                "fast": {"kind": "openai", "engine": "openai", "url": fast, "model": "f", "location": "in_cluster"},
                "quality": {"kind": "openai", "engine": "openai", "url": quality, "model": "q", "location": "external"},
            },
            "routes": [{"name": "default", "use": "fast", "fall_back": ["quality"], **route}],
        }
    ).decode()


def one_lane(url: str, **route: Any) -> str:
    return orjson.dumps(
        {
            "version": 1,
            "targets": {
                "only": {"kind": "openai", "engine": "openai", "url": url, "model": "m", "location": "in_cluster"}
            },
            "routes": [{"name": "default", "use": "only", **route}],
        }
    ).decode()


def ask(text: str = "hi", **more: Any) -> dict[str, Any]:
    return {"model": "auto", "messages": [{"role": "user", "content": text}], **more}


async def until_known(gateway: RealGateway, target: str) -> None:
    """Wait until the gateway has asked a worker what it can do; before, it takes any worker to be able to do all."""
    async with asyncio.timeout(120):
        while True:
            async with gateway.client.get(f"{gateway.url}/v1/models/{target}") as response:
                if (await response.json())["twolane"]["state"] == "ready":
                    return
            await asyncio.sleep(0.005)


async def last_decision(gateway: Any, headers: dict[str, str]) -> Any:
    """The decision of a request; it is published shortly after the response."""
    url = f"{gateway.admin_url}/admin/decisions/{headers['x-request-id']}"
    async with asyncio.timeout(120):
        while True:
            async with gateway.client.get(url) as response:
                found = await response.json()
            if "outcome" in found:
                return found
            await asyncio.sleep(0.005)


async def until(read: Any, word: str) -> str:
    """Read repeatedly until the text is present: decisions are published shortly after the response."""
    async with asyncio.timeout(120):
        while True:
            page: str = await read()
            if word in page:
                return page
            await asyncio.sleep(0.005)


async def until_closing(url: str) -> None:
    """Wait until a gateway has received its first signal: then no connection begins, which otherwise the kernel does
    within the call, however busy the machine is."""
    address = URL(url)
    async with asyncio.timeout(120):
        while True:
            try:
                socket.create_connection((address.host, address.port), timeout=0.5).close()
            except OSError:
                return
            await asyncio.sleep(0.01)
