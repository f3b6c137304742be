"""The state of one process: a breaker and a count of attempts per target, a guard per lane.

Knows what the pure parts of `core` mean, not who asks. Nothing here waits. Replicas `report` and `hear`; how words
travel between them is not known here (see `redis`).
"""

from collections import defaultdict
from collections.abc import Sequence

from gateway.core import breaker as breakers
from gateway.core.allowance import Allowance
from gateway.core.breaker import CLOSED, Breaker, BreakerEvent, BreakerRule
from gateway.core.guard import Guard, Ticket
from gateway.core.reports import Heard, LaneReport, Report
from gateway.decisions import Attempt
from gateway.records import Candidate, Health, Status, Verdict
from gateway.terms import Slo
from gateway.words import AttemptOutcome, Reason

# The server itself is at fault; everything else says nothing about whether the next request would be served.
_FAULTS = frozenset({Reason.UPSTREAM_ERROR})
# A whole answer came, whatever it was worth: its latency counts.
_ANSWERED = frozenset({AttemptOutcome.OK, Reason.INVALID_OUTPUT, Reason.LOW_CONFIDENCE})
# The server spoke, if only to turn a request down: it lives.
_ALIVE = _ANSWERED | {Reason.REFUSED, Reason.UNSUPPORTED}
# Given up unfinished: counts once it outlasted the budget.
_ABANDONED = frozenset({AttemptOutcome.CANCELLED, Reason.DEADLINE, Reason.HEDGE})


