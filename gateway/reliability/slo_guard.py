"""The SLO guard of one lane: ejects it when its p95 exceeds the objective, probes it, and ramps it up again.

Callers pass the time (`now_s`) and a random number (`sample`, uniform in [0, 1)).

"p95 <= objective" means that at most one answer in twenty is over the objective. The guard counts answers and applies a
binomial test: it ejects the lane when P(Binomial(n, 0.05) >= k) < 0.001. A point estimate of the p95 would eject a
healthy lane many times an hour, and would need too many probes to recover.

Replicas count together: each adds the others' snapshots, and adopts the latest state (`epoch`, then `ramp_stage`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from typing import Final

from gateway.enums import LaneState
from gateway.policy_types import Slo
from gateway.reliability.replication import LaneSnapshot
from gateway.reliability.window import Counts, Window

_SERVING: Final = LaneState.SERVING  # finding a member in its class takes 0.2 µs

ALLOWED_SHARE: Final = 0.05
SIGNIFICANCE: Final = 0.001
MIN_ANSWERS: Final = 10
PROBES_TO_RECOVER: Final = 10
RAMP: Final = (0.1, 0.5)  # share of requests per stage; then all


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """Permission to call the lane, returned with the outcome. Outcomes from an earlier `epoch` are ignored."""

    epoch: int
    probe: bool = False


class Guard:
    """One lane's guard: `acquire` before an attempt, then `finished` or `abandoned` with the returned admission."""

    def __init__(self, slo: Slo) -> None:
        self.slo = slo
        self._window = Window(slo.window_s)
        self._state = LaneState.SERVING
        self.admission = Admission(epoch=0)  # to a calm lane
        self._epoch = 0
        self._ejection_s = slo.base_ejection_s
        self._since_s = float("-inf")
        self._serving_since_s = float("-inf")
        self._last_probe_s = float("-inf")
        self._probes: tuple[tuple[float, bool], ...] = ()  # own last ten: time, and whether over recover_ratio x p95
        self._peers: Window | None = None  # counts of other replicas in this epoch
        self._peer_probes: tuple[tuple[float, bool], ...] = ()
        self._ramp_stage = len(RAMP)
        self._ramp_counts = Counts()
        self._p95_ms: float | None = None
        self._p95_until_s = 0.0

    @property
    def state(self) -> LaneState:
        """The lane's state after the last call."""
        return self._state

    @property
    def is_calm(self) -> bool:
        """Whether the lane serves everything, and has had too few late answers to be ejected, whoever could take over.
        Answers that have expired since the last call may count."""
        over = self._window.over if self._peers is None else self._window.over + self._peers.over
        return over < _LEAST_CRITICAL and self._state is _SERVING

    def acquire(self, now_s: float, *, sample: float, healthy_fallback: bool) -> Admission | None:
        """Permission for one request; None to skip the lane because of `p95_breach`.

        `healthy_fallback`: a later lane could serve the request and is within its own objective. Without one, leaving a
        slow lane would only move load to a slower one, so the lane is not ejected and every request is admitted."""
        if healthy_fallback and self._state is not LaneState.EJECTED and self._is_breached(now_s):
            self._eject(now_s)
        if self._state is LaneState.SERVING:
            return self.admission
        self._recover(now_s)
        if not healthy_fallback or sample < self._share() or now_s >= self._last_probe_s + self.slo.probe_every_s:
            self._last_probe_s = now_s
            return self.admission
        return None

    def finished(self, now_s: float, admission: Admission, latency_ms: float) -> None:
        """A complete response arrived after `latency_ms`, valid or not. Failures are the breaker's concern."""
        if admission.epoch != self._epoch:
            return
        if self._state is _SERVING:
            self._window.add(now_s, latency_ms, over=latency_ms > self.slo.p95_ms)
        else:
            self._count(now_s, latency_ms)

    def abandoned(self, now_s: float, admission: Admission, elapsed_ms: float) -> None:
        """An attempt was cancelled: it counts as over the objective if it already exceeded it, otherwise not at all."""
        if admission.epoch == self._epoch and elapsed_ms > self.slo.p95_ms:
            self._count(now_s, elapsed_ms)

    def within_budget(self, now_s: float) -> bool:
        """Whether the lane may serve as a fallback. Unknown counts as yes."""
        return self.is_calm or (self._state is LaneState.SERVING and not self._is_breached(now_s))

    def p95_ms(self, now_s: float) -> float | None:
        """The p95 of the window in ms, for display; None with fewer than twenty answers.

        Computing it is expensive, so it is cached and updated at most a hundred times per window.
        """
        if self._p95_ms is None or now_s >= self._p95_until_s:
            self._p95_ms = self._window.quantile(now_s, 1 - ALLOWED_SHARE)
            self._p95_until_s = now_s + self.slo.window_s / 100
        return self._p95_ms

    def counts(self, now_s: float) -> Counts:
        """The window's counts over all replicas. While ejected, they stay as they were before; see `_probes`."""
        own = self._window.counts(now_s)
        if self._peers is None:
            return own
        others = self._peers.counts(now_s)
        return Counts(total=own.total + others.total, over=own.over + others.over)

    def snapshot(self, now_s: float) -> LaneSnapshot:
        """The state to send to other replicas."""
        is_ejected = self._state is LaneState.EJECTED
        return LaneSnapshot(
            slo=self.slo,
            epoch=self._epoch,
            ramp_stage=self._ramp_stage,
            since_s=now_s - self._since_s,
            serving_since_s=now_s - self._serving_since_s,
            ejection_s=self._ejection_s,
            tallies=() if is_ejected else self._window.tallies(now_s),
            probes=tuple((now_s - at_s, late) for at_s, late in self._probes) if is_ejected else (),
        )

    def merge(self, now_s: float, peers: Sequence[tuple[float, LaneSnapshot]]) -> None:
        """Replace the peers' state with their last snapshots, each with the time it was written at."""
        snapshots = [(written_s, snapshot) for written_s, snapshot in peers if snapshot.slo == self.slo]
        for written_s, snapshot in snapshots:
            if (snapshot.epoch, snapshot.ramp_stage) > (self._epoch, self._ramp_stage):
                self._adopt(now_s, written_s, snapshot)
        same = [(written_s, snapshot) for written_s, snapshot in snapshots if snapshot.epoch == self._epoch]
        self._peers = Window(self.slo.window_s) if same else None
        for written_s, snapshot in same:
            assert self._peers is not None
            self._peers.merge_tallies(now_s, written_s, snapshot.tallies)
        self._peer_probes = tuple(
            (written_s - age_s, late) for written_s, snapshot in same for age_s, late in snapshot.probes
        )
        self._recover(now_s)

    def _is_breached(self, now_s: float) -> bool:
        if self._state is LaneState.PROBING:
            return self._ramp_counts.over > 1
        if self.is_calm:
            return False
        counts = self.counts(now_s)
        return counts.total >= MIN_ANSWERS and counts.over >= critical(counts.total)

    def _share(self) -> float:
        return self.slo.probe_share if self._state is LaneState.EJECTED else RAMP[self._ramp_stage]

    def _count(self, now_s: float, latency_ms: float) -> None:
        if self._state is LaneState.EJECTED:
            late = latency_ms > self.slo.recover_ratio * self.slo.p95_ms
            self._probes = (*self._probes, (now_s, late))[-PROBES_TO_RECOVER:]
        else:
            over = latency_ms > self.slo.p95_ms
            self._window.add(now_s, latency_ms, over=over)
            if self._state is LaneState.PROBING:
                self._count_ramp(now_s, over)
        if self._state is LaneState.EJECTED:
            self._recover(now_s)

    def _count_ramp(self, now_s: float, over: bool) -> None:
        """Advance the ramp after ten answers with at most one over the objective; otherwise, repeat the stage."""
        counts = self._ramp_counts
        counts = self._ramp_counts = Counts(total=counts.total + 1, over=counts.over + over)
        if counts.total < PROBES_TO_RECOVER:
            return
        self._ramp_counts = Counts()
        if counts.over <= 1:
            self._ramp_stage += 1
            if self._ramp_stage == len(RAMP):
                self._enter(LaneState.SERVING, now_s)
                self._serving_since_s = now_s

    def _eject(self, now_s: float) -> None:
        """Eject the lane. The ejection time doubles if the lane served for less than the maximum ejection time.

        With a shorter memory, a lane slightly over its objective would be ejected and restored all day.
        """
        served_s = now_s - self._serving_since_s if self._state is LaneState.SERVING else 0.0
        again = served_s < self.slo.max_ejection_s
        self._ejection_s = min(2 * self._ejection_s, self.slo.max_ejection_s) if again else self.slo.base_ejection_s
        self._ramp_stage = 0
        self._new_epoch(LaneState.EJECTED, now_s)

    def _recover(self, now_s: float) -> None:
        """Start the ramp once the ejection time is over and at most one of the last ten probes was late."""
        if self._state is not LaneState.EJECTED or now_s < self._since_s + self._ejection_s:
            return
        probes = sorted((*self._probes, *self._peer_probes))[-PROBES_TO_RECOVER:]
        if len(probes) == PROBES_TO_RECOVER and sum(late for _, late in probes) <= 1:
            self._new_epoch(LaneState.PROBING, now_s)

    def _adopt(self, now_s: float, written_s: float, snapshot: LaneSnapshot) -> None:
        """Adopt the later state of another replica, with the time at which it entered that state."""
        self._ejection_s = snapshot.ejection_s
        self._serving_since_s = written_s - snapshot.serving_since_s
        self._ramp_stage, self._ramp_counts = snapshot.ramp_stage, Counts()
        if snapshot.epoch != self._epoch:
            self._epoch = snapshot.epoch - 1
            self._new_epoch(LaneState.EJECTED if snapshot.epoch % 2 else LaneState.PROBING, now_s)
        if snapshot.ramp_stage == len(RAMP):
            self._enter(LaneState.SERVING, now_s)
        self._since_s = written_s - snapshot.since_s

    def _new_epoch(self, state: LaneState, now_s: float) -> None:
        """Start an epoch: odd ones are ejected, even ones probing and then serving. Earlier counts are dropped."""
        self._epoch += 1
        self._probes, self._peer_probes, self._peers = (), (), None
        self._ramp_counts = Counts()
        if state is LaneState.EJECTED:
            self._last_probe_s = now_s
        else:
            self._window.clear()
            self._p95_ms = None
        self._enter(state, now_s)

    def _enter(self, state: LaneState, now_s: float) -> None:
        self._state = state
        self._since_s = now_s
        self.admission = Admission(epoch=self._epoch, probe=state is not LaneState.SERVING)


