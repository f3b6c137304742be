"""The whole gateway over real sockets: responses and headers."""

import asyncio
from typing import Any

import orjson
import pytest
from aiohttp import web

from tests.gateway.serving import ask, one_lane

pytestmark = pytest.mark.anyio


async def test_a_response_is_forwarded_byte_for_byte_with_routing_headers(fake: Any, serving: Any, wire: Any) -> None:
    async with fake() as server, serving(one_lane(server.url)) as gateway:
        status, headers, body = await gateway.ask(x_twolane_task="code")
    assert status == 200
    assert body == wire.completion("hello")
    told = {name: value for name, value in headers.items() if name.startswith("x-twolane")}
    policy = told.pop("x-twolane-policy")
    assert len(policy) == 12
    assert told == {
        "x-twolane-task": "code",
        "x-twolane-confidence": "1.00",
        "x-twolane-route": "default",
        "x-twolane-target": "only",
        "x-twolane-attempts": "only=ok",
    }
    assert headers["x-request-id"].startswith("req_")
    assert [part.partition(";")[0] for part in headers["server-timing"].split(", ")] == [
        "classify",
        "queue",
        "upstream",
        "total",
    ]


async def test_a_stream_ends_with_done(fake: Any, serving: Any, wire: Any) -> None:
    async with fake() as server, serving(one_lane(server.url)) as gateway:
        status, headers, body = await gateway.ask(ask(stream=True))
    assert status == 200
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert body == wire.chunk("hel") + wire.chunk("lo") + wire.stop + b"data: [DONE]\n\n"


async def test_twolane_extensions_are_not_forwarded(fake: Any, serving: Any) -> None:
    body = ask(metadata={"task": "chat", "private": "false", "mine": "1"}, diffusion={"steps": 4}, top_k=3)
    async with fake() as server, serving(one_lane(server.url)) as gateway:
        await gateway.ask(body, x_twolane_deadline_ms="60000")
    sent = server.bodies[0]
    assert sent["metadata"] == {"mine": "1"}
    assert "diffusion" not in sent
    assert sent["model"] == "m"
    assert sent["top_k"] == 3  # unknown fields are forwarded
    assert not [name for name in server.headers[0] if name.lower().startswith("x-twolane")]


async def test_a_large_request_reaches_its_target_whole(fake: Any, serving: Any) -> None:
    async with fake() as server, serving(one_lane(server.url)) as gateway:
        assert (await gateway.ask(ask(text="x" * 3_000_000)))[0] == 200
    assert len(server.bodies[0]["messages"][0]["content"]) == 3_000_000


async def test_a_stream_is_forwarded_without_delay(fake: Any, serving: Any, wire: Any) -> None:
    """The first chunk arrives while the target is still waiting."""
    go_on = asyncio.Event()

    async def answer(request: web.Request, _: Any) -> web.StreamResponse:
        stream = await wire.start_stream(request)
        await stream.write(wire.chunk("first"))
        await go_on.wait()
        await stream.write(wire.chunk("second") + b"data: [DONE]\n\n")
        return stream

    async with fake(answer) as server, serving(one_lane(server.url)) as gateway:
        url = f"{gateway.url}/v1/chat/completions"
        async with gateway.client.post(url, data=orjson.dumps(ask(stream=True))) as response:
            assert await response.content.readuntil(b"\n\n") == wire.chunk("first")
            go_on.set()
            assert await response.content.read() == wire.chunk("second") + b"data: [DONE]\n\n"


async def test_connections_to_targets_are_reused(
    fake: Any, serving: Any, wire: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.upstreams.http._LINGER_S", 60.0)
    ports = set()

    async def answer(request: web.Request, body: Any) -> web.StreamResponse:
        ports.add(request.transport.get_extra_info("peername")[1])
        return await wire.says_hello(request, body)

    async with fake(answer) as server, serving(one_lane(server.url)) as gateway:
        for stream in (False, True, False, True):
            await gateway.ask(ask(stream=stream))
    assert len(ports) == 1
