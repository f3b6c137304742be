"""Two complete gateways over one Redis: they agree on an ejection, and serve during any failure of Redis."""

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web

from tests.gateway.redis_server import redis_server, until_exchanged
from tests.gateway.serving import RealGateway, completion, fake_server, real_gateway

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


SLO = {"p95_ms": 20, "probe_share": 0, "probe_every_s": 3600}


def policy(fast: str, quality: str) -> str:
    engine = {"kind": "openai", "engine": "openai", "model": "m", "location": "in_cluster"}
    return orjson.dumps(
        {
            "version": 1,
            "targets": {"fast": {**engine, "url": fast}, "quality": {**engine, "url": quality}},
            "routes": [{"name": "default", "use": "fast", "fall_back": ["quality"], "slo": SLO}],
        }
    ).decode()


async def slow(*_: Any) -> web.StreamResponse:
    await asyncio.sleep(0.1)
    return web.json_response(completion("late"))


async def until(gateway: RealGateway, line: str) -> None:
    """Wait until the metrics show it."""
    async with asyncio.timeout(120):
        while line not in await gateway.metrics():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def asked_while(gateway: RealGateway, attempts: str) -> int:
    """Send requests until their attempts are others, a breach of the objective; returns the number before."""
    count = 0
    async with asyncio.timeout(120):
        while (found := (await gateway.ask())[1]["x-twolane-attempts"]) == attempts:
            count += 1
    assert found == "fast=p95_breach,quality=ok"
    return count


async def test_a_benching_at_one_gateway_is_one_at_the_other(tmp_path: Path) -> None:
    with redis_server(tmp_path) as redis:
        async with fake_server(slow) as fast, fake_server() as quality:
            text, (one_place, other_place) = policy(fast.url, quality.url), (tmp_path / "one", tmp_path / "other")
            one_place.mkdir()
            other_place.mkdir()
            async with (
                real_gateway(one_place, text, redis_url=redis.url) as one,
                real_gateway(other_place, text, redis_url=redis.url) as other,
            ):
                await until(one, "twolane_store_up 1.0")
                await until(other, "twolane_store_up 1.0")
                served = await asked_while(one, "fast=ok")
                assert served >= 10  # what the gateway itself delayed, on a busy machine, does not count as late
                await until(other, 'twolane_lane_state{route="default",target="fast"} 2.0')
                _, headers, _ = await other.ask()
                assert headers["x-twolane-fallback"] == "p95_breach"


def hedging(fast: str, quality: str) -> str:
    found = orjson.loads(policy(fast, quality))
    (route,) = found["routes"]
    del route["slo"]
    return orjson.dumps({**found, "routes": [{**route, "hedge": {"after_ms": 150, "max_share": 0.1}}]}).decode()


async def test_two_gateways_share_their_hedges_and_stay_in_the_share_together(tmp_path: Path) -> None:
    """The hedge budget earned at one replica pays for hedges at the other, which alone could not make the first
    nine."""
    took_s = 0.0

    async def takes(*_: Any) -> web.StreamResponse:
        await asyncio.sleep(took_s)
        return web.json_response(completion("hello"))

    with redis_server(tmp_path) as redis:
        async with fake_server(takes) as fast, fake_server() as quality:
            text, (one_place, other_place) = hedging(fast.url, quality.url), (tmp_path / "one", tmp_path / "other")
            one_place.mkdir()
            other_place.mkdir()
            async with (
                real_gateway(one_place, text, redis_url=redis.url) as one,
                real_gateway(other_place, text, redis_url=redis.url) as other,
            ):
                await until(one, "twolane_store_up 1.0")
                await until(other, "twolane_store_up 1.0")
                for _ in range(80):
                    await one.ask()
                await until_exchanged(redis, replicas=2)
                took_s = 0.3
                unhedged = 0
                while "hedge" not in (await other.ask())[1]["x-twolane-attempts"]:
                    unhedged += 1
                    assert unhedged < 9  # alone it could make one after nine
                await asyncio.gather(*(gateway.ask() for gateway in (one, other) for _ in range(12)))
                assert len(quality.bodies) >= 4
                assert len(quality.bodies) <= 0.1 * len(fast.bodies)


async def test_requests_are_served_whatever_befalls_redis(tmp_path: Path) -> None:
    with redis_server(tmp_path) as redis:
        async with (
            fake_server() as fast,
            fake_server() as quality,
            real_gateway(tmp_path, policy(fast.url, quality.url), redis_url=redis.url) as gateway,
        ):
            await until(gateway, "twolane_store_up 1.0")
            for befalls, mends in ((redis.stall, redis.go_on), (redis.stop, redis.start)):
                befalls()
                await until(gateway, "twolane_store_up 0.0")
                assert {(await gateway.ask())[0] for _ in range(5)} == {200}
                mends()
                await until(gateway, "twolane_store_up 1.0")


async def test_a_gateway_starts_without_the_redis_it_is_told_of(tmp_path: Path) -> None:
    async with fake_server() as fast:
        gone = "redis://127.0.0.1:1"
        async with real_gateway(tmp_path, policy(fast.url, fast.url), redis_url=gone) as gateway:
            assert (await gateway.ask())[0] == 200
            assert "twolane_store_up 0.0" in await gateway.metrics()


async def test_without_a_redis_nothing_is_said_of_one(tmp_path: Path) -> None:
    async with fake_server() as fast, real_gateway(tmp_path, policy(fast.url, fast.url)) as gateway:
        assert "twolane_store_up" not in await gateway.metrics()
