"""The state of one process: a breaker and a count of attempts per target, a guard per lane.

Knows what the pure parts of `core` mean, not who asks. Nothing here waits. Replicas `snapshot` and `merge`; how words
travel between them is not known here (see `redis`).
"""

from collections.abc import Sequence
from dataclasses import replace
from math import inf
from typing import Final, NamedTuple

from gateway.decision import ABANDONED, ANSWERED, AttemptRecord
from gateway.enums import LaneState, Reason
from gateway.policy_types import Limit, Slo
from gateway.reliability import breaker as breakers
from gateway.reliability.breaker import CLOSED, Breaker, BreakerEvent, BreakerRule
from gateway.reliability.rate_limits import PEER_TTL_S, KeyUsage
from gateway.reliability.replication import LaneSnapshot, PeerSnapshot, Snapshot
from gateway.reliability.retry_budget import RetryBudgets
from gateway.reliability.slo_guard import Admission, Guard
from gateway.types import Candidate, Health, Status, Verdict

# The server itself is at fault; everything else says nothing about whether the next request would be served.
_FAULTS = frozenset({Reason.UPSTREAM_ERROR})
# The server spoke, if only to turn a request down: it lives.
_ALIVE = ANSWERED | {Reason.REFUSED, Reason.UNSUPPORTED}
# Of several promises the worst kept one tells the lane's state.
_WORSE: Final = (LaneState.SERVING, LaneState.PROBING, LaneState.EJECTED)


