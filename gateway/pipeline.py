"""The request pipeline: classify, route, then try the candidates in order, with retries, hedging and fallback.

This module contains the complete control flow of a request. It calls pure decision functions (`routing`, `reliability`)
and ports (`ports.py`), never sockets. Every request ends with exactly one `Decision`, which explains it.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable
from contextlib import closing, suppress
from typing import Protocol

from gateway.attempts.admission import Admission
from gateway.attempts.attempt import Attempt
from gateway.attempts.hedging import open_hedged
from gateway.attempts.request_context import RequestContext
from gateway.attempts.response import GatewayResponse
from gateway.attempts.shadow import Shadows
from gateway.attempts.token_count import TokenCount, count_tokens
from gateway.attempts.waiting import Queued, wait_for_slot
from gateway.decision import Decision
from gateway.enums import Outcome, Reason
from gateway.errors import BudgetExceeded, ContextLengthExceeded, GatewayError, OutOfBytes, RateLimitExceeded
from gateway.policy_types import Quota
from gateway.ports import Observer, StateStore, Upstream, World
from gateway.reliability.last_resort import last_resorts
from gateway.routing.classify import Classify
from gateway.routing.policy import Policy
from gateway.routing.route import no_plan, plan_request
from gateway.types import Candidate, Health, Plan, Query, Target, Verdict


class Policies(Protocol):
    """Source of the active policy."""

    @property
    def current(self) -> Policy:
        """The policy for requests that start now; a request keeps its policy until it ends."""
        ...


class Pipeline:
    """Handles queries; one per process. `classify` finds a query's task, `upstreams` the client of a target."""

    def __init__(
        self,
        *,
        policies: Policies,
        classify: Classify,
        upstreams: Callable[[Target], Upstream],
        state: StateStore,
        observer: Observer,
        world: World,
    ) -> None:
        self._policies = policies
        self._classify = classify
        self._upstreams = upstreams
        self._state = state
        self._observer = observer
        self._world = world
        self.on_plan: Callable[[Query, Plan], None] | None = None  # of queries that are about to be sent
        self._admission = Admission(upstreams, state, world)
        self._shadows = Shadows(self._handle_shadow, observer, world)
        self._is_stopped = False

    async def handle(
        self, query: Query, *, on_start: Callable[[RequestContext], None] | None = None
    ) -> GatewayResponse:
        """Return exactly one response: deltas to send, or an error with the reason. The caller closes it.

        `on_start` receives the context once the request is routed, before any target is called. Cancelling this call
        cancels the attempts in progress.
        """
        context, error = self._route(query, self._world.sample())
        if on_start is not None:
            on_start(context)
        if error is None and self._policies.current.limits:
            error = self._check_rate_limit(context)
        if error is not None:
            return self._error_response(context, error)
        if self.on_plan is not None:
            self.on_plan(query, context.plan)
        try:
            attempt = await self._try_in_order(context, context.plan.candidates)
            if attempt is None and context.skipped:
                attempt = await self._try_skipped(context)
            if attempt is None:
                buffered = context.commit_surest(self._world.now_s())
            else:
                buffered = attempt.commit()
                if attempt.is_complete and not attempt.is_closed:
                    await attempt.aclose()
        except OutOfBytes:
            attempt, buffered = None, context.commit_surest(self._world.now_s())
        except BaseException as exc:  # a request that ends with a bug still gets its decision
            context.outcome = Outcome.CLIENT_GONE if isinstance(exc, asyncio.CancelledError) else Outcome.ERROR
            self._finish(context)
            raise
        if attempt is None and not buffered:
            return self._error_response(context, context.final_error())
        recorder = self._shadows.recorder(context, self._world.sample()) if context.plan.shadow is not None else None
        return GatewayResponse(context, self._finish, buffered=buffered, attempt=attempt, recorder=recorder)

    def quota(self, query: Query) -> Quota | None:
        """What is left of the limits of the request's API key; None if it has none."""
        policy = self._policies.current
        limit = policy.limit_of(query.principal) if policy.limits else None
        return None if limit is None else self._state.quota(query.principal, limit, self._world.now_s())

    def stop(self) -> None:
        """The gateway ends: requests that are cancelled from now on failed, their clients did not leave."""
        self._is_stopped = True

    async def aclose(self) -> None:
        """Cancel the shadow requests in progress."""
        await self._shadows.aclose()

    def explain(self, query: Query) -> tuple[Decision, tuple[tuple[Candidate, Health, Verdict], ...]]:
        """Dry run: the decision for a query now, without calls or side effects. Traffic splits use their first target.

        Raises ModelNotFound, NoTargetInLocation.
        """
        context, error = self._route(query, 0.0)
        if error is not None:
            raise error
        verdicts = self._admission.verdicts(context, context.plan.candidates)
        return context.decision(self._world.now_s()), verdicts

    async def count_tokens(self, query: Query) -> TokenCount:
        """The input tokens of a query at the target that it would go to now. Not an attempt: no limit counts it.

        Raises ModelNotFound, NoTargetInLocation.
        """
        evaluations = self.explain(query)[1]
        target = next((each for each, _, verdict in evaluations if verdict.admitted), evaluations[0][0]).target
        return await count_tokens(self._upstreams(target), target, query)

    # Routing

    def _route(self, query: Query, sample: float) -> tuple[RequestContext, GatewayError | None]:
        """Classify a query and plan its candidates. A query without a route gets a context too, for its decision."""
        policy, world, error = self._policies.current, self._world, None
        classification, wall_s = self._classify(query), world.wall_s()
        try:
            plan = plan_request(policy, query, classification, wall_s=wall_s, sample=sample)
        except GatewayError as fault:
            plan, error = no_plan(policy, query), fault
        return RequestContext(query, classification, plan, wall_s=wall_s, now_s=world.now_s()), error

    def _check_rate_limit(self, context: RequestContext) -> RateLimitExceeded | None:
        """Acquire the quota of the request's API key. Shadow requests are not counted."""
        query, limit = context.query, self._policies.current.limit_of(context.query.principal)
        if limit is None:
            return None
        refusal = self._state.acquire_quota(query.principal, limit, self._world.now_s(), self._world.wall_s())
        if refusal is not None and refusal.is_daily:
            return BudgetExceeded("This API key has used its budget of today (UTC).", retry_after_s=refusal.wait_s)
        if refusal is not None:
            return RateLimitExceeded("Rate limit exceeded for this API key.", retry_after_s=refusal.wait_s)
        context.limit = limit
        return None

    # Attempts: candidates in order, with retries and hedging

    async def _try_in_order(self, context: RequestContext, candidates: Iterable[Candidate]) -> Attempt | None:
        """The first attempt whose response may be served; None if every candidate failed or was skipped."""
        remaining = list(candidates)
        failures: dict[str, int] = {}  # by target
        while remaining:
            candidate = remaining.pop(0)
            is_again = candidate.target.policy_name in failures
            attempt = self._start_attempt(context, candidate, remaining, again=is_again)
            if attempt is None:
                continue
            if candidate.hedge is None or not remaining:
                winner = await attempt.open()
            else:
                winner = await self._open_hedged(context, attempt, remaining)
            if winner is not None:
                return winner
            self._learn(attempt)
            name = candidate.target.policy_name
            failures[name] = failures.get(name, 0) + 1
            if self._should_retry(candidate, attempt, failures[name]):
                remaining.insert(0, self._policies.current.with_current_endpoints(candidate))
        return None

    def _learn(self, attempt: Attempt) -> None:
        """Remember a context length that a target named in its error. Raises OutOfBytes: a shortage of the gateway's
        own moves no request to another target."""
        error = attempt.error
        if isinstance(error, OutOfBytes):
            raise error
        if isinstance(error, ContextLengthExceeded) and error.limit is not None:
            self._admission.context_limits.learn(attempt.candidate.target, error.limit, self._world.now_s())

    async def _try_skipped(self, context: RequestContext) -> Attempt | None:
        """Try the candidates that were skipped for their latency, then those that were full."""
        slow = last_resorts(context.skipped)
        context.forgive_slowness(slow)
        return await self._try_in_order(context, slow) or await self._try_when_free(context)

    async def _try_when_free(self, context: RequestContext) -> Attempt | None:
        """Wait for a slot of the full candidates and try the one that grants it; if that fails, wait for the others."""
        began_s, left_ms = self._world.now_s(), context.left_ms(self._world.now_s())
        deadline_s = None if left_ms is None else began_s + left_ms / 1000
        tried: set[str] = set()
        while candidates := self._admission.full_endpoints(context, tried):
            waiter = await wait_for_slot(
                candidates,
                context.query.principal,
                state=self._state,
                clock=self._world,
                began_s=began_s,
                deadline_s=deadline_s,
            )
            with closing(waiter):
                now_s = self._world.now_s()
                queued_ms = (now_s - began_s) * 1000
                if waiter.granted is None:
                    if queued_ms > 0:
                        is_late = deadline_s is not None and now_s >= deadline_s
                        reason = Reason.DEADLINE if is_late else Reason.OVERLOADED
                        verdict = Verdict(reason=reason, detail=f"no free slot within {queued_ms:.0f} ms")
                        context.skip(candidates[0], verdict, now_s, queued_ms=queued_ms)
                    return None
                tried.add(waiter.granted.target.name)
                began_s = now_s
                name = waiter.granted.target.policy_name
                has_others = any(each.target.policy_name != name for each in candidates)
                queued = Queued(waiter, queued_ms, has_others)
                attempt = self._start_attempt(context, waiter.granted, (), queued=queued)
            if attempt is not None:
                winner = await attempt.open()
                if winner is not None:
                    return winner
                self._learn(attempt)
        return None

    def _should_retry(self, candidate: Candidate, attempt: Attempt, tries: int) -> bool:
        """Whether to try the same target again. An endpoint that is draining or cannot be reached has not started any
        work, so trying another one needs no retry budget; an endpoint that failed may fail again at the same cost."""
        error = attempt.error
        if error is None or not error.retryable:
            return False
        if not error.may_have_begun and tries < len(candidate.per_endpoint):
            return True
        retry = candidate.target.retry if error.reason is Reason.UPSTREAM_ERROR else None
        return retry is not None and tries <= retry.times and self._state.may_retry(candidate)

    async def _open_hedged(
        self, context: RequestContext, attempt: Attempt, remaining: list[Candidate]
    ) -> Attempt | None:
        """Open an attempt, and one at the next candidate if it is slow; the one that succeeded, or None."""
        slow = attempt.candidate
        after_s = self._state.hedge_after_ms(slow, self._world.now_s()) / 1000
        return await open_hedged(attempt, after_s=after_s, second=lambda: self._start_hedge(context, slow, remaining))

    def _start_hedge(self, context: RequestContext, slow: Candidate, remaining: list[Candidate]) -> Attempt | None:
        """An attempt at the next candidate on another server than the slow one's, if the hedging budget allows it."""
        candidate = next(
            (each for each in remaining if any(at.target.url != slow.target.url for at in each.endpoints)), None
        )
        if candidate is None or not self._state.may_hedge(slow):
            return None
        remaining.remove(candidate)
        candidate = self._admission.at_endpoint(candidate, context.query, avoid={*context.failed, slow.target.url})
        return self._start_attempt(context, candidate, remaining, hedge=True)

    def _start_attempt(
        self,
        context: RequestContext,
        candidate: Candidate,
        later: Collection[Candidate],
        *,
        again: bool = False,
        hedge: bool = False,
        queued: Queued | None = None,
    ) -> Attempt | None:
        """An attempt at a candidate, or None if the candidate is skipped."""
        chosen = candidate
        if candidate.per_endpoint:
            candidate = self._admission.at_endpoint(candidate, context.query, avoid=context.failed)
        upstream, waiter = self._upstreams(candidate.target), None if queued is None else queued.waiter
        permit = self._admission.acquire(context, candidate, later, status=upstream.status, again=again, waiter=waiter)
        now_s = self._world.now_s()
        if isinstance(permit, Verdict):
            context.skipped.append((chosen, permit))
            context.skip(candidate, permit, now_s, queued_ms=None if queued is None else queued.waited_ms)
            return None
        attempt = Attempt(context, candidate, permit, upstream, self._world, now_s)
        is_last = attempt.is_last = not later
        if hedge:
            attempt.record.hedge = True
        if queued is not None:
            attempt.record.queued_ms, is_last = queued.waited_ms, is_last and not queued.has_others
        if context.skipped and last_resorts(context.skipped):
            is_last = False
        attempt.limit_ms, attempt.total_ms = context.limits_ms(attempt.record.started_ms, is_last=is_last)
        return attempt

    # The end of a request

    async def _handle_shadow(self, context: RequestContext) -> GatewayResponse:
        """Send a shadow request like any other, but report no decision. It never waits for a slot."""
        attempt = None
        with suppress(OutOfBytes):
            attempt = await self._try_in_order(context, context.plan.candidates)
        if attempt is None:
            context.outcome = Outcome.ERROR
            return GatewayResponse(context, self._decision, error=context.final_error())
        return GatewayResponse(context, self._decision, buffered=attempt.commit(), attempt=attempt)

    def _error_response(self, context: RequestContext, error: GatewayError) -> GatewayResponse:
        context.outcome, context.error = Outcome.ERROR, error
        return GatewayResponse(context, self._finish, error=error)

    def _finish(self, context: RequestContext) -> Decision:
        """Release the quota and report the decision."""
        if self._is_stopped and context.outcome is Outcome.CLIENT_GONE:
            context.outcome = Outcome.ERROR
        decision = context.decision(self._world.now_s())
        if context.limit is not None:
            wall_s = self._world.wall_s()
            self._state.release_quota(decision.principal, context.limit, *decision.charged, wall_s=wall_s)
        self._observer.decided(decision)
        return decision

    def _decision(self, context: RequestContext) -> Decision:
        return context.decision(self._world.now_s())
