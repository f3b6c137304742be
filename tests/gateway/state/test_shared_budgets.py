"""Daily budgets over a real Redis: replicas count together, and nothing is forgotten or counted twice."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from gateway.policy_types import Limit
from gateway.reliability.daily_budgets import DAY_S, DailyBudgets
from gateway.state.redis import connect
from gateway.state.shared_budgets import SharedBudgets
from tests.gateway.redis_server import RedisServer, redis_server

pytestmark = pytest.mark.anyio
LIMIT = Limit(tokens_per_day=100)


class Clock:
    """Noon of some day."""

    wall = 20_000.5 * DAY_S

    def now_s(self) -> float:
        return self.wall

    def wall_s(self) -> float:
        return self.wall


class Replica:
    """One process."""

    def __init__(self, redis: Redis, clock: Clock) -> None:
        self.clock = clock
        self.budgets = DailyBudgets()
        self.shared = SharedBudgets(self.budgets, clock, redis, namespace="test")

    def spend(self, key: str, tokens: int) -> None:
        self.budgets.add(key, tokens, 0.0, self.clock.wall_s())

    def is_spent(self, key: str) -> bool:
        return self.budgets.wait_s(key, LIMIT, self.clock.wall_s()) > 0


@pytest.fixture
def server(tmp_path: Path) -> AsyncIterator[RedisServer]:
    with redis_server(tmp_path) as server:
        yield server


async def test_replicas_count_together_and_a_restart_forgets_nothing(server: RedisServer) -> None:
    redis, clock = connect(server.url), Clock()
    one, other = Replica(redis, clock), Replica(redis, clock)
    one.spend("ann", 60)
    other.spend("ann", 40)
    for replica in (one, other, one, one):  # exchanging again changes nothing
        replica.is_spent("ann")
        assert await replica.shared.exchange()
    assert one.is_spent("ann")
    assert other.is_spent("ann")
    assert not one.is_spent("bob")
    restarted = Replica(redis, clock)
    assert await restarted.shared.exchange()
    assert restarted.is_spent("ann")
    clock.wall = Clock.wall + DAY_S
    assert not restarted.is_spent("ann")
    await redis.aclose()


async def test_a_request_makes_its_replica_ask_for_what_others_spent(server: RedisServer) -> None:
    redis, clock = connect(server.url), Clock()
    one, other = Replica(redis, clock), Replica(redis, clock)
    tasks = [asyncio.create_task(each.shared.run()) for each in (one, other)]
    one.spend("ann", 100)
    async with asyncio.timeout(120):
        while not other.is_spent("ann"):  # noqa: ASYNC110 - another task exchanges
            await asyncio.sleep(0.01)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await redis.aclose()


async def test_what_was_spent_while_redis_was_away_is_counted_afterwards(server: RedisServer) -> None:
    redis, clock = connect(server.url), Clock()
    one, other = Replica(redis, clock), Replica(redis, clock)
    assert await one.shared.exchange()
    server.stop()
    one.spend("ann", 60)
    assert not await one.shared.exchange()
    one.spend("ann", 40)
    assert one.is_spent("ann")  # the own part needs no Redis
    server.start()
    assert await one.shared.exchange()
    assert await other.shared.exchange()
    assert other.is_spent("ann")
    await redis.aclose()


async def test_a_field_of_another_program_counts_as_nothing(server: RedisServer) -> None:
    redis, clock = connect(server.url), Clock()
    one = Replica(redis, clock)
    one.spend("ann", 1)
    await one.shared.exchange()
    for key in await redis.keys("*ann*"):
        await redis.hset(key, "stranger", "many")
    one.is_spent("ann")
    assert await one.shared.exchange()
    assert not one.is_spent("ann")
    await redis.aclose()
