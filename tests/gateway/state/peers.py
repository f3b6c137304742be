"""Replicas that exchange their state through a real Redis, one exchange at a time."""

import contextlib
from collections.abc import AsyncIterator
from time import monotonic
from typing import Any

from gateway.decision import AttemptRecord
from gateway.enums import AttemptOutcome, BreakerState, Kind, LaneState
from gateway.policy_types import Hedge, Retry, Slo
from gateway.state.memory import MemoryStore
from gateway.state.redis import Replica
from gateway.state.redis_client import RedisClient
from gateway.types import Candidate, Status, Target, Verdict
from tests.gateway.redis_server import RedisServer, client_of

TARGET = Target(
    name="fast",
    kind=Kind.OPENAI,
    url="http://fast",
    model="m",
    location="in_cluster",
    retry=Retry(max_share=0.2),
)
LANE = Candidate(route="edits", target=TARGET, slo=Slo(p95_ms=100), hedge=Hedge(after_ms=1, max_share=0.1))


class RealClock:
    def now_s(self) -> float:
        return monotonic()

    def wall_s(self) -> float:
        return 0.0


class Peer:
    """The state of one replica; exchanges only on demand."""

    def __init__(self, redis: str | RedisClient, namespace: str = "tests") -> None:
        self.store = MemoryStore()
        self._redis = redis if isinstance(redis, RedisClient) else client_of(redis)
        self.replica = Replica(self.store, RealClock(), self._redis, namespace=namespace)

    def answered(self, took_ms: float, times: int, outcome: Any = AttemptOutcome.OK) -> list[Any]:
        """Sequential attempts; returns the reasons of the refused ones."""
        refused = []
        for _ in range(times):
            permit = self.store.acquire(LANE, monotonic(), sample=0.5, healthy_fallback=True)
            if isinstance(permit, Verdict):
                refused.append(permit.reason)
                continue
            attempt = AttemptRecord(target="fast", started_ms=0, ended_ms=took_ms, outcome=outcome)
            permit.release(attempt, monotonic())
        return refused

    def hedges(self) -> int:
        """Spends all that is available and returns the count."""
        return sum(self.store.may_hedge(LANE) for _ in range(100))

    def retries(self) -> int:
        """Spends all that is available and returns the count."""
        return sum(self.store.may_retry(LANE) for _ in range(100))

    @property
    def lane(self) -> LaneState:
        return self.store.health(LANE, Status(), monotonic()).lane

    @property
    def breaker(self) -> BreakerState:
        return self.store.health(LANE, Status(), monotonic()).breaker

    async def aclose(self) -> None:
        await self._redis.aclose()


@contextlib.asynccontextmanager
async def peers(redis: RedisServer, **names: str) -> AsyncIterator[list[Peer]]:
    found = [Peer(redis.url, names.get("first", "tests")), Peer(redis.url, names.get("second", "tests"))]
    try:
        yield found
    finally:
        for peer in found:
            await peer.aclose()


async def settle(*several: Peer) -> None:
    """Every replica writes, then every replica has read all others."""
    for peer in (*several, *several):
        await peer.replica.exchange()
