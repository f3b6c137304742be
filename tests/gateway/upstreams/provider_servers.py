"""Fake servers with the APIs of Anthropic and Google, as documented, on loopback."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Final

import orjson
import pytest
from aiohttp import web

# Looked up without importing it, which would take seconds in every test process.
needs_litellm = pytest.mark.skipif(
    find_spec("litellm") is None, reason="the extra `providers` is not installed; `make providers` installs it"
)
LITELLM_MARKS: Final = [
    needs_litellm,
    pytest.mark.anyio,
    pytest.mark.slow,
    # litellm warns when its event loop ends.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
Handler = Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]


@dataclass
class ProviderServer:
    """`answer` handles both APIs; `requests` are (path, headers, body), `lost` counts clients that disconnected."""

    answer: Handler
    requests: list[tuple[str, dict[str, str], dict[str, Any]]] = field(default_factory=list)
    lost: int = 0
    url: str = ""

    async def take(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.requests.append((request.path_qs, headers, body))
        try:
            return await self.answer(request, body)
        except (asyncio.CancelledError, ConnectionError):
            self.lost += 1
            raise


@contextlib.asynccontextmanager
async def provider_server(answer: Handler) -> AsyncIterator[ProviderServer]:
    """Serve on a free port."""
    server = ProviderServer(answer)
    app = web.Application(client_max_size=1 << 24)
    app.router.add_post("/{path:.*}", server.take)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        await runner.cleanup()


async def start_stream(request: web.Request) -> web.StreamResponse:
    stream = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await stream.prepare(request)
    return stream


def anthropic_events(model: str, *texts: str) -> list[bytes]:
    """A Messages stream: one text block, 12 tokens in and 5 out."""
    message = anthropic_message(model, stop=None)
    pairs: list[tuple[str, dict[str, Any]]] = [
        ("message_start", {"message": message}),
        ("content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}}),
        *(("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": text}}) for text in texts),
        ("content_block_stop", {"index": 0}),
        ("message_delta", {"delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": {"output_tokens": 5}}),
        ("message_stop", {}),
    ]
    return [f"event: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n".encode() for kind, data in pairs]


def anthropic_message(model: str, *blocks: dict[str, Any], stop: str | None = "end_turn") -> dict[str, Any]:
    return {"id": "msg_1", "type": "message", "role": "assistant", "model": model, "content": list(blocks),
            "stop_reason": stop, "stop_sequence": None, "usage": {"input_tokens": 12, "output_tokens": 5}}  # fmt: skip


async def speaks_anthropic(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """Responds with a greeting, whole or streamed."""
    if not body.get("stream"):
        return web.json_response(anthropic_message(body["model"], {"type": "text", "text": "hello"}))
    stream = await start_stream(request)
    for event in anthropic_events(body["model"], "hel", "lo"):
        await stream.write(event)
    return stream


def gemini_answer(text: str, **candidate: Any) -> dict[str, Any]:
    """GenerateContent: 7 tokens in and 3 out."""
    content = {"role": "model", "parts": [{"text": text}]}
    usage = {"promptTokenCount": 7, "candidatesTokenCount": 3, "totalTokenCount": 10}
    return {"candidates": [{"content": content, "index": 0, **candidate}], "usageMetadata": usage}


async def speaks_gemini(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
    """The same in Google's format."""
    if "stream" not in request.path:
        return web.json_response(gemini_answer("hello", finishReason="STOP"))
    stream = await start_stream(request)
    for answer in (gemini_answer("hel"), gemini_answer("lo", finishReason="STOP")):
        await stream.write(f"data: {json.dumps(answer)}\r\n\r\n".encode())
    return stream


CLAUDE, GEMINI = "anthropic/claude-sonnet-4-5", "gemini/gemini-2.5-flash"


def policy(url: str, model: str = CLAUDE, fallback: str = "") -> str:
    provider = {"kind": "litellm", "url": url, "model": model, "engine": "openai", "location": "external"}
    targets: dict[str, Any] = {"provider": {**provider, "key_env": "PROVIDER_KEY"}}
    route: dict[str, Any] = {"name": "default", "use": "provider", "validate": {"schema": "request"}}
    if fallback:
        targets["other"] = {"kind": "openai", "engine": "openai", "url": fallback, "model": "o", "location": "external"}
        route["fall_back"] = ["other"]
    return orjson.dumps({"version": 1, "targets": targets, "routes": [route]}).decode()


def ask(**fields: Any) -> dict[str, Any]:
    return {"model": "auto", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 50, **fields}


def events(body: bytes) -> list[Any]:
    return [orjson.loads(line[6:]) for line in body.split(b"\n\n") if line.startswith(b"data: {")]


def answers(body: Any) -> list[Any]:
    return [body] if isinstance(body, dict) else events(body)
