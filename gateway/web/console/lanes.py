"""The state of all lanes and targets, and when lanes changed it, for the console.

A background task looks at the lanes once a second, so that changes are known that happened before a page was opened.
Requests do nothing for it.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf
from typing import Any, Final

from gateway.decision import Decision
from gateway.enums import LaneState
from gateway.policy_types import Slo
from gateway.ports import Clock, StateStore
from gateway.routing.policy import Policy
from gateway.types import Candidate, Status, Target
from gateway.web.console.documents import WINDOW_S, lane_of, latencies_of, target_of

EVERY_S: Final = 1.0
MAX_CHANGES: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneChange:
    """A lane's state from `time_s` (since the epoch) on, and the figures behind it."""

    time_s: float
    route: str
    target: str
    state: LaneState
    reason: str


@dataclass(slots=True, kw_only=True)
class LaneWatch:
    """Of the running policy. `status_of` a target: as its upstream client knows it."""

    policy: Callable[[], Policy]
    state: StateStore
    clock: Clock
    status_of: Callable[[Target], Status]
    changes: deque[LaneChange] = field(default_factory=lambda: deque(maxlen=MAX_CHANGES))
    began_s: float = 0.0
    _known: dict[tuple[str, str], LaneState] = field(default_factory=dict)

    async def run(self) -> None:
        """Look at the lanes until cancelled."""
        self.began_s = self.clock.wall_s()
        while True:
            self.look()
            await asyncio.sleep(EVERY_S)

    def look(self) -> None:
        """Record the lanes whose state has changed."""
        now_s = self.clock.now_s()
        for candidate in self.policy().lanes:
            if candidate.slo is None:
                continue
            state = self.state.health(candidate, Status(), now_s).lane
            before = self._known.get(candidate.lane, LaneState.SERVING)
            if state is not before:
                self._known[candidate.lane] = state
                self.changes.append(self._change(candidate, before, state, now_s))

    def document(self, decisions: Sequence[Decision]) -> dict[str, Any]:
        """Lanes, targets and changes now; latencies are those of the `decisions` of the last minutes."""
        now_s, wall_s = self.clock.now_s(), self.clock.wall_s()
        latencies = latencies_of(decisions, since_s=wall_s - WINDOW_S)
        lanes, targets, seen = [], [], set[str]()
        for candidate in self.policy().lanes:
            health = self.state.health(candidate, Status(), now_s)
            p95_ms = self.state.p95_ms(candidate, now_s) if candidate.slo is not None else None
            lanes.append(lane_of(candidate, health, latencies.get(candidate.lane), p95_ms))
            for endpoint in candidate.endpoints:
                if endpoint.target.name not in seen:
                    seen.add(endpoint.target.name)
                    status = self.status_of(endpoint.target)
                    targets.append(target_of(endpoint.target, self.state.health(endpoint, status, now_s)))
        return {
            "time_ms": round(wall_s * 1000),
            "since_ms": round(self.began_s * 1000),
            "window_s": WINDOW_S,
            "lanes": lanes,
            "targets": targets,
            "changes": [_shown(each) for each in self.changes],
            "chains": _chains(self.policy()),
        }

    def _change(self, candidate: Candidate, before: LaneState, state: LaneState, now_s: float) -> LaneChange:
        p95_ms = self.state.p95_ms(candidate, now_s)
        assert candidate.slo is not None
        objective = _objective(candidate.slo)
        measured = "" if p95_ms is None else f", measured p95 {p95_ms:.0f} ms"
        reasons = {
            LaneState.EJECTED: f"p95 over the objective of {objective}{measured}",
            LaneState.PROBING: "the ejection time is over; probes are sent",
            LaneState.SERVING: f"probes met the objective of {objective}",
        }
        if before is LaneState.PROBING and state is LaneState.EJECTED:
            reasons[state] = f"a probe exceeded the objective of {objective}"
        route, target = candidate.lane
        return LaneChange(time_s=self.clock.wall_s(), route=route, target=target, state=state, reason=reasons[state])


def _objective(slo: Slo) -> str:
    limits = ((slo.p95_ms, "ms"), (slo.first_token_p95_ms, "ms to the first token"))
    return " or ".join(f"{limit:g} {unit}" for limit, unit in limits if limit < inf)


def _shown(change: LaneChange) -> dict[str, Any]:
    return {
        "time_ms": round(change.time_s * 1000),
        "route": change.route,
        "target": change.target,
        "state": change.state,
        "reason": change.reason,
    }


def _chains(policy: Policy) -> list[list[str]]:
    """Each fallback that a route allows, as route, from and to."""
    return [
        [plan.route, left.target.name, taken.target.name]
        for rule in policy.rules
        for split in rule.splits
        for plan in (split.open,)
        for left, taken in pairwise(plan.candidates)
    ]
