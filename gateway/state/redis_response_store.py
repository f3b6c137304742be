"""Stored responses in Redis, which all replicas share.

The key of a response contains a digest of its owner, so that another key's response cannot even be addressed. Redis
ends the lifetime of each. An index of all responses by age, with their sizes, bounds what they take together: the
script that adds one drops the oldest. A response is a hash with the response object, the items that led to it, and the
locations to which both are limited, because references to items do not need the items.
"""

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from gateway.errors import StoreUnavailable
from gateway.ports import Clock
from gateway.state.redis import connect
from gateway.state.response_store import ReadTooLarge, StoredResponse

if TYPE_CHECKING:
    from redis.asyncio import Redis

TIMEOUT_S: Final = 2.0  # of a call
DOWN_S: Final = 2.0  # in which responses are not stored after a failure
_RESPONSE: Final = "response"
_ITEMS: Final = "items"
_LOCATIONS: Final = "locations"

# The size of each response by its key, and their sum as `total`. Redis may have evicted the index or the sizes.
_SIZES: Final = """
local index, sizes, key = KEYS[1], KEYS[2], KEYS[3]
local function forget(name)
  redis.call('HINCRBY', sizes, 'total', string.format('%d', -tonumber(redis.call('HGET', sizes, name) or 0)))
  redis.call('HDEL', sizes, name)
  redis.call('ZREM', index, name)
end
if redis.call('EXISTS', index) ~= redis.call('EXISTS', sizes) then
  redis.call('DEL', sizes)
  for _, name in ipairs(redis.call('ZRANGE', index, 0, -1)) do
    local size = redis.call('HSTRLEN', name, 'response') + redis.call('HSTRLEN', name, 'items')
    redis.call('HSET', sizes, name, size)
    redis.call('HINCRBY', sizes, 'total', size)
  end
end
"""
# KEYS: index, sizes, response, items...; ARGV: response, items, size, lifetime in ms, most bytes of all, id, locations
_PUT: Final = f"""{_SIZES}
local size, lifetime_ms, most = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
for _, name in ipairs(redis.call('ZRANGEBYSCORE', index, '-inf', now_ms - lifetime_ms)) do
  forget(name)
end
forget(key)
redis.call('DEL', key)
redis.call('HSET', key, 'response', ARGV[1], 'items', ARGV[2], 'locations', ARGV[7])
redis.call('ZADD', index, now_ms, key)
redis.call('HSET', sizes, key, size)
local used = redis.call('HINCRBY', sizes, 'total', size)
for i = 4, #KEYS do
  redis.call('SET', KEYS[i], ARGV[6], 'PX', lifetime_ms)
end
for _, name in ipairs({{index, sizes, key}}) do
  redis.call('PEXPIRE', name, lifetime_ms)
end
while used > most do
  local oldest = redis.call('ZRANGE', index, 0, 0)[1]
  redis.call('DEL', oldest)
  forget(oldest)
  used = tonumber(redis.call('HGET', sizes, 'total'))
end
return used
"""
# KEYS: index, sizes, response
_DELETE: Final = f"""{_SIZES}
forget(key)
return redis.call('DEL', key)
"""

_log = logging.getLogger("gateway")


