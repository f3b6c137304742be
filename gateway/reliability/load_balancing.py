"""Load balancing between the endpoints of a target: prefix-affine rendezvous hashing with bounded load.

A prompt's preferred endpoint depends only on the beginning of the prompt (rendezvous hashing, Thaler and Ravishankar
1998), so that every gateway prefers the same one, where the prefix is probably cached, and adding or removing an
endpoint moves no other prompts. If the preferred endpoint is busier than the least loaded one by more than the value of
a cached prefix, the least loaded one is picked (after Mirrokni, Thorup and Zadimoghaddam 2018, "Consistent Hashing with
Bounded Loads").
"""

from collections.abc import Callable, Container
from hashlib import blake2b
from typing import Final

from gateway.enums import BreakerState
from gateway.reliability.admission import admit
from gateway.types import Candidate, Health, Query

PREFIX_CHARS: Final = 1024
# The value of a cached prefix: it saves a prefill, which takes about as long.
_AFFINITY_MS: Final = 50.0
_AFFINITY_REQUESTS: Final = 1


def pick_endpoint(
    candidate: Candidate, query: Query, health_of: Callable[[Candidate], Health], *, avoid: Container[str] = ()
) -> Candidate:
    """The candidate at one of its endpoints. Endpoints in `avoid` (by url) or not admitted are the last resort."""
    if not candidate.per_endpoint:
        return candidate
    all_endpoints = [(each, health_of(each)) for each in candidate.per_endpoint]
    admitted = [each for each in all_endpoints if each[0].target.url not in avoid and _is_admitted(*each, query)]
    if not admitted:
        return min(all_endpoints, key=lambda each: (each[0].target.url in avoid, each[1].in_flight))[0]
    least_loaded, least_health = min(admitted, key=lambda each: _load(each[1]))
    preferred, health = max(admitted, key=lambda each: _rendezvous_score(each[0].target.url, query.prefix_text))
    is_overloaded = health.in_flight > least_health.in_flight + _AFFINITY_REQUESTS or _wait_ms(health) > (
        _wait_ms(least_health) + _AFFINITY_MS
    )
    return least_loaded if is_overloaded else preferred


def _is_admitted(candidate: Candidate, health: Health, query: Query) -> bool:
    limit = candidate.target.max_in_flight
    has_capacity = limit is None or health.in_flight < limit
    return has_capacity and health.breaker is not BreakerState.OPEN and admit(candidate, query, health).admitted


def _load(health: Health) -> tuple[float, int]:
    return _wait_ms(health), health.in_flight


def _wait_ms(health: Health) -> float:
    """The wait that the endpoint predicts; 0 if it predicts none, so that requests in flight decide."""
    return health.status.predicted_wait_ms or 0.0


def _rendezvous_score(url: str, prefix: str) -> bytes:
    return blake2b(f"{url}\n{prefix}".encode("utf-8", "replace"), digest_size=8).digest()
