"""The SLO guard of one lane: benches it when its p95 is over budget, probes it, and ramps it up again.

Knows one lane only, neither clock nor dice: `now_s` and `sample` (uniform in [0, 1)) come with each call.

"p95 <= budget" means that at most one answer in twenty is over. So the guard counts, and asks how likely the count
would be if the lane just kept its promise: ejected when P(Binomial(n, 0.05) >= k) < 0.001. That is a test, not an
estimate: a point estimate of p95 benches a healthy lane many times an hour and needs too many probes to heal.

Replicas count together: each adds what the others `snapshot`, and follows whoever is further (`era`, then `stage`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from typing import Final

from gateway.enums import LaneState
from gateway.policy_types import Slo
from gateway.reliability.replication import LaneSnapshot
from gateway.reliability.window import Counts, Window

SHARE_OVER: Final = 0.05
DOUBT: Final = 0.001
MIN_ANSWERS: Final = 10
FRESH_PROBES: Final = 10
RAMP: Final = (0.1, 0.5)  # then everything


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """Leave to call the lane; handed back with the outcome. Outcomes from an earlier `era` no longer count."""

    era: int
    probe: bool = False


class Guard:
    """One lane's guard: `ask` before an attempt, then `finished` or `abandoned` after it, with the ticket it gave."""

    def __init__(self, slo: Slo) -> None:
        self.slo = slo
        self._window = Window(slo.window_s)
        self._state = LaneState.SERVING
        self._ticket = Admission(era=0)
        self._era = 0
        self._hold_s = slo.base_ejection_s
        self._since_s = float("-inf")
        self._serving_since_s = float("-inf")
        self._last_probe_s = float("-inf")
        self._probes: tuple[tuple[float, bool], ...] = ()  # when, and was it over recover_ratio x budget? Our last ten
        self._others: Window | None = None  # what other replicas counted in this era
        self._others_probes: tuple[tuple[float, bool], ...] = ()
        self._stage = len(RAMP)
        self._stage_counts = Counts()
        self._p95_ms: float | None = None
        self._p95_until_s = 0.0

    @property
    def state(self) -> LaneState:
        """The lane's state after the last call."""
        return self._state

    def ask(self, now_s: float, *, sample: float, healthy_fallback: bool) -> Admission | None:
        """May a request take this lane now? None: skip it for `p95_breach`.

        `healthy_fallback` says that a later lane could take the request and is within its own budget: without it,
        leaving a slow lane only moves the load to a slower one, so nothing is ejected and nobody is turned away."""
        if healthy_fallback and self._state is not LaneState.EJECTED and self._is_breached(now_s):
            self._bench(now_s)
        self._recover(now_s)
        if self._state is LaneState.SERVING:
            return self._ticket
        if not healthy_fallback or sample < self._share() or now_s >= self._last_probe_s + self.slo.probe_every_s:
            self._last_probe_s = now_s
            return self._ticket
        return None

    def finished(self, now_s: float, admission: Admission, latency_ms: float) -> None:
        """A whole answer came after `latency_ms`, whatever it was worth. Faults are the breaker's and not told here."""
        if admission.era == self._era:
            self._count(now_s, latency_ms)

    def abandoned(self, now_s: float, admission: Admission, elapsed_ms: float) -> None:
        """An attempt was given up unfinished: it counts as over once it outlasted the budget, otherwise not at all."""
        if admission.era == self._era and elapsed_ms > self.slo.p95_ms:
            self._count(now_s, elapsed_ms)

    def within_budget(self, now_s: float) -> bool:
        """May others be sent here instead? Unknown counts as yes."""
        return self._state is LaneState.SERVING and not self._is_breached(now_s)

    def p95_ms(self, now_s: float) -> float | None:
        """The p95 of the window in ms, or None with fewer than twenty answers. For display: it may lag a little.

        Reading it is dear beside counting, so it is read anew at most a hundred times per window.
        """
        if self._p95_ms is None or now_s >= self._p95_until_s:
            self._p95_ms = self._window.quantile(now_s, 1 - SHARE_OVER)
            self._p95_until_s = now_s + self.slo.window_s / 100
        return self._p95_ms

    def counts(self, now_s: float) -> Counts:
        """The window's answers and those over budget, of all replicas (while ejected: as before; see `_probes`)."""
        own = self._window.counts(now_s)
        if self._others is None:
            return own
        others = self._others.counts(now_s)
        return Counts(total=own.total + others.total, over=own.over + others.over)

    def snapshot(self, now_s: float) -> LaneSnapshot:
        """What to tell other replicas."""
        is_benched = self._state is LaneState.EJECTED
        return LaneSnapshot(
            slo=self.slo,
            era=self._era,
            stage=self._stage,
            since_s=now_s - self._since_s,
            serving_since_s=now_s - self._serving_since_s,
            hold_s=self._hold_s,
            tallies=() if is_benched else self._window.tallies(now_s),
            probes=tuple((now_s - at_s, late) for at_s, late in self._probes) if is_benched else (),
        )

    def merge(self, now_s: float, heard: Sequence[tuple[float, LaneSnapshot]]) -> None:
        """All that the other replicas said last, each with the time it was said at; replaces what was heard before."""
        reports = [(told_s, snapshot) for told_s, snapshot in heard if snapshot.slo == self.slo]
        for told_s, snapshot in reports:
            if (snapshot.era, snapshot.stage) > (self._era, self._stage):
                self._follow(now_s, told_s, snapshot)
        same = [(told_s, snapshot) for told_s, snapshot in reports if snapshot.era == self._era]
        self._others = Window(self.slo.window_s) if same else None
        for told_s, snapshot in same:
            assert self._others is not None
            self._others.merge_tallies(now_s, told_s, snapshot.tallies)
        self._others_probes = tuple(
            (told_s - age_s, late) for told_s, snapshot in same for age_s, late in snapshot.probes
        )
        self._recover(now_s)

    def _is_breached(self, now_s: float) -> bool:
        if self._state is LaneState.PROBING:
            return self._stage_counts.over > 1
        counts = self.counts(now_s)
        return counts.total >= MIN_ANSWERS and counts.over >= critical(counts.total)

    def _share(self) -> float:
        return self.slo.probe_share if self._state is LaneState.EJECTED else RAMP[self._stage]

    def _count(self, now_s: float, latency_ms: float) -> None:
        if self._state is LaneState.EJECTED:
            late = latency_ms > self.slo.recover_ratio * self.slo.p95_ms
            self._probes = (*self._probes, (now_s, late))[-FRESH_PROBES:]
        else:
            over = latency_ms > self.slo.p95_ms
            self._window.add(now_s, latency_ms, over=over)
            if self._state is LaneState.PROBING:
                self._count_stage(now_s, over)
        self._recover(now_s)

    def _count_stage(self, now_s: float, over: bool) -> None:
        """Ten answers with at most one over budget take the ramp one stage up; a bad ten without relief starts over."""
        counts = self._stage_counts
        counts = self._stage_counts = Counts(total=counts.total + 1, over=counts.over + over)
        if counts.total < FRESH_PROBES:
            return
        self._stage_counts = Counts()
        if counts.over <= 1:
            self._stage += 1
            if self._stage == len(RAMP):
                self._enter(LaneState.SERVING, now_s)
                self._serving_since_s = now_s

    def _bench(self, now_s: float) -> None:
        """A lane ejected again before it served as long as the longest hold-down is held down twice as long as before.

        A shorter memory would let a lane that is only a little over its budget come and go all day.
        """
        served_s = now_s - self._serving_since_s if self._state is LaneState.SERVING else 0.0
        again = served_s < self.slo.max_ejection_s
        self._hold_s = min(2 * self._hold_s, self.slo.max_ejection_s) if again else self.slo.base_ejection_s
        self._stage = 0
        self._new_era(LaneState.EJECTED, now_s)

    def _recover(self, now_s: float) -> None:
        """From ejected to the ramp, once the hold-down is over and ten fresh probes were good."""
        held = self._state is LaneState.EJECTED and now_s >= self._since_s + self._hold_s
        if not held:
            return
        probes = sorted((*self._probes, *self._others_probes))[-FRESH_PROBES:]
        if len(probes) == FRESH_PROBES and sum(late for _, late in probes) <= 1:
            self._new_era(LaneState.PROBING, now_s)

    def _follow(self, now_s: float, told_s: float, snapshot: LaneSnapshot) -> None:
        """Another replica is further: its state is ours, from when it entered it."""
        self._hold_s = snapshot.hold_s
        self._serving_since_s = told_s - snapshot.serving_since_s
        self._stage, self._stage_counts = snapshot.stage, Counts()
        if snapshot.era != self._era:
            self._era = snapshot.era - 1
            self._new_era(LaneState.EJECTED if snapshot.era % 2 else LaneState.PROBING, now_s)
        if snapshot.stage == len(RAMP):
            self._enter(LaneState.SERVING, now_s)
        self._since_s = told_s - snapshot.since_s

    def _new_era(self, state: LaneState, now_s: float) -> None:
        """Odd eras are ejected, even ones probing and then serving; what was counted in another is void."""
        self._era += 1
        self._probes, self._others_probes, self._others = (), (), None
        self._stage_counts = Counts()
        if state is LaneState.EJECTED:
            self._last_probe_s = now_s
        else:
            self._window.clear()
            self._p95_ms = None
        self._enter(state, now_s)

    def _enter(self, state: LaneState, now_s: float) -> None:
        self._state = state
        self._since_s = now_s
        self._ticket = Admission(era=self._era, probe=state is not LaneState.SERVING)


