"""Rate limits per API key: requests and tokens per minute, and concurrent requests.

Each per-minute limit is a leaky bucket (Turner 1986): usage fills it, it drains at the rate of the limit, and a request
that would overflow it has to wait. Tokens are known only at the end of a response, so they may overfill the bucket; the
key then waits until it has drained. Replicas exchange totals that only grow, and each adds the growth of the others'
totals, so receiving a snapshot twice changes nothing. A key that uses several replicas is limited with a delay of about
a second.
"""

from collections.abc import Sequence
from math import inf
from typing import Final

from gateway.policy_types import Limit, LimitStatus, Quota
from gateway.reliability.replication import KeyUsageSnapshot

_MINUTE_S: Final = 60.0
PEER_TTL_S: Final = 3.0  # a peer's snapshot older than a few exchanges is ignored
_MAX_PEERS: Final = 64  # remembered for each key; some may have ended
ANONYMOUS: Final = ""  # all requests without a key count as one key


class _Bucket:
    """A leaky bucket: usage that has not drained yet."""

    __slots__ = ("_at_s", "_level")

    def __init__(self) -> None:
        self._level = 0.0
        self._at_s = 0.0

    def add(self, amount: float) -> None:
        self._level += amount

    def wait_s(self, now_s: float, per_minute: float, amount: float) -> float:
        """Seconds until `amount` fits; 0 if it fits now."""
        self._drain(now_s, per_minute)
        return max(0.0, self._level + amount - per_minute) * _MINUTE_S / per_minute

    def status(self, now_s: float, per_minute: float) -> LimitStatus:
        """What still fits now."""
        self._drain(now_s, per_minute)
        remaining, reset_s = max(0.0, per_minute - self._level), self._level * _MINUTE_S / per_minute
        return LimitStatus(limit=per_minute, remaining=remaining, reset_s=reset_s)

    def _drain(self, now_s: float, per_minute: float) -> None:
        drained = max(0.0, now_s - self._at_s) * per_minute / _MINUTE_S
        self._level = max(0.0, self._level - drained)
        self._at_s = now_s


class _Counters:
    """One key's counters. `requests` and `tokens` are this replica's totals since it started."""

    __slots__ = ("in_flight", "peers", "peers_in_flight", "request_bucket", "requests", "token_bucket", "tokens")

    def __init__(self) -> None:
        self.requests = 0
        self.tokens = 0
        self.in_flight = 0
        self.request_bucket = _Bucket()
        self.token_bucket = _Bucket()
        self.peers: dict[str, KeyUsageSnapshot] = {}
        self.peers_in_flight = 0


class KeyUsage:
    """Usage of all keys that have a limit."""

    def __init__(self) -> None:
        self._counters: dict[str, _Counters] = {}
        self._merged_s = -inf

    def acquire(self, key: str | None, limit: Limit, now_s: float) -> float | None:
        """None if the request is within the limit (then call `release` at its end); else the seconds to wait."""
        own = self._of(key)
        peers_in_flight = own.peers_in_flight if now_s - self._merged_s <= PEER_TTL_S else 0
        if limit.max_in_flight is not None and own.in_flight + peers_in_flight >= limit.max_in_flight:
            return 1.0
        waits_s = [0.0]
        if limit.requests_per_minute is not None:
            waits_s.append(own.request_bucket.wait_s(now_s, limit.requests_per_minute, 1.0))
        if limit.tokens_per_minute is not None:
            waits_s.append(own.token_bucket.wait_s(now_s, limit.tokens_per_minute, 0.0))
        if max(waits_s) > 0:
            return max(waits_s)
        own.requests += 1
        own.in_flight += 1
        own.request_bucket.add(1.0)
        return None

    def release(self, key: str | None, tokens: int) -> None:
        """End an acquired request and count its tokens."""
        own = self._of(key)
        own.in_flight -= 1
        own.tokens += tokens
        own.token_bucket.add(tokens)

    def quota(self, key: str | None, limit: Limit, now_s: float) -> Quota:
        """What is left of the key's limits per minute."""
        own, requests, tokens = self._of(key), limit.requests_per_minute, limit.tokens_per_minute
        return Quota(
            requests=None if requests is None else own.request_bucket.status(now_s, requests),
            tokens=None if tokens is None else own.token_bucket.status(now_s, tokens),
        )

    def snapshot(self) -> tuple[tuple[str, KeyUsageSnapshot], ...]:
        """The totals to send to other replicas."""
        return tuple(
            (key, KeyUsageSnapshot(requests=own.requests, tokens=own.tokens, in_flight=own.in_flight))
            for key, own in self._counters.items()
        )

    def merge(self, now_s: float, peers: Sequence[tuple[str, Sequence[tuple[str, KeyUsageSnapshot]]]]) -> None:
        """Add the growth of the peers' totals. The first totals of a new peer may be old: they add nothing."""
        self._merged_s = now_s
        for own in self._counters.values():
            own.peers_in_flight = 0
        for name, snapshots in peers:
            for key, snapshot in snapshots:
                own = self._of(key)
                before = own.peers.get(name, snapshot)
                own.request_bucket.add(max(0, snapshot.requests - before.requests))
                own.token_bucket.add(max(0, snapshot.tokens - before.tokens))
                own.peers[name] = snapshot
                if len(own.peers) > _MAX_PEERS:
                    del own.peers[next(iter(own.peers))]
                own.peers_in_flight += snapshot.in_flight

    def _of(self, key: str | None) -> _Counters:
        own = self._counters.get(key or ANONYMOUS)
        if own is None:
            own = self._counters[key or ANONYMOUS] = _Counters()
        return own