class MemoryStore:
    """See `ports.StateStore`."""

    def __init__(self, rule: BreakerRule | None = None) -> None:
        self._rule = rule or BreakerRule()
        self._breakers: dict[str, Breaker] = {}
        self._in_flight: dict[str, int] = {}
        self._guards: dict[tuple[str, str], Guard] = {}
        self._promised: dict[tuple[str, str], tuple[Slo, tuple[_Promise, ...]]] = {}
        self._retries = RetryBudgets[str]()
        self._hedges = RetryBudgets[tuple[str, str]]()
        self._uses = KeyUsage()

    def health(self, candidate: Candidate, status: Status, now_s: float) -> Health:
        """Look, change nothing."""
        name = candidate.target.name
        lane, within_budget = LaneState.SERVING, True
        for promise in self._promises(candidate):
            guard = self._guards.get(promise.key)
            if guard is not None:
                lane = max(lane, guard.state, key=_WORSE.index) if lane is not guard.state else lane
                within_budget = within_budget and guard.within_budget(now_s)
        return Health(
            status=status,
            lane=lane,
            within_budget=within_budget,
            breaker=self._breakers.get(name, CLOSED).state,
            in_flight=self._in_flight.get(name, 0),
        )

    def p95_ms(self, candidate: Candidate, now_s: float) -> float | None:
        """The lane's p95 for display."""
        guard = self._guards.get(candidate.lane)
        return guard.p95_ms(now_s) if guard else None

    def acquire_quota(self, key: str | None, limit: Limit, now_s: float) -> float | None:
        """See `ports.StateStore`."""
        return self._uses.acquire(key, limit, now_s)

    def release_quota(self, key: str | None, tokens: int) -> None:
        """See `ports.StateStore`."""
        self._uses.release(key, tokens)

    def may_retry(self, candidate: Candidate) -> bool:
        """See `ports.StateStore`."""
        return self._retries[candidate.target.policy_name].withdraw()

    def may_hedge(self, candidate: Candidate) -> bool:
        """See `ports.StateStore`."""
        return self._hedges[candidate.lane].withdraw()

    def hedge_after_ms(self, candidate: Candidate, now_s: float) -> float:
        """As the policy says; or the lane's p95, and while that is unknown what it promises."""
        assert candidate.hedge is not None
        if candidate.hedge.after_ms is not None:
            return candidate.hedge.after_ms
        assert candidate.slo is not None
        return self.p95_ms(candidate, now_s) or candidate.slo.p95_ms

    def acquire(
        self, candidate: Candidate, now_s: float, *, sample: float, healthy_fallback: bool, again: bool = False
    ) -> "MemoryPermit | Verdict":
        """Room first, then the guard, then the breaker: only the breaker's trial must set out once it is noted."""
        target = candidate.target
        in_flight = self._in_flight.get(target.name, 0)
        if target.max_in_flight is not None and in_flight >= target.max_in_flight:
            return Verdict(reason=Reason.OVERLOADED, detail=f"{in_flight} of {target.max_in_flight} in flight")
        breaker = self._breakers.get(target.name, CLOSED)
        admitted, asked = breakers.allow_request(breaker, now_s, self._rule)
        if not admitted:
            return Verdict(reason=Reason.CIRCUIT_OPEN, detail=f"open after {breaker.failures} faults")
        passes: list[_Pass] = []
        for promise in self._promises(candidate):
            # A probe of one promise tests the others, too: two benches must not wait for each other's probes.
            is_probe = any(each.admission.probe for each in passes)
            guard = self._guard(promise)
            admission = guard.acquire(now_s, sample=sample, healthy_fallback=healthy_fallback and not is_probe)
            if admission is None:
                return Verdict(
                    reason=Reason.P95_BREACH, detail=f"ejected, {promise.says} over {promise.slo.p95_ms:g} ms"
                )
            passes.append(_Pass(guard, admission, promise))
        self._breakers[target.name] = asked
        self._in_flight[target.name] = in_flight + 1
        if not again:
            self._earn(candidate)
        return MemoryPermit(self, candidate, passes, trial=asked.trial_at_s is not None)

    def left(self, candidate: Candidate, attempt: AttemptRecord, now_s: float) -> None:
        """What a permit says when it is handed back."""
        name, outcome = candidate.target.name, attempt.outcome
        self._in_flight[name] -= 1
        if outcome in _FAULTS:
            self._tell_breaker(name, BreakerEvent.FAILURE, now_s)
        elif outcome in _ALIVE:
            self._tell_breaker(name, BreakerEvent.OK, now_s)

    def returned(self, target: str) -> None:
        """The server was seen to answer again (a poll, not an attempt): the faults of its former life are void."""
        breaker = self._breakers.get(target)
        if breaker is not None:
            self._breakers[target] = breakers.reset(breaker)

    def snapshot(self, now_s: float) -> Snapshot:
        """What this process counted and decided itself, for other replicas. Places in flight are each one's own."""
        return Snapshot(
            lanes=tuple((lane, guard.snapshot(now_s)) for lane, guard in self._guards.items()),
            breakers=tuple((name, breakers.snapshot(breaker, now_s)) for name, breaker in self._breakers.items()),
            hedges=self._hedges.snapshot(),
            retries=self._retries.snapshot(),
            keys=self._uses.snapshot(),
        )

    def merge(self, now_s: float, heard: Sequence[PeerSnapshot], *, me: str) -> None:
        """What all other replicas said last; whoever is no longer in it no longer counts. `me` is their name for us."""
        theirs: dict[tuple[str, str], list[tuple[float, LaneSnapshot]]] = {lane: [] for lane in self._guards}
        for each in heard:
            for lane, snapshot in each.snapshot.lanes:
                theirs.setdefault(lane, []).append((each.written_s, snapshot))
        for lane, reports in theirs.items():
            guard = self._guards.get(lane)
            if guard is None:  # nobody asked for this lane here yet; the first who does must know
                guard = self._guards[lane] = Guard(reports[0][1].slo)
            guard.merge(now_s, reports)
        for each in heard:
            for name, opening in each.snapshot.breakers:
                breaker = self._breakers.get(name, CLOSED)
                self._breakers[name] = breakers.merge(breaker, opening, each.written_s)
        living = [each for each in heard if now_s - each.written_s <= PEER_TTL_S]  # who is silent may be dead
        self._hedges.merge(me, [(each.name, each.snapshot.hedges) for each in living])
        self._retries.merge(me, [(each.name, each.snapshot.retries) for each in living])
        self._uses.merge(now_s, [(each.name, each.snapshot.keys) for each in living])

    def _earn(self, candidate: Candidate) -> None:
        """An ordinary attempt is made: it earns shares of extra ones."""
        if candidate.target.retry is not None:
            self._retries[candidate.target.policy_name].deposit(candidate.target.retry.max_share)
        if candidate.hedge is not None:
            self._hedges[candidate.lane].deposit(candidate.hedge.max_share)

    def _tell_breaker(self, name: str, event: BreakerEvent, now_s: float) -> None:
        breaker = self._breakers.get(name, CLOSED)
        self._breakers[name] = breakers.step(breaker, event, now_s, self._rule)

    def _promises(self, candidate: Candidate) -> "tuple[_Promise, ...]":
        if candidate.slo is None:
            return ()
        known = self._promised.get(candidate.lane)
        if known is None or known[0] is not candidate.slo:
            known = self._promised[candidate.lane] = (candidate.slo, _promises_of(candidate.lane, candidate.slo))
        return known[1]

    def _guard(self, promise: "_Promise") -> Guard:
        """A promise that changed with the policy begins anew."""
        guard = self._guards.get(promise.key)
        if guard is None or guard.slo != promise.slo:
            guard = self._guards[promise.key] = Guard(promise.slo)
        return guard


