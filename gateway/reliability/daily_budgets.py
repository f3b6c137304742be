"""Daily budgets of API keys, in tokens and dollars; a day begins at midnight UTC.

Tokens and costs are known only at the end of a request, so a key overspends by at most its requests in flight. Each
replica counts what it spent itself, in numbers that only grow during a day, and adds the last known numbers of the
others (`state.shared_budgets` exchanges them). Dollars are counted in integer billionths: sums must not drift.
"""

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from gateway.policy_types import Limit

DAY_S: Final = 86_400
_PER_DOLLAR: Final = 1_000_000_000


class Spent(NamedTuple):
    """What was spent in one day: tokens, and billionths of a dollar."""

    tokens: int = 0
    nanodollars: int = 0


class DailyBudgets:
    """What all keys spent today."""

    def __init__(self) -> None:
        self.on_activity: Callable[[], None] = _nothing  # called when a key was checked or has spent
        self.day = 0  # since the epoch
        self._own: dict[str, Spent] = {}
        self._others: dict[str, Spent] = {}
        self._asked: set[str] = set()  # keys whose totals other replicas may have changed
        self._changed: set[str] = set()  # keys whose own totals other replicas do not know yet

    def wait_s(self, key: str, limit: Limit, wall_s: float) -> float:
        """0 if the key has budget left today, otherwise the seconds until the next day. `wall_s`: since the epoch."""
        if not limit.is_daily:
            return 0.0
        self._begin_day(wall_s)
        self._asked.add(key)
        self.on_activity()
        own, others = self._own.get(key, _ZERO), self._others.get(key, _ZERO)
        if limit.tokens_per_day is not None and own.tokens + others.tokens >= limit.tokens_per_day:
            return (self.day + 1) * DAY_S - wall_s
        nanodollars = own.nanodollars + others.nanodollars
        if limit.dollars_per_day is not None and nanodollars >= limit.dollars_per_day * _PER_DOLLAR:
            return (self.day + 1) * DAY_S - wall_s
        return 0.0

    def add(self, key: str, tokens: int, dollars: float, wall_s: float) -> None:
        """Count a request that has ended; it counts for the day on which it ended."""
        self._begin_day(wall_s)
        own = self._own.get(key, _ZERO)
        self._own[key] = Spent(own.tokens + tokens, own.nanodollars + round(dollars * _PER_DOLLAR))
        self._changed.add(key)
        self.on_activity()

    def take_outgoing(self) -> tuple[dict[str, Spent], set[str]]:
        """The own totals to send now, and all keys whose totals to ask for. `return_outgoing` if that fails."""
        changed = {key: self._own[key] for key in self._changed}
        asked = self._asked | self._changed
        self._asked, self._changed = set(), set()
        return changed, asked

    def return_outgoing(self, day: int, changed: Iterable[str], asked: Iterable[str]) -> None:
        """These could not be exchanged: do it next time, unless the day has changed."""
        if day == self.day:
            self._changed.update(changed)
            self._asked.update(asked)

    def set_others(self, day: int, key: str, spent: Spent) -> None:
        """What all other replicas together have spent."""
        if day == self.day:
            self._others[key] = spent

    def begin_day(self, wall_s: float) -> int:
        """Start at zero if a new day has begun. Returns the day."""
        self._begin_day(wall_s)
        return self.day

    def _begin_day(self, wall_s: float) -> None:
        day = int(wall_s // DAY_S)
        if day > self.day:  # a clock that is set back does not give a budget again
            self.day = day
            for each in (self._own, self._others, self._asked, self._changed):
                each.clear()


_ZERO: Final = Spent()


def _nothing() -> None:
    """Without other replicas nobody needs to know."""
