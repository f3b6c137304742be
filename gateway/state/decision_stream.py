"""The recent decisions of all replicas: a capped Redis stream of JSON objects, appended in batches.

Only readers wait for Redis. Decisions are lost while it is down: the decision log is the complete record.
"""

from typing import Any, Final

from gateway.state.redis_client import RedisClient

KEEP_S: Final = 24 * 3600
TIMEOUT_S: Final = 2.0
_FIELD: Final = b"d"


class DecisionStream:
    """Entries have ids that grow; `""` is before the first. Its methods raise RedisFaultError."""

    def __init__(self, redis: RedisClient, *, namespace: str, capacity: int) -> None:
        self._redis = redis
        self._key = f"{{{namespace}}}:decisions"
        self._capacity = capacity

    async def append(self, entries: list[bytes]) -> None:
        """Add entries; the oldest beyond the capacity are dropped."""
        async with self._redis.calling(TIMEOUT_S) as client:
            batch = client.pipeline(transaction=False)
            for entry in entries:
                batch.xadd(self._key, {_FIELD: entry}, maxlen=self._capacity, approximate=True)
            batch.expire(self._key, KEEP_S)
            await batch.execute()

    async def after(self, last: str, limit: int) -> list[tuple[str, bytes]]:
        """The newest entries after the id `last`, at most `limit`, oldest first."""
        async with self._redis.calling(TIMEOUT_S) as client:
            first = f"({last}" if last else "-"
            found: Any = await client.xrevrange(self._key, max="+", min=first, count=limit)
        return [(number.decode(), fields[_FIELD]) for number, fields in reversed(found) if _FIELD in fields]