class MemoryPermit:
    """See `ports.Permit`."""

    __slots__ = ("_candidate", "_passes", "_store", "probe")

    def __init__(self, store: MemoryStore, candidate: Candidate, passes: "Sequence[_Pass]", *, trial: bool) -> None:
        self._store = store
        self._candidate = candidate
        self._passes = passes
        self.probe = trial or any(each.admission.probe for each in passes)

    def release(self, attempt: AttemptRecord, now_s: float) -> None:
        """See `ports.Permit`."""
        self._store.left(self._candidate, attempt, now_s)
        for each in self._passes:
            tell = _tell_of_first_token if each.promise.of_first_token else _tell_of_whole
            tell(each.guard, each.admission, attempt, now_s)


class _Promise(NamedTuple):
    """One number that a lane promises, as its guard knows it; `key` is what the guard is kept by."""

    key: tuple[str, str]
    slo: Slo
    says: str
    of_first_token: bool


class _Pass(NamedTuple):
    """One guard's leave."""

    guard: Guard
    admission: Admission
    promise: _Promise


def _promises_of(lane: tuple[str, str], slo: Slo) -> tuple[_Promise, ...]:
    """A guard knows one number; so the first token has a guard of its own, which is told that one."""
    whole = _Promise(lane, slo, "p95", of_first_token=False)
    first = replace(slo, p95_ms=slo.first_token_p95_ms)
    first_token = _Promise((lane[0], f"{lane[1]} (first token)"), first, "p95 of the first token", of_first_token=True)
    return tuple(promise for promise in (whole, first_token) if promise.slo.p95_ms < inf)


def _tell_of_whole(guard: Guard, admission: Admission, attempt: AttemptRecord, now_s: float) -> None:
    if attempt.outcome in ANSWERED:
        guard.finished(now_s, admission, attempt.elapsed_ms)
    elif attempt.outcome in ABANDONED:
        guard.abandoned(now_s, admission, attempt.elapsed_ms)


def _tell_of_first_token(guard: Guard, admission: Admission, attempt: AttemptRecord, now_s: float) -> None:
    """Only streams have one. Once it came it counts, however the rest went."""
    if attempt.first_token_ms is not None:
        guard.finished(now_s, admission, attempt.first_token_ms - attempt.started_ms)
    elif attempt.stream and attempt.outcome in ABANDONED:
        guard.abandoned(now_s, admission, attempt.elapsed_ms)
