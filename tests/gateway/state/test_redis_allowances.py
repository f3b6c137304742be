"""Hedges and retries over a real Redis: what one replica earned another may spend, and never more than was earned."""

import asyncio
import socket

import pytest

from tests.gateway.redis_server import RedisServer
from tests.gateway.state.peers import Peer, peers, settle

pytestmark = pytest.mark.anyio


async def share(*several: Peer) -> None:
    """All hear what each has, and then what each was given."""
    await settle(*several)
    await settle(*several)


async def test_a_replica_spends_what_another_earned(redis: RedisServer) -> None:
    """100 attempts at one earn ten hedges; the other, which earned none, may make half of them."""
    async with peers(redis) as (one, other):
        one.answered(10, 100)
        assert other.hedges() == other.retries() == 0
        await share(one, other)
        assert (other.hedges(), other.retries()) == (5, 5)
        assert (one.hedges(), one.retries()) == (5, 5)
        await share(one, other)
        assert (one.hedges(), other.hedges(), one.retries(), other.retries()) == (0, 0, 0, 0)


async def test_an_idle_replica_gives_back_bit_by_bit_what_a_busy_one_needs(redis: RedisServer) -> None:
    async with peers(redis) as (busy, idle):
        busy.answered(10, 100)
        await share(busy, idle)
        made = 0
        for _ in range(8):
            made += busy.hedges()
            await share(busy, idle)
        assert made == 9


async def test_a_flush_neither_gives_nor_takes_any(redis: RedisServer) -> None:
    async with peers(redis) as (one, other):
        one.answered(10, 100)
        await share(one, other)
        for _ in range(3):
            redis.say(b"FLUSHALL")
            await share(one, other)
        assert one.hedges() + other.hedges() == 10


async def test_while_redis_is_gone_each_spends_its_own_and_together_they_stay_in_the_share(redis: RedisServer) -> None:
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
        assert made == 0.1 * 160  # nothing was lost by it, either


async def test_a_redis_that_is_killed_amid_a_script_costs_no_more_than_the_exchange(redis: RedisServer) -> None:
    async with peers(redis) as (one, other):
        one.answered(10, 100)
        await share(one, other)
        one.answered(10, 100)
        with keep_busy(redis):
            waiting = asyncio.create_task(one.replica.exchange())
            await asyncio.sleep(0.05)  # it stands in the line behind a script that never ends
            assert not waiting.done()
            redis.stop()
            await waiting
        assert not one.replica.is_up
        redis.start()
        await share(one, other)
        assert one.replica.is_up
        assert other.replica.is_up
        assert 10 <= one.hedges() + other.hedges() <= 20


async def test_what_was_given_to_a_replica_that_died_is_not_spent_by_anybody(redis: RedisServer) -> None:
    """It may have been spent before it died: nobody knows."""
    async with peers(redis) as (one, other):
        one.answered(10, 100)
        await share(one, other)
        await other.aclose()
        fresh = Peer(redis.url)
        await share(one, fresh)
        assert one.hedges() + fresh.hedges() == 5
        await fresh.aclose()


class keep_busy:  # noqa: N801 - reads as a verb
    """A script that never ends, begun by somebody else: it has begun when a second one gets no answer."""

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
