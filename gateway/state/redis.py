"""State shared between replicas through Redis: about once a second, each writes what it counted and reads the others.

Knows how reports travel, not what they mean. No request waits for any of it: while Redis is away, slow or empty, the
process goes on with what it knows, and the next exchange that works makes up for all that were lost, because a report
is whole every time. One hash holds one field per replica, so one small script is one atomic exchange.
"""

import asyncio
import contextlib
import logging
import random
import secrets
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from gateway.errors import BadSetting
from gateway.ports import Clock
from gateway.reliability.replication import PeerSnapshot, Snapshot

if TYPE_CHECKING:
    from redis.asyncio import Redis

# Of two replicas one needs at most this long to tell and the other as long to hear; together below two seconds.
EVERY_S: Final = 0.7
TIMEOUT_S: Final = 0.5
# What a replica that is gone has counted is remembered so long; windows are usually shorter.
KEEP_S: Final = 120

# Ages are told by Redis's clock alone: a field is `sequence milliseconds snapshot`. A write that was overtaken (it
# waited
# in a socket while Redis stood still) changes nothing.
_SCRIPT: Final = """
local key, me, sequence, report, keep_ms = KEYS[1], ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local mine = redis.call('HGET', key, me)
if not mine or tonumber(string.match(mine, '^%d+')) < sequence then
  redis.call('HSET', key, me, string.format('%d %.0f ', sequence, now_ms) .. report)
end
redis.call('PEXPIRE', key, keep_ms)
local reply = {}
local fields = redis.call('HGETALL', key)
for i = 1, #fields, 2 do
  local told_ms, other = string.match(fields[i + 1], '^%d+ (%d+) (.*)$')
  if not told_ms or now_ms - tonumber(told_ms) > keep_ms then
    redis.call('HDEL', key, fields[i])
  elseif fields[i] ~= me then
    reply[#reply + 1] = fields[i]
    reply[#reply + 1] = tostring(math.max(0, now_ms - tonumber(told_ms)))
    reply[#reply + 1] = other
  end
end
return reply
"""

_log = logging.getLogger("gateway")
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Snapshot)


class Reporter(Protocol):
    """What is shared: it can say what it knows itself, and take in what others said."""

    def snapshot(self, now_s: float) -> Snapshot:
        """All that this process counted itself."""
        ...

    def merge(self, now_s: float, heard: Sequence[PeerSnapshot], *, me: str) -> None:
        """All that the others said last; `me` is what they call us."""
        ...


class Replica:
    """This process among its replicas. `is_up` tells whether the last exchange worked."""

    def __init__(self, reporter: Reporter, clock: Clock, redis: "Redis", *, namespace: str) -> None:
        self._reporter = reporter
        self._clock = clock
        self._redis = redis
        self._script = redis.register_script(_SCRIPT)
        self._key = f"{{{namespace}}}:replicas"
        self._name = secrets.token_hex(8)
        self._sequence = 0
        self.is_up = False

    async def run(self) -> None:
        """Exchange for ever; ends by cancellation only."""
        while True:
            try:
                await self.exchange()
            except Exception:  # noqa: BLE001 - outermost place of this task: one bad report must not end all sharing
                _log.exception("shared state: an exchange failed")
                self.is_up = False
            await asyncio.sleep(EVERY_S * random.uniform(0.9, 1.0))  # noqa: S311 - so that replicas do not march in step

    async def exchange(self) -> None:
        """Once. When it fails, nothing is lost but time, and the process knows what it knew."""
        from redis.exceptions import RedisError

        self._sequence += 1
        snapshot = _encoder.encode(self._reporter.snapshot(self._clock.now_s()))
        try:
            async with asyncio.timeout(2 * TIMEOUT_S):
                reply = await self._script(keys=[self._key], args=[self._name, self._sequence, snapshot, KEEP_S * 1000])
        except (RedisError, OSError, TimeoutError) as fault:
            self._went(False, type(fault).__name__)  # not its message: that may hold the address
            return
        now_s = self._clock.now_s()
        self._reporter.merge(now_s, _heard(reply, now_s), me=self._name)
        self._went(True, "")

    def _went(self, is_up: bool, cause: str) -> None:
        if is_up and not self.is_up:
            _log.info("shared state: joined")
        if not is_up and (self.is_up or self._sequence == 1):
            _log.warning("shared state: redis does not answer (%s); deciding by local state until it does", cause)
        self.is_up = is_up


@contextlib.asynccontextmanager
async def shared_state(reporter: Reporter, clock: Clock, *, url: str, namespace: str) -> AsyncIterator[Replica]:
    """A replica that exchanges in the background until the block ends. Raises BadSetting for a URL of another kind."""
    redis = connect(url)
    replica = Replica(reporter, clock, redis, namespace=namespace)
    task = asyncio.create_task(replica.run(), name="shared state")
    try:
        yield replica
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await redis.aclose()


def connect(url: str) -> "Redis":
    """A client that gives up early and tries nothing twice: the next exchange is the retry. Does not connect yet."""
    from redis.asyncio import Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    once = Retry(NoBackoff(), 0)
    try:
        return Redis.from_url(url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, retry=once)
    except ValueError as fault:  # its message names the scheme or the port, never the password
        raise BadSetting(f"TWOLANE_REDIS_URL: {fault}") from None


def _heard(reply: Sequence[Any], now_s: float) -> list[PeerSnapshot]:
    """From names, ages in milliseconds and reports in turn; those of another version are left out."""
    found: list[PeerSnapshot] = []
    for name, age_ms, encoded in zip(reply[::3], reply[1::3], reply[2::3], strict=True):
        with contextlib.suppress(msgspec.DecodeError):
            written_s = now_s - float(age_ms) / 1000
            found.append(
                PeerSnapshot(name=name.decode(errors="replace"), written_s=written_s, snapshot=_decoder.decode(encoded))
            )
    return found
