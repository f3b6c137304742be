"""THE story of a request: classify, choose, then per candidate admit and open; hedge, fall back or answer; explain.

Knows ports, not sockets. What is decided is decided in `core`; what is said of it is one `Decision`.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Collection, Container
from typing import Protocol

from gateway.attempts.attempt import OpenAttempt, Turn
from gateway.attempts.hedging import race
from gateway.attempts.request_context import Journey
from gateway.attempts.response import Answer
from gateway.attempts.shadow import Shadows
from gateway.decision import Decision
from gateway.enums import Outcome, Reason
from gateway.errors import GatewayError, OverLimit
from gateway.ports import Observer, Permit, StateStore, Upstream, World
from gateway.reliability.admission import admit, died_with, has_relief, too_busy
from gateway.reliability.load_balancing import nearest
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
        self._draw = world.draw
        self._schemas = SchemaCache()
        self._shadows = Shadows(self._mirror, observer, world)

    async def answer(self, query: Query) -> Answer:
        """Exactly one answer for every query: deltas to send, or an error that explains. The caller closes it.

        Cancelling hangs up on whoever is being asked.
        """
        journey, error = self._begin(query, self._draw())
        error = error or self._limited(journey)
        if error is not None:
            return self._sorry(journey, error)
        try:
            attempt = await self._ask_in_turn(journey)
            held = await attempt.win() if attempt is not None else ()
        except BaseException as fault:  # a request is explained even if it ends by a mistake of ours
            journey.outcome = Outcome.CLIENT_GONE if isinstance(fault, asyncio.CancelledError) else Outcome.ERROR
            self._explained(journey)
            raise
        if attempt is None:
            return self._sorry(journey, journey.nobody_left())
        witness = self._shadows.witness(journey, self._draw()) if journey.plan.shadow is not None else None
        return Answer(journey, self._explained, held=held, attempt=attempt, witness=witness)

    async def aclose(self) -> None:
        """End what nobody waits for."""
        await self._shadows.aclose()

    def explain(self, query: Query) -> tuple[Decision, tuple[tuple[Candidate, Health, Verdict], ...]]:
        """A dry run: what would be decided now, without calling anybody or changing anything; of shares, the first.

        Raises ModelNotFound, NoPrivateTarget.
        """
        journey, error = self._begin(query, 0.0)
        if error is not None:
            raise error
        nears = [self._near(each, query) for each in journey.plan.candidates]
        looks = tuple((near, self._health(near), self._look(journey, near)) for near in nears)
        return journey.decision(self._clock.now_s()), looks

    def _begin(self, query: Query, draw: float) -> tuple[Journey, GatewayError | None]:
        """Classify and choose. A query that nobody may answer still has a journey, to be explained by."""
        policy = self._policies.current
        classification = self._classify(query)
        try:
            plan = choose(policy, query, classification, wall_s=self._clock.wall_s(), draw=draw)
            return self._journey(query, classification, plan), None
        except GatewayError as error:
            nowhere = Plan(policy=policy.version, route="", candidates=(), private=query.private)
            return self._journey(query, classification, nowhere), error

    def _limited(self, journey: Journey) -> OverLimit | None:
        """Let a request in if its key has not used up what the policy grants it; shadows are nobody's requests."""
        query, limit = journey.query, self._policies.current.limit_of(journey.query.principal)
        wait_s = None if limit is None else self._state.let_in(query.principal, limit, self._clock.now_s())
        if wait_s is not None:
            return OverLimit("This key has used what it may for now.", retry_after_s=wait_s)
        journey.is_counted = limit is not None
        return None

    def _journey(self, query: Query, classification: Classification, plan: Plan) -> Journey:
        return Journey(query, classification, plan, wall_s=self._clock.wall_s(), now_s=self._clock.now_s())

    async def _ask_in_turn(self, journey: Journey) -> OpenAttempt | None:
        """The first attempt whose answer may leave; None if nobody is left to be asked."""
        waiting = deque(journey.plan.candidates)
        tries: Counter[str] = Counter()
        while waiting:
            candidate = waiting.popleft()
            name = candidate.target.title
            attempt = self._set_out(journey, candidate, waiting, again=tries[name] > 0)
            if attempt is None:
                continue
            tries[name] += 1
            winner = await self._open(journey, attempt, waiting)
            if winner is not None:
                return winner
            if self._stays(candidate, attempt, tries[name]):
                waiting.appendleft(candidate)
        return None

    def _stays(self, candidate: Candidate, attempt: OpenAttempt, tries: int) -> bool:
        """Whether the same target is asked again. A server that leaves has begun nothing and is known to leave from now
        on, so to ask one beside it needs no allowance; one that broke may have cost something, and may do so again."""
        if attempt.reason is Reason.NOT_RESIDENT:
            return tries < len(candidate.servers)
        return attempt.reason is Reason.UPSTREAM_ERROR and self._may_retry(candidate, tries)

    async def _open(self, journey: Journey, attempt: OpenAttempt, waiting: deque[Candidate]) -> OpenAttempt | None:
        """Open an attempt, and if the route hedges and it takes long, another beside it; the one that did well."""
        hedge = attempt.candidate.hedge
        if hedge is None or not waiting:
            return attempt if await attempt.open() else None
        after_s = self._state.hedge_after_ms(attempt.candidate, self._clock.now_s()) / 1000
        return await race(attempt, after_s=after_s, second=lambda: self._hedge(journey, attempt.candidate, waiting))

    def _hedge(self, journey: Journey, slow: Candidate, waiting: deque[Candidate]) -> OpenAttempt | None:
        """Whoever is next behind another server than the slow one's, if the share of hedges is not used up."""
        rival = next((each for each in waiting if any(p.target.url != slow.target.url for p in each.places)), None)
        if rival is None or not self._state.may_hedge(slow):
            return None
        waiting.remove(rival)
        near = self._near(rival, journey.query, avoid={*journey.failed, slow.target.url})
        return self._set_out(journey, near, waiting, rival=True)

    def _may_retry(self, candidate: Candidate, tries: int) -> bool:
        retry = candidate.target.retry
        return retry is not None and tries <= retry.times and self._state.may_retry(candidate)

    def _set_out(
        self,
        journey: Journey,
        candidate: Candidate,
        later: Collection[Candidate],
        *,
        again: bool = False,
        rival: bool = False,
    ) -> OpenAttempt | None:
        """An attempt at a candidate, or None if it is passed over."""
        candidate = self._near(candidate, journey.query, avoid=journey.failed)
        permit = self._admit(journey, candidate, later, again=again)
        now_s = self._clock.now_s()
        if isinstance(permit, Verdict):
            journey.skip(candidate, permit, now_s)
            return None
        turn = Turn(
            candidate=candidate,
            permit=permit,
            upstream=self._upstreams(candidate.target),
            limit_ms=journey.limit_ms(now_s, is_last=not later),
            is_last=not later,
            hedge=rival,
        )
        return OpenAttempt(journey, turn, clock=self._clock, schemas=self._schemas)

    def _admit(
        self, journey: Journey, candidate: Candidate, later: Collection[Candidate], *, again: bool
    ) -> Permit | Verdict:
        """Leave to call a candidate, or why not. Whatever changes by being asked is asked last."""
        verdict = self._look(journey, candidate)
        if not verdict.admitted:
            return verdict
        nears = (self._near(each, journey.query) for each in later)
        relief = candidate.slo is not None and has_relief(
            candidate, ((near, self._health(near)) for near in nears), journey.query
        )
        if relief and not (verdict := too_busy(candidate, self._health(candidate))).admitted:
            return verdict
        return self._state.enter(candidate, self._clock.now_s(), draw=self._draw(), relief=relief, again=again)

    def _near(self, candidate: Candidate, query: Query, *, avoid: Container[str] = ()) -> Candidate:
        """The candidate at one of its target's servers, if that has several."""
        return nearest(candidate, query, self._health, avoid=avoid) if candidate.servers else candidate

    def _look(self, journey: Journey, candidate: Candidate) -> Verdict:
        verdict = died_with(candidate, journey.failed)
        if not verdict.admitted:
            return verdict
        left_ms = journey.left_ms(self._clock.now_s())
        return admit(candidate, journey.query, self._health(candidate), left_ms=left_ms)

    def _health(self, candidate: Candidate) -> Health:
        status = self._upstreams(candidate.target).status
        return self._state.health(candidate, status, self._clock.now_s())

    async def _mirror(self, journey: Journey) -> Answer:
        """Ask a shadow: as anybody, but nobody is told."""
        attempt = await self._ask_in_turn(journey)
        if attempt is None:
            journey.outcome = Outcome.ERROR
            return Answer(journey, self._decided, error=journey.nobody_left())
        return Answer(journey, self._decided, held=await attempt.win(), attempt=attempt)

    def _sorry(self, journey: Journey, error: GatewayError) -> Answer:
        journey.outcome = Outcome.ERROR
        return Answer(journey, self._explained, error=error)

    def _explained(self, journey: Journey) -> Decision:
        decision = self._decided(journey)
        if journey.is_counted:
            self._state.let_out(decision.principal, decision.tokens)
        self._observer.decided(decision)
        return decision

    def _decided(self, journey: Journey) -> Decision:
        return journey.decision(self._clock.now_s())
