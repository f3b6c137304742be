"""THE story of a request: classify, choose, then per candidate admit and open; hedge, fall back or answer; explain.

Knows ports, not sockets. What is decided is decided in `core`; what is said of it is one `Decision`.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Collection, Container
from typing import Protocol

from gateway.attempts.attempt import Attempt, AttemptParams
from gateway.attempts.hedging import open_hedged
from gateway.attempts.request_context import RequestContext
from gateway.attempts.response import GatewayResponse
from gateway.attempts.shadow import Shadows
from gateway.decision import Decision
from gateway.enums import Outcome, Reason
from gateway.errors import GatewayError, RateLimitExceeded
from gateway.ports import Observer, Permit, StateStore, Upstream, World
from gateway.reliability.admission import admit, died_with, has_healthy_fallback, too_busy
from gateway.reliability.load_balancing import pick_endpoint
from gateway.routing.classify import Classify
from gateway.routing.policy import Policy
from gateway.routing.route import choose
from gateway.types import Candidate, Classification, Health, Plan, Query, Target, Verdict
from gateway.validation.json_schema import SchemaCache


class Policies(Protocol):
    """Where the running policy is."""

    @property
    def current(self) -> Policy:
        """The policy for requests that begin now; each holds its own to the end."""
        ...


class Pipeline:
    """Answers queries; one per process. `classify` tells a query's task, `upstreams` gives the door to a target."""

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
        self._clock = world
        self._sample = world.sample
        self._schemas = SchemaCache()
        self._shadows = Shadows(self._mirror, observer, world)

    async def answer(self, query: Query) -> GatewayResponse:
        """Exactly one answer for every query: deltas to send, or an error that explains. The caller closes it.

        Cancelling hangs up on whoever is being asked.
        """
        context, error = self._begin(query, self._sample())
        error = error or self._limited(context)
        if error is not None:
            return self._sorry(context, error)
        try:
            attempt = await self._ask_in_turn(context)
            held = await attempt.win() if attempt is not None else ()
        except BaseException as fault:  # a request is explained even if it ends by a mistake of ours
            context.outcome = Outcome.CLIENT_GONE if isinstance(fault, asyncio.CancelledError) else Outcome.ERROR
            self._explained(context)
            raise
        if attempt is None:
            return self._sorry(context, context.nobody_left())
        recorder = self._shadows.recorder(context, self._sample()) if context.plan.shadow is not None else None
        return GatewayResponse(context, self._explained, held=held, attempt=attempt, recorder=recorder)

    async def aclose(self) -> None:
        """End what nobody waits for."""
        await self._shadows.aclose()

    def explain(self, query: Query) -> tuple[Decision, tuple[tuple[Candidate, Health, Verdict], ...]]:
        """A dry run: what would be decided now, without calling anybody or changing anything; of shares, the first.

        Raises ModelNotFound, NoPrivateTarget.
        """
        context, error = self._begin(query, 0.0)
        if error is not None:
            raise error
        nears = [self._near(each, query) for each in context.plan.candidates]
        looks = tuple((near, self._health(near), self._look(context, near)) for near in nears)
        return context.decision(self._clock.now_s()), looks

    def _begin(self, query: Query, sample: float) -> tuple[RequestContext, GatewayError | None]:
        """Classify and choose. A query that nobody may answer still has a journey, to be explained by."""
        policy = self._policies.current
        classification = self._classify(query)
        try:
            plan = choose(policy, query, classification, wall_s=self._clock.wall_s(), sample=sample)
            return self._journey(query, classification, plan), None
        except GatewayError as error:
            nowhere = Plan(policy=policy.version, route="", candidates=(), private=query.private)
            return self._journey(query, classification, nowhere), error

    def _limited(self, context: RequestContext) -> RateLimitExceeded | None:
        """Let a request in if its key has not used up what the policy grants it; shadows are nobody's requests."""
        query, limit = context.query, self._policies.current.limit_of(context.query.principal)
        wait_s = None if limit is None else self._state.acquire_quota(query.principal, limit, self._clock.now_s())
        if wait_s is not None:
            return RateLimitExceeded("This key has used what it may for now.", retry_after_s=wait_s)
        context.is_counted = limit is not None
        return None

    def _journey(self, query: Query, classification: Classification, plan: Plan) -> RequestContext:
        return RequestContext(query, classification, plan, wall_s=self._clock.wall_s(), now_s=self._clock.now_s())

    async def _ask_in_turn(self, context: RequestContext) -> Attempt | None:
        """The first attempt whose answer may leave; None if nobody is left to be asked."""
        waiting = deque(context.plan.candidates)
        tries: Counter[str] = Counter()
        while waiting:
            candidate = waiting.popleft()
            name = candidate.target.title
            attempt = self._set_out(context, candidate, waiting, again=tries[name] > 0)
            if attempt is None:
                continue
            tries[name] += 1
            winner = await self._open(context, attempt, waiting)
            if winner is not None:
                return winner
            if self._stays(candidate, attempt, tries[name]):
                waiting.appendleft(candidate)
        return None

    def _stays(self, candidate: Candidate, attempt: Attempt, tries: int) -> bool:
        """Whether the same target is asked again. A server that leaves has begun nothing and is known to leave from now
        on, so to ask one beside it needs no allowance; one that broke may have cost something, and may do so again."""
        if attempt.reason is Reason.NOT_RESIDENT:
            return tries < len(candidate.servers)
        return attempt.reason is Reason.UPSTREAM_ERROR and self._may_retry(candidate, tries)

    async def _open(self, context: RequestContext, attempt: Attempt, waiting: deque[Candidate]) -> Attempt | None:
        """Open an attempt, and if the route hedges and it takes long, another beside it; the one that did well."""
        hedge = attempt.candidate.hedge
        if hedge is None or not waiting:
            return attempt if await attempt.open() else None
        after_s = self._state.hedge_after_ms(attempt.candidate, self._clock.now_s()) / 1000
        return await open_hedged(
            attempt, after_s=after_s, second=lambda: self._hedge(context, attempt.candidate, waiting)
        )

    def _hedge(self, context: RequestContext, slow: Candidate, waiting: deque[Candidate]) -> Attempt | None:
        """Whoever is next behind another server than the slow one's, if the share of hedges is not used up."""
        rival = next((each for each in waiting if any(p.target.url != slow.target.url for p in each.places)), None)
        if rival is None or not self._state.may_hedge(slow):
            return None
        waiting.remove(rival)
        near = self._near(rival, context.query, avoid={*context.failed, slow.target.url})
        return self._set_out(context, near, waiting, rival=True)

    def _may_retry(self, candidate: Candidate, tries: int) -> bool:
        retry = candidate.target.retry
        return retry is not None and tries <= retry.times and self._state.may_retry(candidate)

    def _set_out(
        self,
        context: RequestContext,
        candidate: Candidate,
        later: Collection[Candidate],
        *,
        again: bool = False,
        rival: bool = False,
    ) -> Attempt | None:
        """An attempt at a candidate, or None if it is passed over."""
        candidate = self._near(candidate, context.query, avoid=context.failed)
        permit = self._admit(context, candidate, later, again=again)
        now_s = self._clock.now_s()
        if isinstance(permit, Verdict):
            context.skip(candidate, permit, now_s)
            return None
        turn = AttemptParams(
            candidate=candidate,
            permit=permit,
            upstream=self._upstreams(candidate.target),
            limit_ms=context.limit_ms(now_s, is_last=not later),
            is_last=not later,
            hedge=rival,
        )
        return Attempt(context, turn, clock=self._clock, schemas=self._schemas)

    def _admit(
        self, context: RequestContext, candidate: Candidate, later: Collection[Candidate], *, again: bool
    ) -> Permit | Verdict:
        """Leave to call a candidate, or why not. Whatever changes by being asked is asked last."""
        verdict = self._look(context, candidate)
        if not verdict.admitted:
            return verdict
        nears = (self._near(each, context.query) for each in later)
        healthy_fallback = candidate.slo is not None and has_healthy_fallback(
            candidate, ((near, self._health(near)) for near in nears), context.query
        )
        if healthy_fallback and not (verdict := too_busy(candidate, self._health(candidate))).admitted:
            return verdict
        return self._state.acquire(
            candidate, self._clock.now_s(), sample=self._sample(), healthy_fallback=healthy_fallback, again=again
        )

    def _near(self, candidate: Candidate, query: Query, *, avoid: Container[str] = ()) -> Candidate:
        """The candidate at one of its target's servers, if that has several."""
        return pick_endpoint(candidate, query, self._health, avoid=avoid) if candidate.servers else candidate

    def _look(self, context: RequestContext, candidate: Candidate) -> Verdict:
        verdict = died_with(candidate, context.failed)
        if not verdict.admitted:
            return verdict
        left_ms = context.left_ms(self._clock.now_s())
        return admit(candidate, context.query, self._health(candidate), left_ms=left_ms)

    def _health(self, candidate: Candidate) -> Health:
        status = self._upstreams(candidate.target).status
        return self._state.health(candidate, status, self._clock.now_s())

    async def _mirror(self, context: RequestContext) -> GatewayResponse:
        """Ask a shadow: as anybody, but nobody is told."""
        attempt = await self._ask_in_turn(context)
        if attempt is None:
            context.outcome = Outcome.ERROR
            return GatewayResponse(context, self._decided, error=context.nobody_left())
        return GatewayResponse(context, self._decided, held=await attempt.win(), attempt=attempt)

    def _sorry(self, context: RequestContext, error: GatewayError) -> GatewayResponse:
        context.outcome = Outcome.ERROR
        return GatewayResponse(context, self._explained, error=error)

    def _explained(self, context: RequestContext) -> Decision:
        decision = self._decided(context)
        if context.is_counted:
            self._state.release_quota(decision.principal, decision.tokens)
        self._observer.decided(decision)
        return decision

    def _decided(self, context: RequestContext) -> Decision:
        return context.decision(self._clock.now_s())
