"""Daily budgets shared by replicas through Redis, without a request waiting for it.

A hash per day and key has one field for each replica with its own totals. Totals only grow, so writing them twice
changes nothing, and those of a replica that has restarted remain. A replica writes as soon as a request has ended, and
reads the totals of a key whenever it has checked the key's budget: its knowledge is older than one round trip only for
a key that was idle.
"""

import asyncio
import logging
import random
import secrets
from typing import TYPE_CHECKING, Any, Final

from gateway.ports import Clock
from gateway.reliability.daily_budgets import DailyBudgets, Spent

if TYPE_CHECKING:
    from redis.asyncio import Redis

PAUSE_S: Final = 0.01  # between two exchanges, so that a busy replica makes at most a hundred a second
RETRY_S: Final = 0.5
KEEP_S: Final = 2 * 86_400
TIMEOUT_S: Final = 1.0

_log = logging.getLogger("gateway")


class SharedBudgets:
    """The budgets of this process among its replicas."""

    def __init__(self, budgets: DailyBudgets, clock: Clock, redis: "Redis", *, namespace: str) -> None:
        self._budgets = budgets
        self._clock = clock
        self._redis = redis
        self._prefix = f"{{{namespace}}}:spent"
        self._me = secrets.token_hex(8).encode()
        self._wanted = asyncio.Event()
        self._is_loaded = False
        self._has_warned = False
        budgets.on_activity = self._wanted.set

    async def run(self) -> None:
        """Exchange whenever there is something to exchange, until cancelled."""
        while True:
            is_done = await self.exchange()
            if not is_done:
                self._wanted.set()
            await asyncio.sleep(PAUSE_S if is_done else RETRY_S * random.uniform(0.8, 1.0))  # noqa: S311 - jitter
            await self._wanted.wait()

    async def exchange(self) -> bool:
        """Write the own totals that have changed and read those of the keys in use; the first time, of all keys. False
        if Redis does not answer: nothing is lost, the next exchange makes up for it."""
        from redis.exceptions import RedisError

        self._wanted.clear()
        day = self._budgets.begin_day(self._clock.wall_s())
        changed, asked = self._budgets.take_outgoing()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                if not self._is_loaded:
                    names = await self._redis.smembers(self._index(day))
                    asked |= {name.decode() for name in names if isinstance(name, bytes)}
                await self._exchange(day, changed, sorted(asked))
        except (RedisError, OSError, TimeoutError) as fault:
            self._budgets.return_outgoing(day, changed, asked)
            if not self._has_warned:
                _log.warning("daily budgets: Redis does not respond (%s); counting alone", type(fault).__name__)
            self._has_warned = True
            return False
        self._is_loaded, self._has_warned = True, False
        return True

    async def _exchange(self, day: int, changed: dict[str, Spent], asked: list[str]) -> None:
        if not asked:
            return
        batch = self._redis.pipeline(transaction=False)
        for key, spent in changed.items():
            batch.hset(self._hash(day, key), self._me, f"{spent.tokens} {spent.nanodollars}")
            batch.expire(self._hash(day, key), KEEP_S)
            batch.sadd(self._index(day), key)
            batch.expire(self._index(day), KEEP_S)
        for key in asked:
            batch.hgetall(self._hash(day, key))
        replies = (await batch.execute())[-len(asked) :]
        for key, fields in zip(asked, replies, strict=True):
            self._budgets.set_others(day, key, self._sum_of_others(fields))

    def _sum_of_others(self, fields: dict[bytes, bytes]) -> Spent:
        totals = [_parse(value) for replica, value in fields.items() if replica != self._me]
        return Spent(sum(each.tokens for each in totals), sum(each.nanodollars for each in totals))

    def _hash(self, day: int, key: str) -> str:
        return f"{self._prefix}:{day}:{key}"

    def _index(self, day: int) -> str:
        return f"{self._prefix}:{day}"


def _parse(value: bytes) -> Spent:
    """A field that another program wrote counts as nothing."""
    parts: list[Any] = value.split()
    try:
        tokens, nanodollars = map(int, parts)
    except ValueError:
        return Spent()
    return Spent(tokens, nanodollars)
