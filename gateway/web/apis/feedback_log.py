"""Where feedback of clients goes: to the decision log, within the limits of API keys."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gateway.errors import RateLimitExceeded
from gateway.policy_types import Limit
from gateway.ports import Clock, StateStore
from gateway.routing.policy import Policy

Admit = Callable[[str | None], None]


@dataclass(frozen=True, slots=True)
class FeedbackLog:
    """`record` receives an event for the decision log; None: there is no log, and feedback is refused. `admit` raises
    RateLimitExceeded for a key that has reached its limit. `wall_s`: seconds since the epoch."""

    record: Callable[[dict[str, Any]], None] | None
    admit: Admit
    wall_s: Callable[[], float]


def request_limit(
    policy: Callable[[], Policy], state: StateStore, clock: Clock, on_refused: Callable[[str | None], None]
) -> Admit:
    """Counts a request for the requests per minute of a key, whose name is None without keys. Raises RateLimitExceeded.

    Limits of tokens, money and concurrent requests do not apply. `on_refused` receives a key that is over its limit.
    """

    def admit(key: str | None) -> None:
        own = policy().limit_of(key)
        if own is None or own.requests_per_minute is None:
            return
        limit, wall_s = Limit(requests_per_minute=own.requests_per_minute), clock.wall_s()
        refusal = state.acquire_quota(key, limit, clock.now_s(), wall_s)
        if refusal is not None:
            on_refused(key)
            raise RateLimitExceeded("Rate limit exceeded for this API key.", retry_after_s=refusal.wait_s)
        state.release_quota(key, limit, 0, 0.0, wall_s=wall_s)

    return admit
