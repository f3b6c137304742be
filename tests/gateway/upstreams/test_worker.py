"""The worker's upstream client: what is sent, and what is read from responses."""

import asyncio
from typing import Any

import orjson
import pytest
from aiohttp import web

from twolane.process.flags import free_port

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["aiohttp", "pooled"])
def http_client(request: pytest.FixtureRequest) -> str:
    """Both clients."""
    client: str = request.param
    return client


POLICY = """
version: 1
targets:
  fast: {kind: worker, url: "%s", model: diffusion, location: in_cluster}
  quality: {kind: openai, engine: openai, url: "%s", model: q, location: external}
routes:
  - {name: default, use: fast, fall_back: quality, deadline_ms: 9000}
"""
READY = {"state": "ready", "predicted_wait_ms": None}


async def test_the_worker_receives_id_trace_and_remaining_deadline(fake: Any, serving: Any) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with fake(health=READY, models={}) as server, serving(POLICY % (server.url, server.url)) as gateway:
        body = {"model": "auto", "messages": [{"role": "user", "content": "x"}], "diffusion": {"steps": 3}}
        _, told, _ = await gateway.ask(body, traceparent=trace, x_twolane_deadline_ms="60000")
    got = server.headers[0]
    assert 0 < int(got["x-twolane-deadline-ms"]) <= 60000
    assert (got["x-request-id"], got["traceparent"]) == (told["x-request-id"], trace)
    assert server.bodies[0]["diffusion"] == {"steps": 3}
    assert server.bodies[0]["model"] == "diffusion"


async def test_the_worker_is_told_the_minimum_confidence_of_its_route(fake: Any, serving: Any) -> None:
    gated = POLICY.replace("deadline_ms: 9000", "deadline_ms: 9000, min_confidence: 0.75")
    async with fake(health=READY, models={}) as server, serving(gated % (server.url, server.url)) as gateway:
        _, headers, _ = await gateway.ask()
    assert server.headers[0]["x-twolane-min-confidence"] == "0.75"
    assert headers["x-twolane-attempts"] == "fast=low_confidence,quality=ok"  # this one reports no confidence
    assert "x-twolane-min-confidence" not in server.headers[1]


async def test_other_servers_receive_id_and_trace_only(fake: Any, serving: Any) -> None:
    async with fake() as gone:
        pass
    async with fake() as server, serving(POLICY % (gone.url, server.url)) as gateway:
        await gateway.ask()
    assert not [name for name in server.headers[0] if "twolane" in name.lower()]


async def test_a_predicted_wait_beyond_the_deadline_skips_the_worker(fake: Any, serving: Any, wire: Any) -> None:
    async def answer(*_: Any) -> web.StreamResponse:
        headers = {"x-twolane-worker-predicted-wait-ms": "60000"}
        return web.json_response(wire.completion("late"), headers=headers)

    busy = {"state": "ready", "predicted_wait_ms": 60000}
    async with (
        fake(answer, health=busy, models={}) as fast,
        fake() as quality,
        serving(POLICY % (fast.url, quality.url)) as gateway,
    ):
        await gateway.ask()
        _, headers, _ = await gateway.ask()
    assert headers["x-twolane-attempts"] == "fast=deadline,quality=ok"


async def test_a_not_resident_response_skips_the_worker_for_the_next_request(fake: Any, serving: Any) -> None:
    async def answer(*_: Any) -> web.StreamResponse:
        return web.Response(status=503, body=orjson.dumps({"error": {"code": "not_resident", "message": "cold"}}))

    cold = {"state": "cold"}
    async with (
        fake(answer, health=cold, models={}) as fast,
        fake() as quality,
        serving(POLICY % (fast.url, quality.url)) as gateway,
    ):
        for _ in range(3):
            _, headers, _ = await gateway.ask()
            assert headers["x-twolane-attempts"] == "fast=not_resident,quality=ok"
    assert len(fast.bodies) <= 1


async def test_a_killed_worker_is_replaced_at_once_and_used_again_after_its_restart(fake: Any, serving: Any) -> None:
    async with fake() as quality:
        port = free_port()
        async with fake(health=READY, models={}, port=port) as first:
            running = serving(POLICY % (first.url, quality.url))
            gateway = await running.__aenter__()
        try:
            for _ in range(12):  # more than enough to open the breaker
                status, headers, _ = await gateway.ask()
                assert (status, headers["x-twolane-target"]) == (200, "quality")
            assert headers["x-twolane-fallback"] in ("circuit_open", "upstream_error")
            async with fake(health=READY, models={}, port=port):
                async with asyncio.timeout(120):
                    while (await gateway.ask())[1]["x-twolane-target"] != "fast":  # noqa: ASYNC110
                        await asyncio.sleep(0.02)
        finally:
            await running.__aexit__(None, None, None)