class RedisResponseStore:
    """See `ResponseStore`. All replicas with the same `namespace` share up to `max_bytes`."""

    def __init__(
        self,
        redis: "Redis",
        clock: Clock,
        *,
        namespace: str,
        max_bytes: int,
        max_read_bytes: int,
        lifetime_s: float,
    ) -> None:
        self.max_read_bytes = max_read_bytes
        self._redis = redis
        self._clock = clock
        self._prefix = f"{{{namespace}}}:responses"
        self._max_bytes = max_bytes
        self._lifetime_ms = max(1, int(lifetime_s * 1000))
        self._put_script = redis.register_script(_PUT)
        self._delete_script = redis.register_script(_DELETE)
        self._down_until_s = 0.0

    @property
    def is_up(self) -> bool:
        """See `ResponseStore`. A moment after a failure it is tried again."""
        return self._clock.now_s() >= self._down_until_s

    async def get(self, response_id: str, owner: str | None) -> StoredResponse | None:
        """See `ResponseStore`."""
        key = self._key(owner, _RESPONSE, response_id)
        async with self._reading():
            found: list[Any] = await self._redis.hmget(key, [_RESPONSE, _ITEMS, _LOCATIONS])
        response, items, locations = found
        if response is None or items is None:
            return None
        return StoredResponse(owner=owner, response=response, items=items, locations=_locations(locations))

    async def outputs(self, response_ids: Sequence[str], owner: str | None) -> Mapping[str, StoredResponse]:
        """See `ResponseStore`."""
        if not response_ids:
            return {}
        keys = [self._key(owner, _RESPONSE, each) for each in response_ids]
        async with self._reading():
            if sum(await self._each(keys, "hstrlen", _RESPONSE)) > self.max_read_bytes:
                raise ReadTooLarge
            found = await self._each(keys, "hmget", [_RESPONSE, _LOCATIONS])
        return {
            each: StoredResponse(owner=owner, response=response, items=b"", locations=_locations(locations))
            for each, (response, locations) in zip(response_ids, found, strict=True)
            if response is not None
        }

    async def responses_of(self, item_ids: Sequence[str], owner: str | None) -> Mapping[str, str]:
        """See `ResponseStore`."""
        if not item_ids:
            return {}
        async with self._reading():
            found: list[Any] = await self._redis.mget([self._key(owner, "item", each) for each in item_ids])
        return {each: value.decode() for each, value in zip(item_ids, found, strict=True) if value is not None}

    async def put(self, response_id: str, stored: StoredResponse) -> bool:
        """See `ResponseStore`."""
        if stored.size_bytes > min(self._max_bytes, self.max_read_bytes):
            return False
        items = [self._key(stored.owner, "item", each) for each in stored.item_ids]
        keys = [*self._shared_keys, self._key(stored.owner, _RESPONSE, response_id), *items]
        limits = [stored.size_bytes, self._lifetime_ms, self._max_bytes]
        with contextlib.suppress(StoreUnavailable):
            async with self._reading():
                locations = ",".join(sorted(stored.locations or ()))
                await self._put_script(keys=keys, args=[stored.response, stored.items, *limits, response_id, locations])
            return True
        return False

    async def delete(self, response_id: str, owner: str | None) -> bool:
        """See `ResponseStore`."""
        keys = [*self._shared_keys, self._key(owner, _RESPONSE, response_id)]
        async with self._reading():
            return bool(await self._delete_script(keys=keys))

    @property
    def _shared_keys(self) -> list[str]:
        return [f"{self._prefix}:{name}" for name in ("index", "sizes")]

    def _key(self, owner: str | None, kind: str, name: str) -> str:
        """`name` may be anything that a client wrote."""
        digest = "any" if owner is None else hashlib.sha256(owner.encode()).hexdigest()
        return f"{self._prefix}:{digest}:{kind}:{name}"

    async def _each(self, keys: Sequence[str], command: str, fields: str | list[str]) -> list[Any]:
        """The answer of one command for each response, in one exchange."""
        pipe: Any = self._redis.pipeline(transaction=False)
        for key in keys:
            getattr(pipe, command)(key, fields)
        found: list[Any] = await pipe.execute()
        return found

    @contextlib.asynccontextmanager
    async def _reading(self) -> AsyncIterator[None]:
        """Raises StoreUnavailable if Redis does not answer."""
        from redis.exceptions import RedisError

        try:
            async with asyncio.timeout(TIMEOUT_S):
                yield
        except (RedisError, OSError, TimeoutError) as fault:
            if self.is_up:  # the message of the fault may contain the address
                _log.warning("stored responses: Redis does not respond (%s)", type(fault).__name__)
            self._down_until_s = self._clock.now_s() + DOWN_S
            raise StoreUnavailable(
                "The store of responses does not respond; try again, or send the earlier items in 'input'."
            ) from fault


def _locations(written: bytes | None) -> frozenset[str] | None:
    return frozenset(written.decode().split(",")) if written else None


@contextlib.asynccontextmanager
async def open_response_store(
    clock: Clock, *, url: str, namespace: str, max_bytes: int, max_read_bytes: int, lifetime_s: float
) -> AsyncIterator[RedisResponseStore]:
    """A store with a connection of its own until the block ends. Raises ConfigurationError for an invalid URL."""
    redis = connect(url, timeout_s=TIMEOUT_S)
    limits: dict[str, Any] = {"max_bytes": max_bytes, "max_read_bytes": max_read_bytes, "lifetime_s": lifetime_s}
    try:
        yield RedisResponseStore(redis, clock, namespace=namespace, **limits)
    finally:
        await redis.aclose()