class MemoryStore:
    """See `ports.StateStore`."""

    def __init__(self, rule: BreakerRule | None = None) -> None:
        self._rule = rule or BreakerRule()
        self._breakers: dict[str, Breaker] = {}
        self._in_flight: dict[str, int] = {}
        self._guards: dict[tuple[str, str], Guard] = {}
        self._retries: defaultdict[str, Allowance] = defaultdict(Allowance)
        self._hedges: defaultdict[tuple[str, str], Allowance] = defaultdict(Allowance)

    def health(self, candidate: Candidate, status: Status, now_s: float) -> Health:
        """Look, change nothing."""
        name = candidate.target.name
        guard = self._guards.get(candidate.lane)
        breaker = self._breakers.get(name, CLOSED).state
        in_flight = self._in_flight.get(name, 0)
        if guard is None:
            return Health(status=status, breaker=breaker, in_flight=in_flight)
        return Health(
            status=status,
            lane=guard.state,
            within_budget=guard.within_budget(now_s),
            breaker=breaker,
            in_flight=in_flight,
        )

    def p95_ms(self, candidate: Candidate, now_s: float) -> float | None:
        """The lane's p95 for display."""
        guard = self._guards.get(candidate.lane)
        return guard.p95_ms(now_s) if guard else None

    def may_retry(self, candidate: Candidate) -> bool:
        """See `ports.StateStore`."""
        return self._retries[candidate.target.name].spend()

    def may_hedge(self, candidate: Candidate) -> bool:
        """See `ports.StateStore`."""
        return self._hedges[candidate.lane].spend()

    def hedge_after_ms(self, candidate: Candidate, now_s: float) -> float:
        """As the policy says; or the lane's p95, and while that is unknown what it promises."""
        assert candidate.hedge is not None
        if candidate.hedge.after_ms is not None:
            return candidate.hedge.after_ms
        assert candidate.slo is not None
        return self.p95_ms(candidate, now_s) or candidate.slo.p95_ms

    def enter(
        self, candidate: Candidate, now_s: float, *, draw: float, relief: bool, again: bool = False
    ) -> "MemoryPermit | Verdict":
        """Room first, then the guard, then the breaker: only the breaker's trial must set out once it is noted."""
        target = candidate.target
        in_flight = self._in_flight.get(target.name, 0)
        if target.max_in_flight is not None and in_flight >= target.max_in_flight:
            return Verdict(reason=Reason.OVERLOADED, detail=f"{in_flight} of {target.max_in_flight} in flight")
        breaker = self._breakers.get(target.name, CLOSED)
        admitted, asked = breakers.ask(breaker, now_s, self._rule)
        if not admitted:
            return Verdict(reason=Reason.CIRCUIT_OPEN, detail=f"open after {breaker.faults} faults")
        ticket = None
        if candidate.slo is not None:
            ticket = self._guard(candidate, candidate.slo).ask(now_s, draw=draw, relief=relief)
            if ticket is None:
                return Verdict(reason=Reason.P95_BREACH, detail=f"benched, p95 over {candidate.slo.p95_ms:g} ms")
        self._breakers[target.name] = asked
        self._in_flight[target.name] = in_flight + 1
        if not again:
            self._earn(candidate)
        return MemoryPermit(self, candidate, ticket, trial=asked.trial_at_s is not None)

    def left(self, candidate: Candidate, ticket: Ticket | None, attempt: Attempt, now_s: float) -> None:
        """What a permit says when it is handed back."""
        name, outcome = candidate.target.name, attempt.outcome
        self._in_flight[name] -= 1
        if outcome in _FAULTS:
            self._tell_breaker(name, BreakerEvent.FAULT, now_s)
        elif outcome in _ALIVE:
            self._tell_breaker(name, BreakerEvent.OK, now_s)
        if ticket is not None:
            _tell_guard(self._guards[candidate.lane], ticket, attempt, now_s)

    def returned(self, target: str) -> None:
        """The server was seen to answer again (a poll, not an attempt): the faults of its former life are void."""
        breaker = self._breakers.get(target)
        if breaker is not None:
            self._breakers[target] = breakers.closed(breaker)

    def report(self, now_s: float) -> Report:
        """What this process counted and decided itself, for other replicas. Places in flight are each one's own."""
        return Report(
            lanes=tuple((lane, guard.report(now_s)) for lane, guard in self._guards.items()),
            breakers=tuple((name, breakers.report(breaker, now_s)) for name, breaker in self._breakers.items()),
        )

    def hear(self, now_s: float, heard: Sequence[Heard]) -> None:
        """What all other replicas said last; whoever is no longer in it no longer counts."""
        theirs: dict[tuple[str, str], list[tuple[float, LaneReport]]] = {lane: [] for lane in self._guards}
        for each in heard:
            for lane, report in each.report.lanes:
                theirs.setdefault(lane, []).append((each.told_s, report))
        for lane, reports in theirs.items():
            guard = self._guards.get(lane)
            if guard is None:  # nobody asked for this lane here yet; the first who does must know
                guard = self._guards[lane] = Guard(reports[0][1].slo)
            guard.hear(now_s, reports)
        for each in heard:
            for name, opening in each.report.breakers:
                breaker = self._breakers.get(name, CLOSED)
                self._breakers[name] = breakers.follow(breaker, opening, each.told_s)

    def _earn(self, candidate: Candidate) -> None:
        """An ordinary attempt is made: it earns shares of extra ones."""
        if candidate.target.retry is not None:
            self._retries[candidate.target.name].earn(candidate.target.retry.max_share)
        if candidate.hedge is not None:
            self._hedges[candidate.lane].earn(candidate.hedge.max_share)

    def _tell_breaker(self, name: str, event: BreakerEvent, now_s: float) -> None:
        breaker = self._breakers.get(name, CLOSED)
        self._breakers[name] = breakers.step(breaker, event, now_s, self._rule)

    def _guard(self, candidate: Candidate, slo: Slo) -> Guard:
        """A promise that changed with the policy begins anew."""
        guard = self._guards.get(candidate.lane)
        if guard is None or guard.slo != slo:
            guard = self._guards[candidate.lane] = Guard(slo)
        return guard


class MemoryPermit:
    """See `ports.Permit`."""

    __slots__ = ("_candidate", "_store", "_ticket", "probe")

    def __init__(self, store: MemoryStore, candidate: Candidate, ticket: Ticket | None, *, trial: bool) -> None:
        self._store = store
        self._candidate = candidate
        self._ticket = ticket
        self.probe = trial or (ticket is not None and ticket.probe)

    def hand_back(self, attempt: Attempt, now_s: float) -> None:
        """See `ports.Permit`."""
        self._store.left(self._candidate, self._ticket, attempt, now_s)


def _tell_guard(guard: Guard, ticket: Ticket, attempt: Attempt, now_s: float) -> None:
    if attempt.outcome in _ANSWERED:
        guard.finished(now_s, ticket, attempt.elapsed_ms)
    elif attempt.outcome in _ABANDONED:
        guard.abandoned(now_s, ticket, attempt.elapsed_ms)
