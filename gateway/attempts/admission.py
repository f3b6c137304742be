"""Admission of an attempt: at which endpoint of its target, and whether it may be made now.

Joins the pure checks of `reliability` with the state of targets and lanes. Checks without side effects come first.
"""

from collections.abc import Callable, Collection, Container, Iterable

from gateway.attempts.context_limits import ContextLimits
from gateway.attempts.request_context import RequestContext
from gateway.enums import BreakerState
from gateway.ports import Permit, StateStore, Upstream, Waiter, World
from gateway.reliability.admission import (
    admit,
    check_context_length,
    check_predicted_wait,
    check_shared_failure,
    has_healthy_fallback,
    is_ready_for,
    needs_fallback,
)
from gateway.reliability.last_resort import worth_waiting
from gateway.reliability.load_balancing import pick_endpoint
from gateway.types import Candidate, Health, Query, Status, Target, Verdict


class Admission:
    """Of all requests of a pipeline. `context_limits` are those that targets named in their errors."""

    def __init__(self, upstreams: Callable[[Target], Upstream], state: StateStore, world: World) -> None:
        self.context_limits = ContextLimits()
        self._upstreams = upstreams
        self._state = state
        self._world = world

    def acquire(
        self,
        context: RequestContext,
        candidate: Candidate,
        later: Collection[Candidate],
        *,
        status: Status,
        again: bool = False,
        waiter: Waiter | None = None,
    ) -> Permit | Verdict:
        """A permit to call a candidate, or the reason for the refusal. Whether one of the `later` candidates could take
        over matters only where the lane is near its objective."""
        now_s = self._world.now_s()
        if waiter is None and not (again or context.failed or context.needed_tokens):
            left_ms = None if context.plan.deadline_ms is None else context.left_ms(now_s)
            if is_ready_for(candidate, context.query, status, left_ms=left_ms):
                permit = self._state.acquire_calm(candidate, now_s)
                if permit is not None:
                    self._world.sample()  # as below: what is random later in a request depends on no lane
                    return permit
        health = self._state.health(candidate, status, now_s)
        verdict = self.check(context, candidate, health, now_s)
        if verdict.reason is not None:
            return verdict
        healthy_fallback = needs_fallback(candidate, health) and has_healthy_fallback(
            candidate, self._healths(later, context.query), context.query
        )
        if healthy_fallback and not (verdict := check_predicted_wait(candidate, health)).admitted:
            return verdict
        sample = self._world.sample()
        return self._state.acquire(
            candidate, now_s, sample=sample, healthy_fallback=healthy_fallback, again=again, waiter=waiter
        )

    def verdicts(
        self, context: RequestContext, candidates: Iterable[Candidate]
    ) -> tuple[tuple[Candidate, Health, Verdict], ...]:
        """What would be decided for each candidate now, without side effects."""
        now_s = self._world.now_s()
        found = self._healths(candidates, context.query)
        return tuple((each, health, self.check(context, each, health, now_s)) for each, health in found)

    def full_endpoints(self, context: RequestContext, tried: Container[str]) -> tuple[Candidate, ...]:
        """The endpoints of full candidates that could serve the request."""
        return tuple(
            endpoint
            for candidate in worth_waiting(context.skipped)
            for endpoint in candidate.endpoints
            if endpoint.target.name not in tried
            and endpoint.target.queue.max_requests
            and (health := self.health(endpoint)).breaker is not BreakerState.OPEN
            and self.check(context, endpoint, health, self._world.now_s()).admitted
        )

    def check(self, context: RequestContext, candidate: Candidate, health: Health, now_s: float) -> Verdict:
        """The checks that have no side effects."""
        if context.failed and not (verdict := check_shared_failure(candidate, context.failed)).admitted:
            return verdict
        if context.needed_tokens:
            capabilities = candidate.target.capabilities or health.status.capabilities
            declared = capabilities.context_length if capabilities is not None else None
            limit = self.context_limits.of(candidate.target, now_s) or declared
            verdict = check_context_length(context.needed_tokens, limit)
            if not verdict.admitted:
                return verdict
        return admit(candidate, context.query, health, left_ms=context.left_ms(now_s))

    def at_endpoint(self, candidate: Candidate, query: Query, *, avoid: Container[str] = ()) -> Candidate:
        """The candidate at one of its target's endpoints, chosen by load balancing."""
        return pick_endpoint(candidate, query, self.health, avoid=avoid) if candidate.per_endpoint else candidate

    def health(self, candidate: Candidate) -> Health:
        """What is known of a candidate now."""
        return self._state.health(candidate, self._upstreams(candidate.target).status, self._world.now_s())

    def _healths(self, candidates: Iterable[Candidate], query: Query) -> Iterable[tuple[Candidate, Health]]:
        return ((each, self.health(each)) for each in (self.at_endpoint(one, query) for one in candidates))
