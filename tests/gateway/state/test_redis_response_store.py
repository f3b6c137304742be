"""Stored responses in a real Redis are their owner's, expire, are bounded, and survive what Redis loses."""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from redis.asyncio import Redis

from gateway.errors import StoreUnavailable
from gateway.state import redis_response_store as product
from gateway.state.redis_address import read_address
from gateway.state.redis_response_store import RedisResponseStore, open_response_store
from gateway.state.response_store import ReadTooLarge, StoredResponse
from tests.gateway.redis_server import RedisServer

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine must not look like a stopped Redis."""
    monkeypatch.setattr(product, "TIMEOUT_S", 60)
    monkeypatch.setattr(product, "PUT_S", 60)


def opened(redis: RedisServer, **limits: Any) -> Any:
    given = {"max_bytes": 10, "max_read_bytes": 100, "lifetime_s": 60.0, **limits}
    return open_response_store(address=read_address(redis.url), namespace="n", **given)


@pytest.fixture
async def store(redis: RedisServer) -> AsyncIterator[RedisResponseStore]:
    async with opened(redis) as made:
        yield made


def response(size: int = 2, owner: str | None = "a", *item_ids: str) -> StoredResponse:
    return StoredResponse(owner=owner, response=b"x" * (size - size // 2), items=b"y" * (size // 2), item_ids=item_ids)


async def test_a_replica_reads_what_another_wrote_with_the_same_key_only(
    store: RedisResponseStore, redis: RedisServer
) -> None:
    assert await store.put("r", response(4, "a", "i"))
    async with opened(redis) as other:
        found = await other.get("r", "a")
        assert found is not None
        assert (found.response, found.items) == (b"xx", b"yy")
        outputs = await other.outputs(["r", "s"], "a")
        assert {each: stored.response for each, stored in outputs.items()} == {"r": b"xx"}
        assert await other.responses_of(["i", "k"], "a") == {"i": "r"}
        for owner in ("b", None, "A", "any"):
            assert await other.get("r", owner) is None
            assert await other.outputs(["r"], owner) == {}
            assert await other.responses_of(["i"], owner) == {}
            assert not await other.delete("r", owner)
        assert await other.delete("r", "a")
    assert await store.get("r", "a") is None


async def test_a_response_expires(redis: RedisServer) -> None:
    async with opened(redis, lifetime_s=1.0) as store, asyncio.timeout(120):  # the sizes expire as soon
        await store.put("r", response())
        while await store.get("r", "a") is not None:  # noqa: ASYNC110 - Redis has no event for it
            await asyncio.sleep(0.005)
        await store.put("s", response(10))  # the first counts no longer
        assert await used(redis) == 10


async def test_the_newest_responses_that_fit_are_kept(store: RedisResponseStore, redis: RedisServer) -> None:
    """As in memory; also when the index or the sizes are evicted at any moment."""
    kept: dict[str, int] = {}
    rng = random.Random(7)
    async with Redis.from_url(redis.url) as client:
        for _ in range(60):
            name, size = rng.choice("rstuv"), rng.randint(1, 12)
            assert await store.put(name, response(size)) is (size <= 10)
            if size <= 10:
                kept.pop(name, None)
                kept[name] = size
            while sum(kept.values()) > 10:
                del kept[next(iter(kept))]
            if rng.random() < 0.2:
                await store.delete(gone := rng.choice("rstuv"), "a")
                kept.pop(gone, None)
            assert (await store.outputs("rstuv", "a")).keys() == kept.keys()
            assert await used(redis) == sum(kept.values())
            if rng.random() < 0.2:
                await client.delete("{n}:responses:sizes")
                await store.delete("none", "a")


async def test_an_evicted_index_does_not_fill_the_store_for_ever(store: RedisResponseStore, redis: RedisServer) -> None:
    await store.put("r", response(8))
    async with Redis.from_url(redis.url) as client:
        await client.delete("{n}:responses:index")
    await store.put("s", response(9))
    await store.put("t", response(1))
    assert (await store.outputs(["s", "t"], "a")).keys() == {"s", "t"}
    assert await used(redis) == 10


async def test_one_request_cannot_read_more_than_it_may(redis: RedisServer) -> None:
    async with opened(redis, max_bytes=1000, max_read_bytes=100) as store:
        assert not await store.put("big", response(101))
        for name in "rst":
            await store.put(name, response(80))
        assert len(await store.outputs(["r", "s"], "a")) == 2
        with pytest.raises(ReadTooLarge):
            await store.outputs(["r", "s", "t"], "a")


async def test_the_locations_of_a_response_are_stored_with_it(store: RedisResponseStore) -> None:
    for name, locations in (("r", frozenset({"eu", "on-prem"})), ("s", None)):
        await store.put(name, replace(response(), locations=locations))
        found, outputs = await store.get(name, "a"), await store.outputs([name], "a")
        assert found is not None
        assert (found.locations, outputs[name].locations) == (locations, locations)


async def test_without_redis_nothing_is_kept_and_what_is_referred_to_is_not_missing(redis: RedisServer) -> None:
    async with opened(redis) as store:
        assert await store.put("r", response())
        assert store.is_up
        redis.stop()
        assert not await store.put("s", response())
        assert not store.is_up
        for attempt in (store.get("r", "a"), store.delete("r", "a"), store.responses_of(["i"], "a")):
            with pytest.raises(StoreUnavailable):
                await attempt
        redis.start()
        await until_up(store)
        assert await store.put("s", response())


async def test_writes_wait_a_moment_for_a_redis_that_hangs_and_later_calls_do_not(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(product, "PUT_S", 0.5)
    async with opened(redis) as store:
        assert await store.put("r", response())
        redis.stall()
        writes = asyncio.gather(*(store.put("s", response()) for _ in range(9)))
        assert await asyncio.wait_for(writes, 50) == [False] * 9  # of a Redis whose timeout is 60 s
        with monkeypatch.context() as patched:
            patched.setattr(store._redis, "calling", lambda timeout_s: pytest.fail("waits for Redis"))
            assert not await store.put("s", response())
            with pytest.raises(StoreUnavailable):
                await store.get("r", "a")
        redis.go_on()
        await until_up(store)
        assert await store.put("s", response())


async def until_up(store: RedisResponseStore) -> None:
    async with asyncio.timeout(120):
        while not store.is_up:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.02)


async def used(redis: RedisServer) -> int:
    async with Redis.from_url(redis.url) as client:
        return int(await client.hget("{n}:responses:sizes", "total") or 0)
