"""A fake quality server without latency: answers orders and sentences, whole or as a stream."""

import asyncio
import json
from types import TracebackType
from typing import Any

from aiohttp import web

ORDER = json.dumps({"name": "anna", "qty": 3, "item": "red lamp", "day": "monday"})


class StandIn:
    """`async with StandIn(port):` serves on loopback. With `is_key_expired` it refuses requests that carry a key."""

    def __init__(self, port: int) -> None:
        self.is_key_expired = False
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._answer)
        app.router.add_get("/health", _health)
        self._runner = web.AppRunner(app, access_log=None)
        self._port = port

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if self.is_key_expired and "authorization" in request.headers:
            error = {"message": "The API key has expired.", "code": "invalid_api_key"}
            return web.json_response({"error": error}, status=401)
        return await _answer(request)

    async def __aenter__(self) -> "StandIn":
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()


async def _health(request: web.Request) -> web.Response:
    return web.json_response({"state": "ready"})


async def _answer(request: web.Request) -> web.StreamResponse:
    asked = await request.json()
    text = ORDER if "response_format" in asked else "Fix broken token in api"
    await asyncio.sleep(0.03)
    usage = {"prompt_tokens": 20, "completion_tokens": 12, "total_tokens": 32}
    whole: dict[str, Any] = {"id": "chatcmpl-1", "created": 1, "model": "stand-in"}
    if not asked.get("stream"):
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        return web.json_response({**whole, "object": "chat.completion", "choices": [choice], "usage": usage})
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    for delta, reason in (({"role": "assistant", "content": text}, None), ({}, "stop")):
        choice = {"index": 0, "finish_reason": reason, "delta": delta}
        await _send(response, {**whole, "object": "chat.completion.chunk", "choices": [choice]})
    await _send(response, {**whole, "object": "chat.completion.chunk", "choices": [], "usage": usage})
    await response.write(b"data: [DONE]\n\n")
    return response


async def _send(response: web.StreamResponse, event: dict[str, Any]) -> None:
    await response.write(f"data: {json.dumps(event)}\n\n".encode())
