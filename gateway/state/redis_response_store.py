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
from typing import Any, Final

from gateway.errors import StoreUnavailable
from gateway.state.redis_address import RedisAddress
from gateway.state.redis_client import RedisClient, RedisFaultError, Script
from gateway.state.response_store import ReadTooLarge, StoredResponse

TIMEOUT_S: Final = 2.0  # of a read: without it, the request fails
PUT_S: Final = 0.5  # of a write: the end of the response waits for it,
PUT_BYTES_PER_S: Final = 16 << 20  # and a second longer for so many bytes
PROBE_S: Final = 0.25  # between two probes after a fault
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
_PUT: Final = Script(f"""{_SIZES}
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
""")
# KEYS: index, sizes, response
_DELETE: Final = Script(f"""{_SIZES}
forget(key)
return redis.call('DEL', key)
""")

_log = logging.getLogger("gateway")


class RedisResponseStore:
    """See `ResponseStore`. All replicas with the same `namespace` share up to `max_bytes`.

    After a fault no request waits for Redis, until a probe in the background is answered. Close it.
    """

    def __init__(
        self,
        redis: RedisClient,
        *,
        namespace: str,
        max_bytes: int,
        max_read_bytes: int,
        lifetime_s: float,
    ) -> None:
        self.max_read_bytes = max_read_bytes
        self._redis = redis
        self._prefix = f"{{{namespace}}}:responses"
        self._max_bytes = max_bytes
        self._lifetime_ms = max(1, int(lifetime_s * 1000))
        self._probe: asyncio.Task[None] | None = None  # while Redis is down

    @property
    def is_up(self) -> bool:
        """See `ResponseStore`."""
        return self._probe is None

    async def connect(self) -> None:
        """Connect now, so that the first response does not wait for it."""
        with contextlib.suppress(StoreUnavailable):
            async with self._calling(TIMEOUT_S) as client:
                await client.exists(self._shared_keys[0])

    async def aclose(self) -> None:
        """End the probe."""
        if self._probe is not None:
            self._probe.cancel()
            await asyncio.gather(self._probe, return_exceptions=True)

    async def get(self, response_id: str, owner: str | None) -> StoredResponse | None:
        """See `ResponseStore`."""
        key = self._key(owner, _RESPONSE, response_id)
        async with self._calling(TIMEOUT_S) as client:
            found: list[Any] = await client.hmget(key, [_RESPONSE, _ITEMS, _LOCATIONS])
        response, items, locations = found
        if response is None or items is None:
            return None
        return StoredResponse(owner=owner, response=response, items=items, locations=_locations(locations))

    async def outputs(self, response_ids: Sequence[str], owner: str | None) -> Mapping[str, StoredResponse]:
        """See `ResponseStore`."""
        if not response_ids:
            return {}
        keys = [self._key(owner, _RESPONSE, each) for each in response_ids]
        async with self._calling(TIMEOUT_S) as client:
            if sum(await _each(client, keys, "hstrlen", _RESPONSE)) > self.max_read_bytes:
                raise ReadTooLarge
            found = await _each(client, keys, "hmget", [_RESPONSE, _LOCATIONS])
        return {
            each: StoredResponse(owner=owner, response=response, items=b"", locations=_locations(locations))
            for each, (response, locations) in zip(response_ids, found, strict=True)
            if response is not None
        }

    async def responses_of(self, item_ids: Sequence[str], owner: str | None) -> Mapping[str, str]:
        """See `ResponseStore`."""
        if not item_ids:
            return {}
        async with self._calling(TIMEOUT_S) as client:
            found: list[Any] = await client.mget([self._key(owner, "item", each) for each in item_ids])
        return {each: value.decode() for each, value in zip(item_ids, found, strict=True) if value is not None}

    async def put(self, response_id: str, stored: StoredResponse) -> bool:
        """See `ResponseStore`."""
        if stored.size_bytes > min(self._max_bytes, self.max_read_bytes):
            return False
        items = [self._key(stored.owner, "item", each) for each in stored.item_ids]
        keys = [*self._shared_keys, self._key(stored.owner, _RESPONSE, response_id), *items]
        limits = [stored.size_bytes, self._lifetime_ms, self._max_bytes]
        locations = ",".join(sorted(stored.locations or ()))
        with contextlib.suppress(StoreUnavailable):
            async with self._calling(PUT_S + stored.size_bytes / PUT_BYTES_PER_S) as client:
                await _PUT(client, keys, [stored.response, stored.items, *limits, response_id, locations])
            return True
        return False

    async def delete(self, response_id: str, owner: str | None) -> bool:
        """See `ResponseStore`."""
        keys = [*self._shared_keys, self._key(owner, _RESPONSE, response_id)]
        async with self._calling(TIMEOUT_S) as client:
            return bool(await _DELETE(client, keys, ()))

    @property
    def _shared_keys(self) -> list[str]:
        return [f"{self._prefix}:{name}" for name in ("index", "sizes")]

    def _key(self, owner: str | None, kind: str, name: str) -> str:
        """`name` may be anything that a client wrote."""
        digest = "any" if owner is None else hashlib.sha256(owner.encode()).hexdigest()
        return f"{self._prefix}:{digest}:{kind}:{name}"

    @contextlib.asynccontextmanager
    async def _calling(self, timeout_s: float) -> AsyncIterator[Any]:
        """Raises StoreUnavailable if Redis does not answer, or did not lately."""
        if self._probe is not None:
            raise _unavailable()
        try:
            async with self._redis.calling(timeout_s) as client:
                yield client
        except RedisFaultError as fault:
            if self._probe is None:
                _log.warning("stored responses: Redis does not respond (%s)", fault)
                self._probe = asyncio.create_task(self._until_up(), name="probe of stored responses")
            raise _unavailable() from fault

    async def _until_up(self) -> None:
        """Probe the server that has the responses until it answers."""
        while True:
            await asyncio.sleep(PROBE_S)
            with contextlib.suppress(Exception):  # whatever happens, the next probe may be answered
                async with self._redis.calling(TIMEOUT_S) as client:
                    await client.exists(self._shared_keys[0])
                break
        _log.info("stored responses: Redis responds again")
        self._probe = None


def _unavailable() -> StoreUnavailable:
    return StoreUnavailable("The store of responses does not respond; try again, or send the earlier items in 'input'.")


async def _each(client: Any, keys: Sequence[str], command: str, fields: str | list[str]) -> list[Any]:
    """The answer of one command for each response, in one exchange."""
    pipe = client.pipeline(transaction=False)
    for key in keys:
        getattr(pipe, command)(key, fields)
    found: list[Any] = await pipe.execute()
    return found


def _locations(written: bytes | None) -> frozenset[str] | None:
    return frozenset(written.decode().split(",")) if written else None


@contextlib.asynccontextmanager
async def open_response_store(
    *, address: RedisAddress, namespace: str, max_bytes: int, max_read_bytes: int, lifetime_s: float
) -> AsyncIterator[RedisResponseStore]:
    """A store with connections of its own until the block ends."""
    redis = RedisClient(address, timeout_s=TIMEOUT_S)
    limits: dict[str, Any] = {"max_bytes": max_bytes, "max_read_bytes": max_read_bytes, "lifetime_s": lifetime_s}
    store = RedisResponseStore(redis, namespace=namespace, **limits)
    try:
        await store.connect()
        yield store
    finally:
        await store.aclose()
        await redis.aclose()
