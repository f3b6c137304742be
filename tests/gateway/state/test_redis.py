"""Replicas over a real Redis: together they count exactly, and nothing that befalls Redis befalls a request."""

import asyncio
import logging
from time import monotonic
from typing import Any

import pytest
from redis.asyncio import Redis

from gateway.enums import BreakerState, LaneState, Reason
from gateway.state.memory import MemoryStore
from gateway.state.redis import shared_state
from gateway.types import Status
from tests.gateway.redis_server import RedisServer
from tests.gateway.state.peers import LANE, Peer, RealClock, peers, settle
from twolane.process.errors import ConfigurationError

pytestmark = pytest.mark.anyio


async def test_what_none_saw_alone_all_see_together(redis: RedisServer) -> None:
    """Five late answers at each of two gateways: neither knows enough, both together do."""
    async with peers(redis) as (one, other):
        one.answered(200, 5)
        other.answered(200, 5)
        assert one.answered(50, 1) == other.answered(50, 1) == []
        await settle(one, other)
        assert one.answered(50, 1) == [Reason.P95_BREACH]
        await settle(one, other)
        assert other.lane is LaneState.EJECTED


async def test_saying_it_again_does_not_count_it_again(redis: RedisServer) -> None:
    async with peers(redis) as (one, other):
        one.answered(200, 4)
        for _ in range(5):
            await settle(one, other)
        assert other.answered(200, 5) == []  # 9 of 9: one short of enough to judge
        assert other.answered(200, 2) == [Reason.P95_BREACH]


async def test_a_gateway_that_was_never_asked_knows_the_benching_at_its_first_request(redis: RedisServer) -> None:
    async with peers(redis) as (one, other):
        assert one.answered(200, 11) == [Reason.P95_BREACH]
        await settle(one, other)
        assert other.answered(50, 1) == [Reason.P95_BREACH]


async def test_an_open_breaker_is_open_everywhere_and_closes_everywhere(redis: RedisServer) -> None:
    async with peers(redis) as (one, other):
        one.answered(10, 5, Reason.UPSTREAM_ERROR)
        await settle(one, other)
        assert other.answered(10, 1) == [Reason.CIRCUIT_OPEN]
        one.store.returned("fast")
        await settle(one, other)
        assert other.breaker is BreakerState.CLOSED
        assert other.answered(10, 1) == []


async def test_deployments_of_other_names_do_not_mix(redis: RedisServer) -> None:
    async with peers(redis, second="elsewhere") as (one, other):
        one.answered(200, 11)
        await settle(one, other)
        assert other.lane is LaneState.SERVING


async def test_a_redis_that_is_gone_leaves_each_to_itself_and_is_rejoined(
    redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gateway")
    async with peers(redis) as (one, other):
        await settle(one, other)
        redis.stop()
        for _ in range(3):
            await settle(one)
        assert not one.replica.is_up
        assert one.answered(200, 11) == [Reason.P95_BREACH]  # local decisions go on
        redis.start()
        await settle(one, other)
        assert one.replica.is_up
        assert other.lane is LaneState.EJECTED
    told = [record.getMessage() for record in caplog.records]
    assert sum("does not answer" in text for text in told) == 2  # once for each of the two, not once a try
    assert told.count("shared state: joined") == 4


async def test_a_redis_that_stands_still_holds_nobody_up(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.state.redis.TIMEOUT_S", 2)
    async with peers(redis) as (one, other):
        await settle(one, other)
        redis.stall()
        waiting = asyncio.create_task(one.replica.exchange())
        await asyncio.sleep(0)  # it waits for Redis from here on
        assert one.answered(200, 11) == [Reason.P95_BREACH]
        assert not waiting.done()
        await waiting
        assert not one.replica.is_up
        redis.go_on()
        await settle(one, other)
        assert one.replica.is_up
        assert other.lane is LaneState.EJECTED


async def test_a_redis_that_forgot_everything_is_told_again(redis: RedisServer) -> None:
    async with peers(redis) as (one, other):
        one.answered(200, 11)
        other.answered(10, 3, Reason.UPSTREAM_ERROR)
        await settle(one, other)
        redis.say(b"FLUSHALL")
        await settle(one, other)
        assert (one.lane, other.lane) == (LaneState.EJECTED, LaneState.EJECTED)
        fresh = Peer(redis.url)
        await settle(fresh)
        await fresh.aclose()
        assert fresh.lane is LaneState.EJECTED


async def test_words_of_another_version_are_left_out(redis: RedisServer) -> None:
    async with peers(redis) as (one, other):
        client = Redis.from_url(redis.url)
        now_ms = (await client.time())[0] * 1000
        await client.hset("{tests}:replicas", "stranger", b"1 %d \x93not a report" % now_ms)
        await client.hset("{tests}:replicas", "vandal", b"nonsense")
        one.answered(200, 11)
        await settle(one, other)
        assert other.lane is LaneState.EJECTED
        assert await client.hexists("{tests}:replicas", "vandal") == 0
        await client.aclose()


async def test_what_was_overtaken_on_its_way_changes_nothing(redis: RedisServer) -> None:
    """A write that waited in a socket of a standing Redis arrives behind its successor."""
    async with peers(redis) as (one, other):
        one.answered(200, 11)
        await one.replica.exchange()
        one.replica._sequence -= 2  # the next one is as old as can be
        one.store = one.replica._reporter = MemoryStore()
        await one.replica.exchange()
        await other.replica.exchange()
        assert other.lane is LaneState.EJECTED


class Stumbling(MemoryStore):
    """Cannot make sense of the first thing it hears."""

    def __init__(self) -> None:
        super().__init__()
        self.stumbled = False

    def merge(self, now_s: float, heard: Any, *, me: str) -> None:
        if heard and not self.stumbled:
            self.stumbled = True
            raise ValueError("no sense")
        super().merge(now_s, heard, me=me)


@pytest.mark.slow
async def test_a_report_that_makes_no_sense_does_not_end_all_sharing(redis: RedisServer) -> None:
    store = Stumbling()
    async with (
        peers(redis) as (one, _),
        shared_state(store, RealClock(), url=redis.url, namespace="tests") as replica,
    ):
        one.answered(200, 11)
        await one.replica.exchange()
        async with asyncio.timeout(120):
            while not (store.stumbled and replica.is_up):  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.02)
        assert store.health(LANE, Status(), monotonic()).lane is LaneState.EJECTED


async def test_a_url_that_is_none_is_refused_without_its_password() -> None:
    with pytest.raises(ConfigurationError, match="TWOLANE_REDIS_URL") as refused:
        async with shared_state(MemoryStore(), RealClock(), url="http://:secret@host:1", namespace="n"):
            pass
    assert "secret" not in str(refused.value)