def critical(total: int) -> int:
    """The critical value of the test: the fewest answers over the objective, of `total`, that eject the lane."""
    if total < len(_CRITICAL):
        return _CRITICAL[total]
    return _critical_approx(total)


def _critical_exact(largest: int) -> tuple[int, ...]:
    """critical(0), ..., critical(largest), from the binomial distribution, computed incrementally in n."""
    found = []
    chances = [1.0]  # P(Binomial(n, ALLOWED_SHARE) = j), truncated where it is negligible
    k = 0
    for _ in range(largest + 1):
        while sum(chances[k:]) >= SIGNIFICANCE:
            k += 1
        found.append(k)
        chances = [
            a * (1 - ALLOWED_SHARE) + b * ALLOWED_SHARE for a, b in zip([*chances, 0.0], [0.0, *chances], strict=True)
        ]
        del chances[k + 40 :]
    return tuple(found)


def _critical_approx(total: int) -> int:
    """Normal quantile with the Cornish-Fisher correction for skew: at most one off, from a few hundred answers on."""
    z = 3.0902323  # P(normal > z) = SIGNIFICANCE
    spread = sqrt(total * ALLOWED_SHARE * (1 - ALLOWED_SHARE))
    skew = (z * z - 1) * (1 - 2 * ALLOWED_SHARE) / 6
    return ceil(total * ALLOWED_SHARE + z * spread + skew + 0.5)


_CRITICAL: Final = _critical_exact(512)
_LEAST_CRITICAL: Final = critical(MIN_ANSWERS)  # fewer never eject a lane
