"""Hedge and retry budgets over a real Redis: replicas transfer budget, and never spend more than was earned."""

import asyncio
import socket

import pytest

from tests.gateway.redis_server import RedisServer
from tests.gateway.state.peers import Peer, peers, settle

pytestmark = pytest.mark.anyio


async def share(*several: Peer) -> None:
    """Two rounds of exchanges: balances, then transfers."""
    await settle(*several)
    await settle(*several)


async def test_a_replica_spends_what_another_earned(redis: RedisServer) -> None:
    """100 attempts at one replica earn ten hedges; the other, which earned none, receives half of them."""
    async with peers(redis) as (one, other):
        one.answered(10, 100)
        assert other.hedges() == other.retries() == 0
        await share(one, other)
        assert (other.hedges(), other.retries()) == (5, 5)
        assert (one.hedges(), one.retries()) == (5, 5)
        await share(one, other)
        assert (one.hedges(), other.hedges(), one.retries(), other.retries()) == (0, 0, 0, 0)


async def test_an_idle_replica_transfers_budget_back_to_a_busy_one(redis: RedisServer) -> None:
    async with peers(redis) as (busy, idle):
        busy.answered(10, 100)
        await share(busy, idle)
        made = 0
        for _ in range(8):
            made += busy.hedges()
            await share(busy, idle)
        assert made == 9


async def test_a_flush_creates_and_destroys_no_budget(redis: RedisServer) -> None:
    async with peers(redis) as (one, other):
        one.answered(10, 100)
        await share(one, other)
        for _ in range(3):
            redis.say(b"FLUSHALL")
            await share(one, other)
        assert one.hedges() + other.hedges() == 10


async def test_without_redis_replicas_spend_their_own_budget_and_stay_within_the_share(redis: RedisServer) -> None:
    async with peers(redis) as (one, other):
        one.answered(10, 60)
        await share(one, other)
        redis.stop()
        made = one.hedges() + other.hedges()
        for _ in range(3):
            await share(one)
            assert not one.replica.is_up
            one.answered(10, 20)
            made += one.hedges() + other.hedges()
        assert 6 + 3 <= made <= 0.1 * 120
        redis.start()
        one.answered(10, 40)
        await share(one, other)
        assert one.replica.is_up
        made += one.hedges() + other.hedges()
        assert made == 0.1 * 160  # no budget was lost


async def test_killing_redis_during_a_script_loses_one_exchange_only(redis: RedisServer) -> None:
    async with peers(redis) as (one, other):
        one.answered(10, 100)
        await share(one, other)
        one.answered(10, 100)
        with keep_busy(redis):
            waiting = asyncio.create_task(one.replica.exchange())
            await asyncio.sleep(0.05)  # queued behind the endless script
            assert not waiting.done()
            redis.stop()
            await waiting
        assert not one.replica.is_up
        redis.start()
        await share(one, other)
        assert one.replica.is_up
        assert other.replica.is_up
        assert 10 <= one.hedges() + other.hedges() <= 20


async def test_budget_transferred_to_a_dead_replica_is_not_spent(redis: RedisServer) -> None:
    """The replica may have spent it before it died."""
    async with peers(redis) as (one, other):
        one.answered(10, 100)
        await share(one, other)
        await other.aclose()
        fresh = Peer(redis.url)
        await share(one, fresh)
        assert one.hedges() + fresh.hedges() == 5
        await fresh.aclose()


class keep_busy:  # noqa: N801 - reads as a verb
    """Another client's endless script; it runs once a second request gets no response."""

    def __init__(self, redis: RedisServer) -> None:
        self._socket = socket.create_connection(redis.address)

    def __enter__(self) -> None:
        self._socket.sendall(b'EVAL "while true do end" 0\r\n')
        with socket.create_connection(self._socket.getpeername(), timeout=0.1) as other:
            for _ in range(50):
                other.sendall(b"PING\r\n")
                try:
                    other.recv(64)
                except TimeoutError:
                    return
        raise AssertionError("it went on answering")

    def __exit__(self, *_: object) -> None:
        self._socket.close()
