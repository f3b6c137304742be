"""How much each key has used: requests and tokens of the last minute, and requests under way.

A leaky bucket for each (Turner 1986): use fills it, time empties it at the limit's rate, and who would make it overflow
waits. Tokens are known when an answer ends, so they may overfill it; then the key waits until it has leaked. Replicas
tell each other totals that only grow, and each pours in what the others' have grown by: hearing it twice changes
nothing, and a key that spreads its requests over replicas is held to its limit about a second late. Knows no clock and
no policy.
"""

from collections.abc import Sequence
from math import inf
from typing import Final

from gateway.policy_types import Limit
from gateway.reliability.replication import KeyUsageSnapshot

_MINUTE_S: Final = 60.0
LIVING_S: Final = 3.0  # what was heard longer ago than a few exchanges is no present any more
_MOST_HEARD: Final = 64  # replicas, of which many may be dead
_NOBODY: Final = ""  # requests without a key are one key


class _Bucket:
    """What was used and has not leaked yet."""

    __slots__ = ("_at_s", "_level")

    def __init__(self) -> None:
        self._level = 0.0
        self._at_s = 0.0

    def pour(self, amount: float) -> None:
        self._level += amount

    def wait_s(self, now_s: float, per_minute: float, amount: float) -> float:
        """How long until there is room for so much; 0: there is."""
        leaked = max(0.0, now_s - self._at_s) * per_minute / _MINUTE_S
        self._level = max(0.0, self._level - leaked)
        self._at_s = now_s
        return max(0.0, self._level + amount - per_minute) * _MINUTE_S / per_minute


class _Use:
    """One key's. `requests` and `tokens` are all that were ever counted here."""

    __slots__ = ("elsewhere", "heard", "in_flight", "of_requests", "of_tokens", "requests", "tokens")

    def __init__(self) -> None:
        self.requests = 0
        self.tokens = 0
        self.in_flight = 0
        self.of_requests = _Bucket()
        self.of_tokens = _Bucket()
        self.heard: dict[str, KeyUsageSnapshot] = {}
        self.elsewhere = 0  # in flight


class KeyUsage:
    """Of all keys. Only those that a limit holds for are counted."""

    def __init__(self) -> None:
        self._uses: dict[str, _Use] = {}
        self._heard_s = -inf

    def acquire(self, key: str | None, limit: Limit, now_s: float) -> float | None:
        """None: the request may pass, and `left` must be told of its end. Else how many seconds to wait."""
        use = self._of(key)
        elsewhere = use.elsewhere if now_s - self._heard_s <= LIVING_S else 0
        if limit.max_in_flight is not None and use.in_flight + elsewhere >= limit.max_in_flight:
            return 1.0
        waits_s = [0.0]
        if limit.requests_per_minute is not None:
            waits_s.append(use.of_requests.wait_s(now_s, limit.requests_per_minute, 1.0))
        if limit.tokens_per_minute is not None:
            waits_s.append(use.of_tokens.wait_s(now_s, limit.tokens_per_minute, 0.0))
        if max(waits_s) > 0:
            return max(waits_s)
        use.requests += 1
        use.in_flight += 1
        use.of_requests.pour(1.0)
        return None

    def left(self, key: str | None, tokens: int) -> None:
        """A request that had passed has ended, and used so many tokens."""
        use = self._of(key)
        use.in_flight -= 1
        use.tokens += tokens
        use.of_tokens.pour(tokens)

    def snapshot(self) -> tuple[tuple[str, KeyUsageSnapshot], ...]:
        """What to tell other replicas."""
        return tuple(
            (key, KeyUsageSnapshot(requests=use.requests, tokens=use.tokens, in_flight=use.in_flight))
            for key, use in self._uses.items()
        )

    def merge(self, now_s: float, heard: Sequence[tuple[str, Sequence[tuple[str, KeyUsageSnapshot]]]]) -> None:
        """What others that live have counted by now. Of one that is new here, its past may be long ago: it is left."""
        self._heard_s = now_s
        for use in self._uses.values():
            use.elsewhere = 0
        for name, reports in heard:
            for key, snapshot in reports:
                use = self._of(key)
                before = use.heard.get(name, snapshot)
                use.of_requests.pour(max(0, snapshot.requests - before.requests))
                use.of_tokens.pour(max(0, snapshot.tokens - before.tokens))
                use.heard[name] = snapshot
                if len(use.heard) > _MOST_HEARD:
                    del use.heard[next(iter(use.heard))]
                use.elsewhere += snapshot.in_flight

    def _of(self, key: str | None) -> _Use:
        use = self._uses.get(key or _NOBODY)
        if use is None:
            use = self._uses[key or _NOBODY] = _Use()
        return use
