"""State of one process: a breaker and an in-flight count per target, an SLO guard per lane objective, retry
budgets, key usage.

Nothing here waits. Replicas exchange their state with `snapshot` and `merge`; `redis` transports it.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import inf
from typing import Final, NamedTuple

from gateway.decision import ABANDONED, ANSWERED, AttemptRecord
from gateway.enums import AttemptOutcome, BreakerState, Kind, LaneState, Reason
from gateway.policy_types import Limit, Quota, QuotaRefusal, Slo
from gateway.ports import Waiter
from gateway.reliability import breaker as breakers
from gateway.reliability.breaker import CLOSED, Breaker, BreakerEvent, BreakerRule
from gateway.reliability.daily_budgets import DailyBudgets
from gateway.reliability.holds import Holds
from gateway.reliability.rate_limits import ANONYMOUS, PEER_TTL_S, KeyUsage
from gateway.reliability.replication import LaneSnapshot, PeerSnapshot, Snapshot
from gateway.reliability.retry_budget import RetryBudget, RetryBudgets
from gateway.reliability.slo_guard import Admission, Guard
from gateway.reliability.waiting_queue import Slots
from gateway.types import Candidate, Health, Status, Verdict

_OK: Final = AttemptOutcome.OK  # finding a member in its class takes 0.2 µs
_BREAKER_CLOSED: Final = BreakerState.CLOSED

# The server responded, if only to reject the request.
_PROOF_OF_LIFE = ANSWERED | {
    *(Reason.REFUSED, Reason.UNSUPPORTED, Reason.CONTEXT_LENGTH_EXCEEDED, Reason.UPSTREAM_AUTH),
}
# The objective in the worst state determines the lane's state.
_MIN_HEDGE_MS: Final = 1.0  # a busy gateway cannot tell shorter latencies from its own lag
_SEVERITY: Final = (LaneState.SERVING, LaneState.PROBING, LaneState.EJECTED)
_MAX_LANES: Final = 4096  # that are bound; policies have far fewer


class MemoryStore:
    """See `ports.StateStore`."""

    def __init__(self, rule: BreakerRule | None = None) -> None:
        self._rule = rule or BreakerRule()
        self._breakers: dict[str, Breaker] = {}
        self._slots = Slots()
        self._in_flight = self._slots.in_use
        self._guards: dict[tuple[str, str], Guard] = {}
        self._lanes: dict[int, _Lane] = {}  # by identity of the candidate
        self._retries = RetryBudgets[str]()
        self._hedges = RetryBudgets[tuple[str, str]]()
        self._key_usage = KeyUsage()
        self._holds = Holds()
        self.budgets = DailyBudgets()

    def health(self, candidate: Candidate, status: Status, now_s: float) -> Health:
        """Read-only."""
        name, in_lane = candidate.target.name, self._lanes.get(id(candidate)) or self._bind(candidate)
        state, within_budget = LaneState.SERVING, True
        for guard in in_lane.guards:
            if guard.state is not LaneState.SERVING:
                state = max(state, guard.state, key=_SEVERITY.index)
            within_budget = within_budget and guard.within_budget(now_s)
        hold_s, is_quota = self._holds.left(name, now_s)
        return Health(
            status=status,
            lane=state,
            within_budget=within_budget,
            breaker=self._breakers.get(name, CLOSED).state,
            in_flight=self._in_flight.get(name, 0),
            waiting=self._slots.waiting(name),
            retry_after_s=hold_s,
            is_quota=is_quota,
        )

    def p95_ms(self, candidate: Candidate, now_s: float) -> float | None:
        """The lane's measured p95, for display."""
        guard = self._guards.get(candidate.lane)
        return guard.p95_ms(now_s) if guard else None

    def acquire_quota(self, key: str | None, limit: Limit, now_s: float, wall_s: float) -> QuotaRefusal | None:
        """See `ports.StateStore`."""
        until_next_day_s = self.budgets.wait_s(key or ANONYMOUS, limit, wall_s)
        if until_next_day_s > 0:
            return QuotaRefusal(wait_s=until_next_day_s, is_daily=True)
        wait_s = self._key_usage.acquire(key, limit, now_s)
        return None if wait_s is None else QuotaRefusal(wait_s=wait_s)

    def release_quota(self, key: str | None, limit: Limit, tokens: int, dollars: float, *, wall_s: float) -> None:
        """See `ports.StateStore`."""
        self._key_usage.release(key, tokens)
        if limit.is_daily:
            self.budgets.add(key or ANONYMOUS, tokens, dollars, wall_s)

    def quota(self, key: str | None, limit: Limit, now_s: float) -> Quota:
        """See `ports.StateStore`."""
        return self._key_usage.quota(key, limit, now_s)

    def may_retry(self, candidate: Candidate) -> bool:
        """See `ports.StateStore`."""
        return self._retries[candidate.target.policy_name].withdraw()

    def may_hedge(self, candidate: Candidate) -> bool:
        """See `ports.StateStore`."""
        return self._hedges[candidate.lane].withdraw()

    def hedge_after_ms(self, candidate: Candidate, now_s: float) -> float:
        """The policy's value, else the lane's measured p95, else the p95 of its SLO."""
        assert candidate.hedge is not None
        if candidate.hedge.after_ms is not None:
            return candidate.hedge.after_ms
        assert candidate.slo is not None
        return max(_MIN_HEDGE_MS, self.p95_ms(candidate, now_s) or candidate.slo.p95_ms)

    def acquire(
        self,
        candidate: Candidate,
        now_s: float,
        *,
        sample: float,
        healthy_fallback: bool,
        again: bool = False,
        waiter: Waiter | None = None,
    ) -> "MemoryPermit | Verdict":
        """Checks capacity, then the breaker, then the guards. A breaker trial that was granted must be started."""
        target, lane = candidate.target, self._lanes.get(id(candidate)) or self._bind(candidate)
        if waiter is None and self._slots.is_full(target.name, target.max_in_flight):
            detail = f"{self._in_flight.get(target.name, 0)} of {target.max_in_flight} in flight"
            return Verdict(reason=Reason.OVERLOADED, detail=detail, is_full=True)
        breaker = self._breakers.get(target.name, CLOSED)
        admitted, next_breaker = breakers.allow_request(breaker, now_s, self._rule)
        if not admitted:
            return Verdict(reason=Reason.CIRCUIT_OPEN, detail=f"open after {breaker.failures} faults")
        is_probe, admissions = False, []
        for guard, objective in zip(lane.guards, lane.objectives, strict=True):
            # A probe of one objective tests the others too: two ejections must not wait for each other's probes.
            admission = guard.acquire(now_s, sample=sample, healthy_fallback=healthy_fallback and not is_probe)
            if admission is None:
                return Verdict(
                    reason=Reason.P95_BREACH, detail=f"ejected, {objective.label} over {objective.slo.p95_ms:g} ms"
                )
            is_probe = is_probe or admission.probe
            admissions.append(admission)
        if next_breaker is not breaker:
            self._breakers[target.name] = next_breaker
        if waiter is None:
            self._slots.take(target.name)
        else:
            waiter.claim()
        if not again:
            lane.earn_budget()
        return MemoryPermit(self, lane, admissions, probe=is_probe or next_breaker.trial_at_s is not None)

    def acquire_calm(self, candidate: Candidate, now_s: float) -> "MemoryPermit | None":
        """See `ports.StateStore`."""
        lane = self._lanes.get(id(candidate)) or self._bind(candidate)
        name, limit, admissions = lane.name, lane.max_in_flight, []
        if limit is not None and self._slots.is_full(name, limit):
            return None
        if self._breakers and self._breakers.get(name, CLOSED).state is not _BREAKER_CLOSED:
            return None
        if self._holds.any and self._holds.left(name, now_s)[0]:
            return None
        for guard in lane.guards:
            if not guard.is_calm:
                return None
            admissions.append(guard.admission)
        self._in_flight[name] = self._in_flight.get(name, 0) + 1
        if lane.has_budgets:
            lane.earn_budget()
        return MemoryPermit(self, lane, admissions)

    def wait(self, candidates: Sequence[Candidate], key: str | None, wake: Callable[[], None]) -> Waiter:
        """See `ports.StateStore`."""
        return self._slots.wait(candidates, key, wake)

    def record_end(self, candidate: Candidate, attempt: AttemptRecord, now_s: float) -> None:
        """Called when a permit is released."""
        name, outcome = candidate.target.name, attempt.outcome
        self._slots.give_back(name)
        breaker = self._breakers.get(name, CLOSED)
        if attempt.is_fault:
            self._breakers[name] = breakers.step(breaker, BreakerEvent.FAILURE, now_s, self._rule)
        elif breaker is not CLOSED and (outcome in _PROOF_OF_LIFE or _ends_trial(breaker, outcome)):
            self._breakers[name] = breakers.step(breaker, BreakerEvent.OK, now_s, self._rule)
        # A worker publishes its predicted wait, which is newer and more exact than the wait of one refusal.
        if attempt.retry_after_s is not None and candidate.target.kind is not Kind.WORKER:
            wait_s = min(attempt.retry_after_s, candidate.target.retry_after_max_s)
            self._holds.hold(name, now_s + wait_s, is_quota=attempt.is_quota)

    def reset_breaker(self, target: str) -> None:
        """A poll found the server reachable again: earlier failures no longer count."""
        breaker = self._breakers.get(target)
        if breaker is not None:
            self._breakers[target] = breakers.reset(breaker)

    def snapshot(self, now_s: float) -> Snapshot:
        """The counts of this process, for other replicas. In-flight counts are not shared."""
        return Snapshot(
            lanes=tuple((lane, guard.snapshot(now_s)) for lane, guard in self._guards.items()),
            breakers=tuple((name, breakers.snapshot(breaker, now_s)) for name, breaker in self._breakers.items()),
            hedges=self._hedges.snapshot(),
            retries=self._retries.snapshot(),
            keys=self._key_usage.snapshot(),
            holds=self._holds.snapshot(now_s),
        )

    def merge(self, now_s: float, peers: Sequence[PeerSnapshot], *, me: str) -> None:
        """Replace the state of other replicas; a missing one no longer counts. `me` is their name for this process."""
        peer_lanes: dict[tuple[str, str], list[tuple[float, LaneSnapshot]]] = {lane: [] for lane in self._guards}
        for each in peers:
            for lane, snapshot in each.snapshot.lanes:
                peer_lanes.setdefault(lane, []).append((each.written_s, snapshot))
        for lane, snapshots in peer_lanes.items():
            guard = self._guards.get(lane)
            if guard is None:  # no requests here yet; the first one must see the peers' state
                guard = self._guards[lane] = Guard(snapshots[0][1].slo)
            guard.merge(now_s, snapshots)
        for each in peers:
            for name, opening in each.snapshot.breakers:
                breaker = self._breakers.get(name, CLOSED)
                self._breakers[name] = breakers.merge(breaker, opening, each.written_s)
            self._holds.merge(each.snapshot.holds, each.written_s)
        living = [each for each in peers if now_s - each.written_s <= PEER_TTL_S]  # silent replicas may be dead
        self._hedges.merge(me, [(each.name, each.snapshot.hedges) for each in living])
        self._retries.merge(me, [(each.name, each.snapshot.retries) for each in living])
        self._key_usage.merge(now_s, [(each.name, each.snapshot.keys) for each in living])

    def _bind(self, candidate: Candidate) -> "_Lane":
        """The state of a candidate, found once. An objective that the policy changed starts with a new guard."""
        if len(self._lanes) >= _MAX_LANES:  # after many changes of the policy
            self._lanes.clear()
        target, slo = candidate.target, candidate.slo
        objectives = () if slo is None else _objectives_of(candidate.lane, slo)
        guards = tuple(self._guard(objective) for objective in objectives)
        lane = self._lanes[id(candidate)] = _Lane(
            candidate=candidate,
            name=target.name,
            objectives=objectives,
            guards=guards,
            whole=guards[0] if len(guards) == 1 and not objectives[0].of_first_token else None,
            retries=None if target.retry is None else self._retries[target.policy_name],
            hedges=None if candidate.hedge is None else self._hedges[candidate.lane],
            max_in_flight=target.max_in_flight,
            has_budgets=target.retry is not None or candidate.hedge is not None,
        )
        return lane

    def _guard(self, objective: "_Objective") -> Guard:
        guard = self._guards.get(objective.key)
        if guard is None or guard.slo != objective.slo:
            if guard is not None:  # candidates that are bound to the old one are bound anew
                self._lanes.clear()
            guard = self._guards[objective.key] = Guard(objective.slo)
        return guard


