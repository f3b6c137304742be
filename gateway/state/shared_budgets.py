"""Daily budgets shared by replicas through Redis, without a request waiting for it.

A hash per day has one field for each account (a key at a replica) with its total. Totals only grow, so writing them
twice changes nothing, and those of a replica that has restarted remain. Every change gets a number, and a replica reads
the accounts that have changed since its last exchange. It exchanges as soon as a key was checked or has spent, and
twice a second in any case, so that it knows what was spent elsewhere before the first request of a key that was idle.

The hash also holds the number that each replica saw at its last exchange. If that is missing or lower, Redis has lost
data: it was emptied, was restored from an older copy, or has evicted a key. The replica then writes all totals that it
knows, also those of the others, and reads all.
"""

import asyncio
import logging
import random
import secrets
from collections.abc import Sequence
from typing import Any, Final

from gateway.ports import Clock
from gateway.reliability.daily_budgets import Account, DailyBudgets, Spent
from gateway.state.redis_client import RedisClient, RedisFaultError, Script

PAUSE_S: Final = 0.01  # between two exchanges, so that a busy replica makes at most a hundred a second
EVERY_S: Final = 0.5
KEEP_S: Final = 2 * 86_400
TIMEOUT_S: Final = 1.0

# ARGV: this replica, the version that it saw last, seconds to keep the keys, then account, total, account, total...
_SCRIPT: Final = Script("""
local totals, changes, me, since = KEYS[1], KEYS[2], 'seen ' .. ARGV[1], tonumber(ARGV[2])
local seen = tonumber(redis.call('HGET', totals, me) or 0)
local has_lost = since > 0 and (seen < since or redis.call('EXISTS', changes) == 0)
if has_lost then
  since = 0
end
local version = tonumber(redis.call('HGET', totals, 'version') or 0)
local function numbers(text)
  local tokens, nanodollars = string.match(text or '', '^(%d+) (%d+)$')
  return tonumber(tokens or 0), tonumber(nanodollars or 0)
end
for i = 4, #ARGV, 2 do
  local tokens, nanodollars = numbers(ARGV[i + 1])
  local had_tokens, had_nanodollars = numbers(redis.call('HGET', totals, ARGV[i]) or nil)
  local is_more = tokens > had_tokens or nanodollars > had_nanodollars
  if is_more then
    redis.call('HSET', totals, ARGV[i], ARGV[i + 1])
  end
  if is_more or not redis.call('ZSCORE', changes, ARGV[i]) then
    version = version + 1
    redis.call('ZADD', changes, version, ARGV[i])
  end
end
redis.call('HSET', totals, 'version', version, me, version)
redis.call('EXPIRE', totals, ARGV[3])
redis.call('EXPIRE', changes, ARGV[3])
local reply = {has_lost and 1 or 0, version}
for _, account in ipairs(redis.call('ZRANGEBYSCORE', changes, '(' .. since, '+inf')) do
  reply[#reply + 1] = account
  reply[#reply + 1] = redis.call('HGET', totals, account) or ''
end
return reply
""")

_log = logging.getLogger("gateway")


class SharedBudgets:
    """The budgets of this process among its replicas."""

    def __init__(self, budgets: DailyBudgets, clock: Clock, redis: RedisClient, *, namespace: str) -> None:
        self._budgets = budgets
        self._clock = clock
        self._redis = redis
        self._prefix = f"{{{namespace}}}:spent"
        self._wanted = asyncio.Event()
        self._seen = (0, 0)  # day and version of the last exchange
        self._has_warned = False
        budgets.me = secrets.token_hex(8)
        budgets.on_activity = self._wanted.set

    async def run(self) -> None:
        """Exchange until cancelled."""
        while True:
            try:
                is_done = await self.exchange()
            except Exception:  # noqa: BLE001 - top of this task: one bad exchange must not end all sharing
                _log.exception("daily budgets: an exchange failed")
                is_done = False
            await asyncio.sleep(PAUSE_S if is_done else EVERY_S * random.uniform(0.8, 1.0))  # noqa: S311 - jitter
            await self._until_wanted()

    async def exchange(self) -> bool:
        """Write the totals that have changed here, and read those that have changed elsewhere. False if Redis does not
        answer: nothing is lost, the next exchange makes up for it."""
        self._wanted.clear()
        day, changed = self._budgets.begin_day(self._clock.wall_s()), self._budgets.take_changed()
        try:
            await self._exchange(day, changed)
        except RedisFaultError as fault:
            self._budgets.mark_changed(day, changed)
            if not self._has_warned:
                _log.warning("daily budgets: Redis does not respond (%s); counting alone", fault)
            self._has_warned = True
            return False
        self._has_warned = False
        return True

    async def _exchange(self, day: int, changed: dict[Account, Spent]) -> None:
        seen_day, seen = self._seen
        arguments: list[Any] = [self._budgets.me, seen if seen_day == day else 0, KEEP_S]
        for account, spent in changed.items():
            arguments += [f"{account.replica} {account.key}", f"{spent.tokens} {spent.nanodollars}"]
        keys = [f"{self._prefix}:{day}", f"{self._prefix}:{day}:changes"]
        async with self._redis.calling(TIMEOUT_S) as client:
            has_lost, version, *accounts = await _SCRIPT(client, keys, arguments)
        self._budgets.merge(day, dict(map(_parse, accounts[::2], accounts[1::2])))
        self._seen = day, version
        if has_lost:
            self._budgets.mark_changed(day)
            self._wanted.set()

    async def _until_wanted(self) -> None:
        try:
            async with asyncio.timeout(EVERY_S):
                await self._wanted.wait()
        except TimeoutError:
            return


def _parse(account: bytes, total: bytes) -> tuple[Account, Spent]:
    """A total that another program wrote counts as nothing."""
    replica, _, key = account.decode(errors="replace").partition(" ")
    parts: Sequence[bytes] = total.split()
    try:
        tokens, nanodollars = map(int, parts)
    except ValueError:
        return Account(replica, key), Spent()
    return Account(replica, key), Spent(tokens, nanodollars)
