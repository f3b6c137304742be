"""Everything the gateway needs from outside, on one page. Each has a real implementation and a fake that ships.

Knows records and errors only.
"""

from collections.abc import AsyncIterator
from typing import Protocol

from gateway.records import Attempt, Call, Candidate, Decision, Delta, Health, Status, Verdict


class Reply(Protocol):
    """An answer being received. Exactly one reader; `aclose` may come at any time and hangs up on the target."""

    def deltas(self) -> AsyncIterator[Delta]:
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
        """Does this attempt test a benched lane or an open breaker?"""
        ...


class StateStore(Protocol):
    """What is remembered of targets and lanes. Every call returns at once: replicas are merged behind its back."""

    def health(self, candidate: Candidate, status: Status, now_s: float) -> Health:
        """Look, change nothing."""
        ...

    def enter(self, candidate: Candidate, now_s: float, *, draw: float, relief: bool) -> Permit | Verdict:
        """Ask breaker, capacity and SLO guard, in this order, for leave to call; a Verdict says why not.

        `draw` is uniform in [0, 1). `relief`: a later candidate could take the request and is within its own budget.
        """
        ...

    def leave(self, permit: Permit, attempt: Attempt, now_s: float) -> None:
        """The attempt ended: count its latency for the guard and its fault for the breaker, free its place."""
        ...


class Observer(Protocol):
    """Who listens to what was decided: metrics, logs, traces. Must be quick and must not raise."""

    def decided(self, decision: Decision) -> None:
        """A request has ended, in exactly one way."""
        ...


class Clock(Protocol):
    """Time, so that it can be virtual."""

    def now_s(self) -> float:
        """Monotonic seconds."""
        ...

    def wall_s(self) -> float:
        """Seconds since the epoch, for people."""
        ...
