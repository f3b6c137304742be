"""Which of a target's several servers is asked: the one that will be free first, and where alike, the one that has seen
the beginning of this prompt before.

A prompt's favourite is found by its beginning alone (rendezvous hashing, Thaler and Ravishankar 1998), so every gateway
finds the same, and a server that comes or goes moves nobody else's. It is left when it has more to do than its share
(after Mirrokni, Thorup and Zadimoghaddam 2018, "Consistent Hashing with Bounded Loads"). Knows health, not who asks.
"""

from collections.abc import Callable, Container
from hashlib import blake2b
from typing import Final

from gateway.enums import BreakerState
from gateway.reliability.admission import admit
from gateway.types import Candidate, Health, Query

PREFIX_CHARS: Final = 1024
# What a warm prefix is worth: it saves reading the prompt again, which takes about as long.
_WORTH_MS: Final = 50.0
_WORTH_REQUESTS: Final = 1


def pick_endpoint(
    candidate: Candidate, query: Query, health_of: Callable[[Candidate], Health], *, avoid: Container[str] = ()
) -> Candidate:
    """The candidate at one of its servers; those at a url in `avoid`, or that cannot be called, come last."""
    if not candidate.servers:
        return candidate
    looks = [(each, health_of(each)) for each in candidate.servers]
    able = [look for look in looks if look[0].target.url not in avoid and _can_take(*look, query)]
    if not able:
        return min(looks, key=lambda look: (look[0].target.url in avoid, look[1].in_flight))[0]
    free, free_health = min(able, key=lambda look: _load(look[1]))
    favourite, health = max(able, key=lambda look: _liking(look[0].target.url, query.prefix_text))
    is_busy = health.in_flight > free_health.in_flight + _WORTH_REQUESTS or _wait_ms(health) > (
        _wait_ms(free_health) + _WORTH_MS
    )
    return free if is_busy else favourite


def _can_take(candidate: Candidate, health: Health, query: Query) -> bool:
    most = candidate.target.max_in_flight
    has_room = most is None or health.in_flight < most
    return has_room and health.breaker is not BreakerState.OPEN and admit(candidate, query, health).admitted


def _load(health: Health) -> tuple[float, int]:
    return _wait_ms(health), health.in_flight


def _wait_ms(health: Health) -> float:
    """As the server says; where it does not, requests in flight decide alone."""
    return health.status.predicted_wait_ms or 0.0


def _liking(url: str, prefix: str) -> bytes:
    return blake2b(f"{url}\n{prefix}".encode("utf-8", "replace"), digest_size=8).digest()
