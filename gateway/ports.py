"""Everything the gateway needs from outside, on one page. Each has a real implementation and a fake that ships.

Knows records and errors only.
"""

from collections.abc import AsyncGenerator
from typing import Protocol

from gateway.decision import AttemptRecord, Decision, Mirrored
from gateway.policy_types import Limit
from gateway.types import Call, Candidate, Delta, Health, Status, Verdict


class Reply(Protocol):
    """An answer being received. Exactly one reader; `aclose` may come at any time and hangs up on the target."""

    def deltas(self) -> AsyncGenerator[Delta, None]:
        """The events of a stream in order, or the one whole answer.

        Ends only when the answer is complete; raises an AttemptFailed (never a foreign error) if it is cut short.
        """
        ...

    async def aclose(self) -> None:
        """Give the connection back, or close it if the answer was not read to its end."""
        ...


class Upstream(Protocol):
    """The door to one target."""

    @property
    def status(self) -> Status:
        """What is known of the target now; costs nothing."""
        ...

    async def send(self, call: Call) -> Reply:
        """Make one attempt; returns when the target's answer begins. Raises AttemptFailed. Cancelling it hangs up."""
        ...

    async def aclose(self) -> None:
        """Stop polling, close connections."""
        ...


class Permit(Protocol):
    """Leave to make one attempt; handed back exactly once, with how it ended."""

    @property
    def probe(self) -> bool:
        """Does this attempt test a ejected lane or an open breaker?"""
        ...

    def release(self, attempt: AttemptRecord, now_s: float) -> None:
        """Count the latency for the guard and the fault for the breaker, free the place."""
        ...


class StateStore(Protocol):
    """What is remembered of targets and lanes. Every call returns at once: replicas are merged behind its back."""

    def health(self, candidate: Candidate, status: Status, now_s: float) -> Health:
        """Look, change nothing; cheap enough for every request."""
        ...

    def p95_ms(self, candidate: Candidate, now_s: float) -> float | None:
        """The lane's p95 for display; None with too few answers to tell."""
        ...

    def acquire(
        self, candidate: Candidate, now_s: float, *, sample: float, healthy_fallback: bool, again: bool = False
    ) -> Permit | Verdict:
        """Ask for room, of the breaker and of the SLO guard, for leave to call; a Verdict says why not.

        `sample` is uniform in [0, 1). `healthy_fallback`: a later candidate could take the request and is within its
        own budget. `again`: this is a retry, for which `may_retry` was asked."""
        ...

    def acquire_quota(self, key: str | None, limit: Limit, now_s: float) -> float | None:
        """May this key have another request? None: yes, and `release_quota` must be told of its end; else seconds to
        wait."""
        ...

    def release_quota(self, key: str | None, tokens: int) -> None:
        """A request that was let in has ended, and used so many tokens."""
        ...

    def may_retry(self, candidate: Candidate) -> bool:
        """Is there a retry left for the target? If so it is taken."""
        ...

    def may_hedge(self, candidate: Candidate) -> bool:
        """Is there a hedge left for the lane? If so it is taken."""
        ...

    def hedge_after_ms(self, candidate: Candidate, now_s: float) -> float:
        """How long an attempt at the lane may take before a hedge is made beside it."""
        ...


class Observer(Protocol):
    """Who listens to what was decided: metrics, logs, traces. Must be quick and must not raise."""

    def decided(self, decision: Decision) -> None:
        """A request has ended, in exactly one way."""
        ...

    def mirrored(self, mirrored: Mirrored) -> None:
        """A shadow was asked, too. Nobody needs to care."""


class Clock(Protocol):
    """Time, so that it can be virtual."""

    def now_s(self) -> float:
        """Monotonic seconds."""
        ...

    def wall_s(self) -> float:
        """Seconds since the epoch, for people."""
        ...


class World(Clock, Protocol):
    """Time and chance: what nobody below the composition root takes for himself."""

    def sample(self) -> float:
        """A number in [0, 1), all equally likely."""
        ...
