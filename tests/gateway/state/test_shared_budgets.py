"""Daily budgets over a real Redis: replicas count together, and nothing is forgotten or counted twice."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from gateway.policy_types import Limit
from gateway.reliability.daily_budgets import DAY_S, DailyBudgets, Spent
from gateway.state.redis_client import RedisClient
from gateway.state.shared_budgets import SharedBudgets
from tests.gateway.redis_server import RedisServer, client_of, redis_server

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

    def __init__(self, redis: RedisClient, clock: Clock) -> None:
        self.clock = clock
        self.budgets = DailyBudgets()
        self.shared = SharedBudgets(self.budgets, clock, redis, namespace="test")

    def spend(self, key: str, tokens: int) -> None:
        self.budgets.add(key, tokens, 0.0, self.clock.wall_s())

    def tokens(self, key: str) -> int:
        """What all replicas have spent, as far as this one knows."""
        return self.budgets._totals.get(key, Spent()).tokens

    def is_spent(self, key: str) -> bool:
        return self.budgets.wait_s(key, LIMIT, self.clock.wall_s()) > 0


@pytest.fixture
def server(tmp_path: Path) -> AsyncIterator[RedisServer]:
    with redis_server(tmp_path) as server:
        yield server


@pytest.fixture
async def redis(server: RedisServer) -> AsyncIterator[RedisClient]:
    client = client_of(server.url)
    yield client
    await client.aclose()


@pytest.fixture
async def commands(server: RedisServer) -> AsyncIterator[Redis]:
    async with Redis.from_url(server.url) as client:
        yield client


async def test_replicas_count_together_and_a_restart_forgets_nothing(redis: RedisClient) -> None:
    clock = Clock()
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


@pytest.fixture(name="running")
async def run_replicas(redis: RedisClient) -> AsyncIterator[list[Replica]]:
    """Two replicas that exchange in the background."""
    clock = Clock()
    replicas = [Replica(redis, clock), Replica(redis, clock)]
    tasks = [asyncio.create_task(each.shared.run()) for each in replicas]
    yield replicas
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def total(replica: Replica, key: str, tokens: int) -> None:
    """Wait until the replica knows of this many tokens, without a request of the key."""
    async with asyncio.timeout(120):
        while replica.tokens(key) < tokens:  # noqa: ASYNC110 - another task exchanges
            await asyncio.sleep(0.01)


async def test_a_replica_learns_what_others_spent_before_its_first_request_of_a_key(running: list[Replica]) -> None:
    one, other = running
    await one.shared.exchange()
    one.spend("ann", 100)
    await total(other, "ann", 100)
    assert other.is_spent("ann")


async def test_a_store_that_was_emptied_is_filled_again_and_nobody_forgets(
    server: RedisServer, redis: RedisClient, running: list[Replica]
) -> None:
    """Also what a replica spent that has ended since."""
    one, other = running
    one.spend("ann", 100)
    ended = Replica(redis, one.clock)
    ended.spend("bob", 100)
    assert await ended.shared.exchange()
    await total(other, "ann", 100)
    await total(other, "bob", 100)
    assert server.say(b"FLUSHALL") == b"+OK\r\n"
    started = Replica(redis, one.clock)
    async with asyncio.timeout(120):
        while not (started.tokens("ann") and started.tokens("bob")):
            assert await started.shared.exchange()
    assert [each.tokens(key) for each in (one, other, started) for key in ("ann", "bob")] == [100] * 6


async def test_a_store_that_was_set_back_is_brought_up_to_date(redis: RedisClient, commands: Redis) -> None:
    """A Redis that is restored from an older copy, or replaced by a copy that lagged behind it, has the same keys with
    older contents, to which others may have written before a replica notices."""
    one, other, third = (Replica(redis, Clock()) for _ in range(3))

    async def copy() -> dict[bytes, bytes]:
        return {key: await commands.dump(key) for key in await commands.keys("*")}

    for replica in (one, other):
        replica.spend("ann", 1)
        assert await replica.shared.exchange()
    before = await copy()
    one.spend("ann", 50)
    assert await one.shared.exchange()
    assert await other.shared.exchange()
    ended = Replica(redis, one.clock)
    ended.spend("bob", 100)
    assert await ended.shared.exchange()
    assert await one.shared.exchange()
    for key, contents in before.items():
        await commands.restore(key, 0, contents, replace=True)
    for tokens in (10, 10, 10):  # each is a change, so the count of changes soon exceeds what it was
        other.spend("ann", tokens)
        assert await other.shared.exchange()
    for replica in (one, one, other, third):
        assert await replica.shared.exchange()
    assert [each.tokens("ann") for each in (one, other, third)] == [82] * 3
    assert [each.tokens("bob") for each in (one, other, third)] == [100] * 3


@pytest.mark.parametrize("lost", ["totals", "changes"])
async def test_a_store_that_evicts_one_of_its_keys_is_filled_again(
    redis: RedisClient, commands: Redis, lost: str
) -> None:
    one = Replica(redis, Clock())
    one.spend("ann", 100)
    assert await one.shared.exchange()
    [changes] = await commands.keys("*:changes")
    await commands.delete(changes if lost == "changes" else changes.removesuffix(b":changes"))
    assert await one.shared.exchange()
    assert await one.shared.exchange()
    started = Replica(redis, one.clock)
    assert await started.shared.exchange()
    assert started.is_spent("ann")


async def test_an_unexpected_error_does_not_end_the_exchange(running: list[Replica], monkeypatch: Any) -> None:
    one, other = running
    broken = asyncio.Event()

    def fail() -> Any:
        broken.set()
        monkeypatch.undo()
        raise RuntimeError

    monkeypatch.setattr(one.budgets, "take_changed", fail)
    await broken.wait()
    one.spend("ann", 100)
    await total(other, "ann", 100)


async def test_what_was_spent_while_redis_was_away_is_counted_afterwards(
    server: RedisServer, redis: RedisClient
) -> None:
    clock = Clock()
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


async def test_a_field_of_another_program_counts_as_nothing(redis: RedisClient, commands: Redis) -> None:
    clock = Clock()
    one = Replica(redis, clock)
    one.spend("ann", 1)
    await one.shared.exchange()
    [changes] = await commands.keys("*:changes")
    await commands.zadd(changes, {"stranger ann": 1000})
    await commands.hset(changes.removesuffix(b":changes"), "stranger ann", "many")
    assert await one.shared.exchange()
    assert one.tokens("ann") == 1