class MemoryPermit:
    """See `ports.Permit`."""

    __slots__ = ("_admissions", "_lane", "_store", "probe")

    def __init__(
        self, store: MemoryStore, lane: "_Lane", admissions: Sequence[Admission], *, probe: bool = False
    ) -> None:
        self._store, self._lane, self._admissions, self.probe = store, lane, admissions, probe

    def release(self, attempt: AttemptRecord, now_s: float) -> None:
        """See `ports.Permit`."""
        store, lane, outcome = self._store, self._lane, attempt.outcome
        if outcome is _OK and store._breakers.get(lane.name, CLOSED) is CLOSED:
            store._slots.give_back(lane.name)
        else:
            store.record_end(lane.candidate, attempt, now_s)
        if outcome is _OK and lane.whole is not None:
            lane.whole.finished(now_s, self._admissions[0], attempt.ended_ms - attempt.started_ms)
            return
        for guard, objective, admission in zip(lane.guards, lane.objectives, self._admissions, strict=True):
            if objective.of_first_token:
                _report_first_token(guard, admission, attempt, now_s)
            elif outcome in ANSWERED:
                guard.finished(now_s, admission, attempt.ended_ms - attempt.started_ms)
            elif outcome in ABANDONED:
                guard.abandoned(now_s, admission, attempt.elapsed_ms)


