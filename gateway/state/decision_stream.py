"""The recent decisions of all replicas: a capped Redis stream of JSON objects, appended in batches.

Only readers wait for Redis. Decisions are lost while it is down: the decision log is the complete record.
"""

import asyncio
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from redis.asyncio import Redis

KEEP_S: Final = 24 * 3600
TIMEOUT_S: Final = 2.0
_FIELD: Final = b"d"


class StreamUnavailableError(Exception):
    """Redis does not respond."""


class DecisionStream:
    """Entries have ids that grow; `""` is before the first."""

    def __init__(self, redis: "Redis", *, namespace: str, capacity: int) -> None:
        self._redis = redis
        self._key = f"{{{namespace}}}:decisions"
        self._capacity = capacity

    async def append(self, entries: list[bytes]) -> None:
        """Add entries; the oldest beyond the capacity are dropped. Raises StreamUnavailableError."""
        from redis.exceptions import RedisError

        try:
            async with asyncio.timeout(TIMEOUT_S), self._redis.pipeline(transaction=False) as batch:
                for entry in entries:
                    batch.xadd(self._key, {_FIELD: entry}, maxlen=self._capacity, approximate=True)
                batch.expire(self._key, KEEP_S)
                await batch.execute()
        except (RedisError, OSError, TimeoutError) as fault:
            raise StreamUnavailableError(type(fault).__name__) from fault

    async def after(self, last: str, limit: int) -> list[tuple[str, bytes]]:
        """The newest entries after the id `last`, at most `limit`, oldest first. Raises StreamUnavailableError."""
        from redis.exceptions import RedisError

        try:
            async with asyncio.timeout(TIMEOUT_S):
                first = f"({last}" if last else "-"
                found: Any = await self._redis.xrevrange(self._key, max="+", min=first, count=limit)
        except (RedisError, OSError, TimeoutError) as fault:
            raise StreamUnavailableError(type(fault).__name__) from fault
        return [(number.decode(), fields[_FIELD]) for number, fields in reversed(found) if _FIELD in fields]
