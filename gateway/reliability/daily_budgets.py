"""Daily budgets of API keys, in tokens and dollars; a day begins at midnight UTC.

Tokens and costs are known only at the end of a request, so a key overspends by at most its requests in flight. Each
replica counts what it spent itself, in totals that only grow during a day, and adds the last known totals of the others
(`state.shared_budgets` exchanges them). Of two totals of the same replica the greater one is right: a store that has
lost its data takes nothing back. Dollars are counted in integer billionths: sums must not drift.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

from gateway.policy_types import Limit

DAY_S: Final = 86_400
_PER_DOLLAR: Final = 1_000_000_000


class Spent(NamedTuple):
    """What was spent in one day: tokens, and billionths of a dollar."""

    tokens: int = 0
    nanodollars: int = 0


class Account(NamedTuple):
    """What one replica counts for one key."""

    replica: str
    key: str


class DailyBudgets:
    """What all keys spent today. `me` is the name of this replica."""

    def __init__(self, me: str = "") -> None:
        self.me = me
        self.on_activity: Callable[[], None] = _nothing  # called when a key was checked or has spent
        self.day = 0  # since the epoch
        self._accounts: dict[Account, Spent] = {}
        self._totals: dict[str, Spent] = {}  # of all replicas together, by key
        self._changed: set[Account] = set()  # accounts whose totals the store does not have yet

    def wait_s(self, key: str, limit: Limit, wall_s: float) -> float:
        """0 if the key has budget left today, otherwise the seconds until the next day. `wall_s`: since the epoch."""
        if not limit.is_daily:
            return 0.0
        self.begin_day(wall_s)
        self.on_activity()
        tokens, nanodollars = self._totals.get(key, _ZERO)
        if limit.tokens_per_day is not None and tokens >= limit.tokens_per_day:
            return (self.day + 1) * DAY_S - wall_s
        if limit.dollars_per_day is not None and nanodollars >= limit.dollars_per_day * _PER_DOLLAR:
            return (self.day + 1) * DAY_S - wall_s
        return 0.0

    def add(self, key: str, tokens: int, dollars: float, wall_s: float) -> None:
        """Count a request that has ended; it counts for the day on which it ended."""
        self.begin_day(wall_s)
        own = Account(self.me, key)
        self._grow(own, tokens, round(dollars * _PER_DOLLAR))
        self._changed.add(own)
        self.on_activity()

    def spent(self, key: str, wall_s: float) -> Spent:
        """What a key has spent today, at all replicas together as far as this one knows."""
        self.begin_day(wall_s)
        return self._totals.get(key, _ZERO)

    def begin_day(self, wall_s: float) -> int:
        """Start at zero if a new day has begun. Returns the day."""
        day = int(wall_s // DAY_S)
        if day > self.day:  # a clock that is set back does not give a budget again
            self.day = day
            for each in (self._accounts, self._totals, self._changed):
                each.clear()
        return self.day

    def take_changed(self) -> dict[Account, Spent]:
        """The totals that the store does not have yet; `mark_changed` if it did not get them."""
        changed = {account: self._accounts[account] for account in self._changed}
        self._changed = set()
        return changed

    def mark_changed(self, day: int, accounts: Iterable[Account] | None = None) -> None:
        """The store lacks these totals (None: all of them), unless the day has changed."""
        if day == self.day:
            self._changed.update(self._accounts if accounts is None else accounts)

    def merge(self, day: int, totals: Mapping[Account, Spent]) -> None:
        """What replicas have spent, as far as the store knows."""
        if day != self.day:
            return
        for account, spent in totals.items():
            known = self._accounts.get(account, _ZERO)
            self._grow(account, max(0, spent.tokens - known.tokens), max(0, spent.nanodollars - known.nanodollars))

    def _grow(self, account: Account, tokens: int, nanodollars: int) -> None:
        own, total = self._accounts.get(account, _ZERO), self._totals.get(account.key, _ZERO)
        self._accounts[account] = Spent(own.tokens + tokens, own.nanodollars + nanodollars)
        self._totals[account.key] = Spent(total.tokens + tokens, total.nanodollars + nanodollars)


_ZERO: Final = Spent()


def _nothing() -> None:
    """Without other replicas there is nothing to exchange."""