class _Objective(NamedTuple):
    """One latency objective of a lane with its guard's key."""

    key: tuple[str, str]
    slo: Slo
    label: str
    of_first_token: bool


class _Lane(NamedTuple):
    """What a candidate's requests need of the state, so that none of it is looked up by name for each request. It holds
    the candidate, whose identity therefore stays its own."""

    candidate: Candidate
    name: str  # of the target
    objectives: tuple[_Objective, ...]
    guards: tuple[Guard, ...]  # one for each objective
    whole: Guard | None  # the only guard, if that is of whole answers
    retries: RetryBudget | None
    hedges: RetryBudget | None
    max_in_flight: int | None
    has_budgets: bool

    def earn_budget(self) -> None:
        """A regular attempt earns a share of a retry and of a hedge."""
        if self.retries is not None and self.candidate.target.retry is not None:
            self.retries.deposit(self.candidate.target.retry.max_share)
        if self.hedges is not None and self.candidate.hedge is not None:
            self.hedges.deposit(self.candidate.hedge.max_share)


def _ends_trial(breaker: Breaker, outcome: Reason | AttemptOutcome) -> bool:
    """Whether an answer without an end is a sign of life. To a closed breaker, it says nothing."""
    return outcome is AttemptOutcome.INCOMPLETE and breaker.state is not BreakerState.CLOSED


def _objectives_of(lane: tuple[str, str], slo: Slo) -> tuple[_Objective, ...]:
    """A guard tracks one number, so the time to first token has a guard of its own."""
    whole = _Objective(lane, slo, "p95", of_first_token=False)
    first = replace(slo, p95_ms=slo.first_token_p95_ms)
    first_token = _Objective(
        (lane[0], f"{lane[1]} (first token)"), first, "p95 of the first token", of_first_token=True
    )
    return tuple(objective for objective in (whole, first_token) if objective.slo.p95_ms < inf)


def _report_first_token(guard: Guard, admission: Admission, attempt: AttemptRecord, now_s: float) -> None:
    """Streams only. A first token counts as soon as it arrives, whatever happens afterwards."""
    if attempt.first_token_ms is not None:
        guard.finished(now_s, admission, attempt.first_token_ms - attempt.started_ms)
    elif attempt.stream and attempt.outcome in ABANDONED:
        guard.abandoned(now_s, admission, attempt.elapsed_ms)