def critical(total: int) -> int:
    """The fewest answers over budget, of `total`, that a lane within its p95 reaches with a chance below `DOUBT`."""
    if total < len(_CRITICAL):
        return _CRITICAL[total]
    return _critical_approx(total)


def _critical_exact(largest: int) -> tuple[int, ...]:
    """critical(0), ..., critical(largest), from the binomial distribution of n grown answer by answer."""
    found = []
    chances = [1.0]  # P(Binomial(n, SHARE_OVER) = j), cut off where it cannot matter
    k = 0
    for _ in range(largest + 1):
        while sum(chances[k:]) >= DOUBT:
            k += 1
        found.append(k)
        chances = [a * (1 - SHARE_OVER) + b * SHARE_OVER for a, b in zip([*chances, 0.0], [0.0, *chances], strict=True)]
        del chances[k + 40 :]
    return tuple(found)


def _critical_approx(total: int) -> int:
    """Normal quantile with the Cornish-Fisher correction for skew: off by at most one from a few hundred answers on."""
    z = 3.0902323  # P(normal > z) = DOUBT
    spread = sqrt(total * SHARE_OVER * (1 - SHARE_OVER))
    skew = (z * z - 1) * (1 - 2 * SHARE_OVER) / 6
    return ceil(total * SHARE_OVER + z * spread + skew + 0.5)


_CRITICAL: Final = _critical_exact(512)
