"""Interfaces (ports) of the request pipeline. Each has a real implementation and a fake that ships with the package."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Final, Protocol

from gateway.decision import AttemptRecord, Decision, Mirrored
from gateway.policy_types import Limit, Quota, QuotaRefusal
from gateway.types import Call, Candidate, Delta, Health, Status, Verdict

HEARTBEAT: Final = Delta(data=b"")
# Take whole chunks of HTTP, each of them an event that adds text to one choice, with the characters of that text, or
# with the time. They return whether there is room for more.
RelayText = Callable[[bytes, int], bool]
Relay = Callable[[bytes, float], bool]


class Deltas(Protocol):
    """An iterator that can be closed, such as an asynchronous generator. One that reads several deltas at a time may
    have a method `arrived`, which returns, after one has been returned, those that can be returned without waiting. One
    with a method `push` can call a function with the deltas of each read, until that returns False; errors, the end and
    all others are returned as usual afterwards. Cancel the call to end it. A second function, if there is one, may be
    called in place of the first one with text that can be passed on as it came. One with a method `whole` may return
    the one delta of a whole response at once, and then needs no closing, or None if it must be waited for; it raises
    AttemptFailed."""

    def __aiter__(self) -> AsyncIterator[Delta]: ...
    def __anext__(self) -> Awaitable[Delta]: ...

    async def aclose(self) -> None:
        """Nothing more will be read."""
        ...


class UpstreamResponse(Protocol):
    """A response being received. It has exactly one reader; `aclose` may be called at any time and cancels it."""

    def deltas(self) -> Deltas:
        """The events of a stream in order, or the single complete response.

        Deltas without `data` may come in between: with `pieces`, they are what a target streams of a response that was
        requested as a whole; HEARTBEAT says only that the target is alive.

        Ends only when the response is complete; raises AttemptFailed (never another error) if it is truncated.
        """
        ...

    async def aclose(self) -> None:
        """Return the connection to the pool, or close it if the response was not read to its end."""
        ...


class Upstream(Protocol):
    """The client for one target or endpoint."""

    @property
    def status(self) -> Status:
        """The last known status of the target; returns without I/O."""
        ...

    async def send(self, call: Call) -> UpstreamResponse:
        """Make one attempt; returns when the response begins. Raises AttemptFailed. Cancelling closes the call."""
        ...

    async def aclose(self) -> None:
        """Stop polling and close connections."""
        ...


class Permit(Protocol):
    """Permission to make one attempt; released exactly once, with the record of the attempt."""

    @property
    def probe(self) -> bool:
        """Whether this attempt probes an ejected lane or a half-open breaker."""
        ...

    def release(self, attempt: AttemptRecord, now_s: float) -> None:
        """Report the outcome to the SLO guard and the breaker, and free the in-flight slot."""
        ...


class Waiter(Protocol):
    """A request that waits for a slot of a full target. Close it in any case."""

    @property
    def waits_for(self) -> Mapping[str, Candidate]:
        """The candidates whose slots it waits for, by name of the target."""
        ...

    @property
    def granted(self) -> Candidate | None:
        """The candidate whose slot it holds."""
        ...

    def leave(self, name: str) -> None:
        """Stop waiting for a target."""
        ...

    def claim(self) -> None:
        """The slot now belongs to a permit."""
        ...

    def close(self) -> None:
        """Leave all queues, or give back a slot that was not claimed."""
        ...


class StateStore(Protocol):
    """State of targets, lanes and keys. No call blocks; state of other replicas is merged in the background."""

    def health(self, candidate: Candidate, status: Status, now_s: float) -> Health:
        """The candidate's health, without side effects; cheap enough to call for every request."""
        ...

    def p95_ms(self, candidate: Candidate, now_s: float) -> float | None:
        """The lane's p95 latency for display; None if there are too few samples."""
        ...

    def acquire(
        self,
        candidate: Candidate,
        now_s: float,
        *,
        sample: float,
        healthy_fallback: bool,
        again: bool = False,
        waiter: Waiter | None = None,
    ) -> Permit | Verdict:
        """A permit from the concurrency limit, the breaker and the SLO guard, or a Verdict with the reason for the
        refusal.

        `sample` is uniform in [0, 1). `healthy_fallback`: a later candidate could serve the request and is within its
        own objective. `again`: this is a retry that `may_retry` allowed. `waiter` was granted the slot for this
        attempt."""
        ...

    def acquire_calm(self, candidate: Candidate, now_s: float) -> Permit | None:
        """A permit, if nothing that this store knows speaks against the candidate, whatever the other candidates are;
        None if `health` and `acquire` must decide. Most requests need no more."""
        ...

    def wait(self, candidates: Sequence[Candidate], key: str | None, wake: Callable[[], None]) -> Waiter:
        """Wait for a slot of any of the candidates' targets, in queues that are fair between API keys. `wake` is called
        when a slot is granted, or when the waiter had to leave the last queue."""
        ...

    def acquire_quota(self, key: str | None, limit: Limit, now_s: float, wall_s: float) -> QuotaRefusal | None:
        """None if the key is within its limit; then call `release_quota` at the end. `wall_s`: since the epoch."""
        ...

    def release_quota(self, key: str | None, limit: Limit, tokens: int, dollars: float, *, wall_s: float) -> None:
        """End a request that `acquire_quota` admitted within `limit`, and count its tokens and its cost."""
        ...

    def quota(self, key: str | None, limit: Limit, now_s: float) -> Quota:
        """What is left of the key's limits per minute."""
        ...

    def may_retry(self, candidate: Candidate) -> bool:
        """Spend one retry of the target's retry budget; False if none is left."""
        ...

    def may_hedge(self, candidate: Candidate) -> bool:
        """Spend one hedge of the lane's budget; False if none is left."""
        ...

    def hedge_after_ms(self, candidate: Candidate, now_s: float) -> float:
        """How long an attempt in the lane may take before it is hedged."""
        ...


class Observer(Protocol):
    """Receives decisions: metrics, logs, traces. Must be fast and must not raise."""

    def decided(self, decision: Decision) -> None:
        """A request has ended; called exactly once for every request."""
        ...

    def mirrored(self, mirrored: Mirrored) -> None:
        """A shadow attempt has ended."""


class Clock(Protocol):
    """Source of time; simulations and tests replace it."""

    def now_s(self) -> float:
        """Monotonic seconds."""
        ...

    def wall_s(self) -> float:
        """Seconds since the epoch, for logs and time windows."""
        ...


class World(Clock, Protocol):
    """Source of time and randomness, injected so that simulations are reproducible."""

    def sample(self) -> float:
        """A random number, uniform in [0, 1)."""
        ...

    def stalled_s(self, since_s: float, now_s: float) -> float:
        """The most that stalls of the event loop can have delayed an attempt that began at `since_s`."""
        ...
