"""Replicas over a real Redis: they count exactly together, and a failing Redis fails no request."""

import asyncio
import logging
from time import monotonic
from typing import Any

import pytest
from redis.asyncio import Redis

from gateway.enums import BreakerState, LaneState, Reason
from gateway.reliability.daily_budgets import DailyBudgets
from gateway.state.memory import MemoryStore
from gateway.state.redis import shared_state
from gateway.state.redis_address import read_address
from gateway.types import Status
from tests.gateway.redis_server import RedisServer
from tests.gateway.state.peers import LANE, Peer, RealClock, peers, settle

pytestmark = pytest.mark.anyio


async def test_replicas_eject_a_lane_that_none_would_eject_alone(redis: RedisServer) -> None:
    """Five late responses at each of two replicas: too few for one, enough together."""
    async with peers(redis) as (one, other):
        one.answered(200, 5)
        other.answered(200, 5)
        assert one.answered(50, 1) == other.answered(50, 1) == []
        await settle(one, other)
        assert one.answered(50, 1) == [Reason.P95_BREACH]
        await settle(one, other)
        assert other.lane is LaneState.EJECTED


async def test_repeated_exchanges_do_not_count_twice(redis: RedisServer) -> None:
    async with peers(redis) as (one, other):
        one.answered(200, 4)
        for _ in range(5):
            await settle(one, other)
        assert other.answered(200, 5) == []  # 9 of 9: one response short of a verdict
        assert other.answered(200, 2) == [Reason.P95_BREACH]


async def test_an_idle_replica_knows_the_ejection_at_its_first_request(redis: RedisServer) -> None:
    async with peers(redis) as (one, other):
        assert one.answered(200, 11) == [Reason.P95_BREACH]
        await settle(one, other)
        assert other.answered(50, 1) == [Reason.P95_BREACH]


async def test_a_breaker_opens_and_closes_on_all_replicas(redis: RedisServer) -> None:
    async with peers(redis) as (one, other):
        one.answered(10, 5, Reason.UPSTREAM_ERROR)
        await settle(one, other)
        assert other.answered(10, 1) == [Reason.CIRCUIT_OPEN]
        one.store.reset_breaker("fast")
        await settle(one, other)
        assert other.breaker is BreakerState.CLOSED
        assert other.answered(10, 1) == []


async def test_namespaces_are_separate(redis: RedisServer) -> None:
    async with peers(redis, second="elsewhere") as (one, other):
        one.answered(200, 11)
        await settle(one, other)
        assert other.lane is LaneState.SERVING


async def test_without_redis_replicas_use_local_state_and_rejoin_later(
    redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gateway")
    async with peers(redis) as (one, other):
        await settle(one, other)
        redis.stop()
        for _ in range(3):
            await settle(one)
        assert not one.replica.is_up
        assert one.answered(200, 11) == [Reason.P95_BREACH]  # local state still applies
        redis.start()
        await settle(one, other)
        assert one.replica.is_up
        assert other.lane is LaneState.EJECTED
    messages = [record.getMessage() for record in caplog.records]
    assert sum("does not respond" in text for text in messages) == 2  # once per replica, not once per exchange
    assert messages.count("shared state: joined") == 4
    events = [vars(record).get("fields", {}).get("event") for record in caplog.records]
    assert (events.count("redis_lost"), events.count("redis_joined")) == (2, 4)


async def test_a_stopped_redis_delays_no_request(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.state.redis.TIMEOUT_S", 2)
    async with peers(redis) as (one, other):
        await settle(one, other)
        redis.stall()
        waiting = asyncio.create_task(one.replica.exchange())
        await asyncio.sleep(0)  # from here on it waits for Redis
        assert one.answered(200, 11) == [Reason.P95_BREACH]
        assert not waiting.done()
        await waiting
        assert not one.replica.is_up
        redis.go_on()
        await settle(one, other)
        assert one.replica.is_up
        assert other.lane is LaneState.EJECTED


async def test_an_emptied_redis_is_filled_again(redis: RedisServer) -> None:
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


async def test_snapshots_of_another_version_are_skipped(redis: RedisServer) -> None:
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


async def test_a_write_that_arrives_after_a_newer_one_is_ignored(redis: RedisServer) -> None:
    """A write delayed in the socket of a stopped Redis arrives after its successor."""
    async with peers(redis) as (one, other):
        one.answered(200, 11)
        await one.replica.exchange()
        one.replica._sequence -= 2  # the next write has the oldest sequence number
        one.store = one.replica._reporter = MemoryStore()
        await one.replica.exchange()
        await other.replica.exchange()
        assert other.lane is LaneState.EJECTED


class FailsOnce(MemoryStore):
    """Raises at the first merge."""

    def __init__(self) -> None:
        super().__init__()
        self.has_failed = False

    def merge(self, now_s: float, peers: Any, *, me: str) -> None:
        if peers and not self.has_failed:
            self.has_failed = True
            raise ValueError("no sense")
        super().merge(now_s, peers, me=me)


@pytest.mark.slow
async def test_a_bad_snapshot_does_not_end_sharing(redis: RedisServer) -> None:
    store = FailsOnce()
    async with (
        peers(redis) as (one, _),
        shared_state(store, DailyBudgets(), RealClock(), address=read_address(redis.url), namespace="tests") as replica,
    ):
        one.answered(200, 11)
        await one.replica.exchange()
        async with asyncio.timeout(120):
            while not (store.has_failed and replica.is_up):  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.02)
        assert store.health(LANE, Status(), monotonic()).lane is LaneState.EJECTED


async def test_a_replica_knows_the_state_of_the_others_from_its_start(redis: RedisServer) -> None:
    """Also where its predecessor under another name was the only other replica."""
    async with peers(redis) as (one, _):
        assert one.answered(200, 11) == [Reason.P95_BREACH]
        await one.replica.exchange()
    store = MemoryStore()
    async with shared_state(
        store, DailyBudgets(), RealClock(), address=read_address(redis.url), namespace="tests"
    ) as replica:
        assert replica.is_up
        assert store.health(LANE, Status(), monotonic()).lane is LaneState.EJECTED


async def test_a_replica_starts_without_redis(redis: RedisServer) -> None:
    redis.stop()
    address = read_address(redis.url)
    async with shared_state(MemoryStore(), DailyBudgets(), RealClock(), address=address, namespace="tests") as replica:
        assert not replica.is_up
        redis.start()
        async with asyncio.timeout(120):
            while not replica.is_up:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.02)
