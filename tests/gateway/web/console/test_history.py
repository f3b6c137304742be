"""Decisions of all replicas through a real Redis, and of one process without it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

from gateway.decision import AttemptRecord, Decision
from gateway.enums import Reason, Task
from gateway.state import decision_stream as product
from gateway.state.decision_file import DecisionFile
from gateway.state.decision_stream import DecisionStream
from gateway.telemetry.recent_decisions import RecentDecisions
from gateway.types import Classification
from gateway.web.console.documents import record_of, row_of, row_of_record
from gateway.web.console.history import History, SharedDecisions
from tests.gateway.redis_server import RedisServer, client_of, redis_server

pytestmark = pytest.mark.anyio


@pytest.fixture(name="redis")
def running_redis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisServer]:
    monkeypatch.setattr(product, "TIMEOUT_S", 60)
    with redis_server(tmp_path) as server:
        yield server


def decision(number: int) -> Decision:
    kind = Classification(task=Task.CHAT, confidence=1.0, evidence="default")
    fields: dict[str, Any] = {"principal": None, "route": "default", "private": False, "stream": False}
    return Decision(time_s=1e9 + number, query_id=f"req_{number}", policy="p", classification=kind, **fields)


Replica = tuple[RecentDecisions, SharedDecisions, History]


@pytest.fixture(name="replica")
async def make_replica(redis: RedisServer) -> AsyncIterator[Callable[[], Replica]]:
    clients = []

    def build() -> Replica:
        recent = RecentDecisions(10)
        clients.append(client_of(redis.url))
        shared = SharedDecisions(DecisionStream(clients[-1], namespace="n", capacity=100))
        return recent, shared, History(recent=recent, shared=shared)

    yield build
    for client in clients:
        await client.aclose()


def ids(history: History) -> list[str]:
    return [record["id"] for record in history.records(100)]


async def test_every_replica_lists_the_decisions_of_all(replica: Callable[[], Replica]) -> None:
    (_, one, first), (_, two, second) = replica(), replica()
    one.decided_all([decision(1)])
    await one.share()
    two.decided_all([decision(2)])
    await two.share()
    for history in (first, second):
        await history.refresh()
        assert (ids(history), history.scope, history.count) == (["req_1", "req_2"], "replicas", 2)
        assert (history.record("req_1") or {})["route"] == "default"
    one.decided_all([decision(3)])
    await one.share()
    await second.refresh()
    rows, seen = await second.rows_after(2)
    assert ([row[1] for row in rows], seen) == (["req_3"], 3)


async def test_pages_that_read_at_once_count_each_decision_once(replica: Callable[[], Replica]) -> None:
    _, shared, history = replica()
    for number in range(3):
        shared.decided_all([decision(number)])
    await shared.share()
    await asyncio.gather(*(history.refresh() for _ in range(5)))
    assert (history.count, len(ids(history))) == (3, 3)


async def test_the_stream_is_bounded_and_expires(redis: RedisServer, replica: Callable[[], Replica]) -> None:
    _, shared, _ = replica()
    for batch in range(5):
        for number in range(100):
            shared.decided_all([decision(batch * 100 + number)])
        await shared.share()
    async with Redis.from_url(redis.url) as client:
        assert 100 <= await client.xlen("{n}:decisions") < 300, "trimmed in whole nodes"
        assert 0 < await client.ttl("{n}:decisions") <= product.KEEP_S


async def test_without_redis_the_process_lists_its_own(
    redis: RedisServer, replica: Callable[[], Replica], monkeypatch: pytest.MonkeyPatch
) -> None:
    recent, shared, history = replica()
    recent.decided_all([decision(1)])
    redis.stop()
    monkeypatch.setattr(product, "TIMEOUT_S", 0.2)
    shared.decided_all([decision(1)])
    await shared.share()
    await history.refresh()
    assert (ids(history), history.scope) == (["req_1"], "process")


async def test_a_process_alone_keeps_the_latest() -> None:
    recent = RecentDecisions(2)
    history = History(recent=recent)
    for number in range(3):
        recent.decided_all([decision(number)])
    assert (ids(history), history.scope, history.count) == (["req_1", "req_2"], "process", 3)
    assert [row[1] for row in (await history.rows_after(2))[0]] == ["req_2"]
    assert history.record("req_0") is None


def test_a_row_is_the_same_whether_it_comes_from_a_decision_or_from_its_record() -> None:
    attempt = AttemptRecord(target="a", started_ms=0.0, ended_ms=1.5, outcome=Reason.OVERLOADED)
    made = replace(decision(7), attempts=(attempt,), target="a", total_ms=1.234, cost=0.5)
    assert row_of(made) == row_of_record(orjson.loads(orjson.dumps(record_of(made))))


async def test_processes_of_one_gateway_list_the_decisions_of_all_and_find_late_ones(tmp_path: Path) -> None:
    made = []
    for _ in range(2):
        recent, file = RecentDecisions(10), DecisionFile(tmp_path, capacity=100)
        shared = SharedDecisions(file, scope="gateway")
        made.append((file, shared, History(recent=recent, shared=shared)))
    (file, one, _), (other, _, history) = made
    one.decided_all([decision(1)])
    async with one.sharing():
        found = await history.find("req_1")
    assert (found or {})["route"] == "default"
    assert (history.scope, ids(history)) == ("gateway", ["req_1"])
    assert await history.find("req_2") is None
    await asyncio.gather(file.aclose(), other.aclose())
