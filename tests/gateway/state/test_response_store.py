"""Stored responses are their owner's, expire, and never take more memory than they may."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.state.response_store import MemoryResponseStore, StoredResponse

pytestmark = pytest.mark.anyio


class Clock:
    time_s = 0.0

    def now_s(self) -> float:
        return self.time_s


def made(clock: Clock, max_bytes: int = 10, lifetime_s: float = 60) -> MemoryResponseStore:
    return MemoryResponseStore(max_bytes=max_bytes, max_read_bytes=max_bytes, lifetime_s=lifetime_s, now_s=clock.now_s)


def response(size: int = 2, owner: str | None = "a") -> StoredResponse:
    return StoredResponse(owner=owner, response=b"x" * size, items=b"")


async def test_a_response_is_readable_only_with_the_key_that_wrote_it() -> None:
    store = made(Clock())
    await store.put("r", response())
    assert await store.get("r", "a") is not None
    assert await store.get("r", "b") is None
    assert await store.get("r", None) is None
    assert not await store.delete("r", "b")
    assert await store.delete("r", "a")
    assert await store.get("r", "a") is None


async def test_a_response_expires() -> None:
    clock = Clock()
    store = made(clock, lifetime_s=60)
    await store.put("r", response())
    clock.time_s = 59.0
    assert await store.get("r", "a") is not None
    clock.time_s = 60.0
    assert await store.get("r", "a") is None
    assert store.used_bytes == 0


async def test_a_response_that_is_larger_than_the_store_displaces_no_other() -> None:
    store = made(Clock(), max_bytes=10)
    await store.put("r", response(4))
    await store.put("s", response(11))
    assert await store.get("s", "a") is None
    assert await store.get("r", "a") is not None


async def test_an_item_whose_id_was_used_again_is_found_when_the_older_response_has_gone() -> None:
    store = made(Clock())
    for response_id in ("r", "s"):
        await store.put(response_id, StoredResponse(owner="a", response=b"xx", items=b"", item_ids=("i",)))
    assert await store.delete("r", "a")
    assert await store.responses_of(["i"], "a") == {"i": "s"}


async def test_items_are_found_by_their_ids_with_the_key_that_wrote_them() -> None:
    store = made(Clock())
    await store.put("r", StoredResponse(owner="a", response=b"xx", items=b"", item_ids=("i", "j")))
    assert await store.responses_of(["i", "k"], "a") == {"i": "r"}
    assert await store.responses_of(["i"], "b") == {}
    await store.delete("r", "a")
    assert await store.responses_of(["i"], "a") == {}


@given(st.lists(st.tuples(st.sampled_from("rstuv"), st.integers(0, 12)), max_size=20))
def test_the_newest_responses_that_fit_are_kept(puts: list[tuple[str, int]]) -> None:
    asyncio.run(keep_the_newest(puts))


async def keep_the_newest(puts: list[tuple[str, int]]) -> None:
    store, kept = made(Clock(), max_bytes=10), dict[str, int]()
    for name, size in puts:
        assert await store.put(name, response(size)) is (size <= 10)
        kept.pop(name, None)
        if size <= 10:
            kept[name] = size
        while sum(kept.values()) > 10:
            del kept[next(iter(kept))]
    assert (await store.outputs("rstuv", "a")).keys() == kept.keys()
    assert store.used_bytes == sum(kept.values())
