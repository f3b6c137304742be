"""Shared state of replicas through Redis: about once a second, each writes its snapshot and reads those of the
others.

Transports snapshots without interpreting them. No request waits for Redis: while it is down, slow or empty, the
process decides by its last known state, and the next successful exchange makes up for lost ones, because snapshots
are complete. A hash with one field per replica makes one short script one atomic exchange.
"""

import asyncio
import contextlib
import logging
import random
import secrets
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final, Protocol

import msgspec

from gateway.ports import Clock
from gateway.reliability.daily_budgets import DailyBudgets
from gateway.reliability.replication import PeerSnapshot, Snapshot
from gateway.state.redis_address import RedisAddress
from gateway.state.redis_client import RedisClient, RedisFaultError, Script
from gateway.state.shared_budgets import SharedBudgets

# One interval until a replica writes and one until another reads: state spreads within two seconds.
EXCHANGE_EVERY_S: Final = 0.7
TIMEOUT_S: Final = 0.5
# How long the counts of a vanished replica are kept; windows are usually shorter.
KEEP_S: Final = 120

# Ages are measured by Redis's clock only: a field is `sequence milliseconds snapshot`. A write that arrives after a
# newer one (delayed in a socket while Redis was stopped) is ignored.
_SCRIPT: Final = Script("""
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
  local written_ms, other = string.match(fields[i + 1], '^%d+ (%d+) (.*)$')
  if not written_ms or now_ms - tonumber(written_ms) > keep_ms then
    redis.call('HDEL', key, fields[i])
  elseif fields[i] ~= me then
    reply[#reply + 1] = fields[i]
    reply[#reply + 1] = tostring(math.max(0, now_ms - tonumber(written_ms)))
    reply[#reply + 1] = other
  end
end
return reply
""")

_log = logging.getLogger("gateway")
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Snapshot)


class ReplicatedState(Protocol):
    """The state that replicas share."""

    def snapshot(self, now_s: float) -> Snapshot:
        """The counts of this process."""
        ...

    def merge(self, now_s: float, peers: Sequence[PeerSnapshot], *, me: str) -> None:
        """The latest snapshots of the other replicas; `me` is their name for this process."""
        ...


class Replica:
    """This process among its replicas. `is_up`: the last exchange succeeded."""

    def __init__(self, state: ReplicatedState, clock: Clock, redis: RedisClient, *, namespace: str) -> None:
        self._state = state
        self._clock = clock
        self._redis = redis
        self._key = f"{{{namespace}}}:replicas"
        self._name = secrets.token_hex(8)
        self._sequence = 0
        self.is_up = False

    async def run(self) -> None:
        """Exchange until cancelled, some time after the first exchange."""
        while True:
            await asyncio.sleep(EXCHANGE_EVERY_S * random.uniform(0.9, 1.0))  # noqa: S311 - jitter
            await self.exchange()

    async def exchange(self) -> None:
        """One exchange. A failed exchange only delays the state; one bad snapshot must not end all sharing."""
        try:
            await self._exchange()
        except Exception:  # noqa: BLE001 - at the start, and at the top of a task
            _log.exception("shared state: an exchange failed")
            self.is_up = False

    async def _exchange(self) -> None:
        self._sequence += 1
        snapshot = _encoder.encode(self._state.snapshot(self._clock.now_s()))
        try:
            async with self._redis.calling(2 * TIMEOUT_S) as client:
                reply = await _SCRIPT(client, [self._key], [self._name, self._sequence, snapshot, KEEP_S * 1000])
        except RedisFaultError as fault:
            self._set_up(False, str(fault))
            return
        now_s = self._clock.now_s()
        self._state.merge(now_s, _peers(reply, now_s), me=self._name)
        self._set_up(True, "")

    def _set_up(self, is_up: bool, cause: str) -> None:
        if is_up and not self.is_up:
            _log.info("shared state: joined", extra={"fields": {"event": "redis_joined"}})
        if not is_up and (self.is_up or self._sequence == 1):
            fields = {"event": "redis_lost", "reason": cause}
            text = "shared state: Redis does not respond (%s); using local state until it does"
            _log.warning(text, cause, extra={"fields": fields})
        self.is_up = is_up


@contextlib.asynccontextmanager
async def shared_state(
    state: ReplicatedState, budgets: DailyBudgets, clock: Clock, *, address: RedisAddress, namespace: str
) -> AsyncIterator[Replica]:
    """A replica that exchanges in the background until the block ends; it begins with what the others know: the state
    of lanes, and what its key budgets have spent today."""
    redis = RedisClient(address, timeout_s=TIMEOUT_S)
    replica = Replica(state, clock, redis, namespace=namespace)
    shared_budgets = SharedBudgets(budgets, clock, redis, namespace=namespace)
    await asyncio.gather(replica.exchange(), shared_budgets.exchange())
    tasks = [
        asyncio.create_task(replica.run(), name="shared state"),
        asyncio.create_task(shared_budgets.run(), name="daily budgets"),
    ]
    try:
        yield replica
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await shared_budgets.exchange()
        await redis.aclose()


def _peers(reply: Sequence[Any], now_s: float) -> list[PeerSnapshot]:
    """Parses names, ages in milliseconds and snapshots; snapshots of an incompatible version are skipped."""
    found: list[PeerSnapshot] = []
    for name, age_ms, encoded in zip(reply[::3], reply[1::3], reply[2::3], strict=True):
        with contextlib.suppress(msgspec.DecodeError):
            written_s = now_s - float(age_ms) / 1000
            found.append(
                PeerSnapshot(name=name.decode(errors="replace"), written_s=written_s, snapshot=_decoder.decode(encoded))
            )
    return found
