"""States as gauges, read at the moment somebody looks: of lanes, targets, policy and store.

`look` belongs to the event loop, whose state it reads; `collect` may run on any thread and shows the last look. What
other processes of the same gateway saw last is folded in, family by family. Unknown is left out, never 0.
"""

from collections.abc import Callable, Iterable, Iterator
from math import inf
from typing import Final, NamedTuple

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from gateway.enums import BreakerState, LaneState, Residency
from gateway.ports import Clock, StateStore
from gateway.routing.policy import Policy
from gateway.telemetry import metric_names as names
from gateway.types import Candidate, Status, Target


class Family(NamedTuple):
    """What a gauge is called and says, its labels, and how what several processes saw becomes one number."""

    says: str
    labels: tuple[str, ...]
    fold: Callable[[Iterable[float]], float] = max  # the worst, where it is a matter of worse and better


class Reading(NamedTuple):
    """One number of one family, at one moment."""

    name: str
    labels: tuple[str, ...]
    value: float


Source = Callable[[], Iterable[Reading]]

FAMILIES: Final = {
    names.LANE_STATE: Family("0 serving, 1 probing, 2 ejected.", ("route", "target")),
    names.LANE_P95_SECONDS: Family("p95 of the window.", ("route", "target")),
    names.LANE_BUDGET_SECONDS: Family("What p95 should be.", ("route", "target")),
    names.LANE_FIRST_TOKEN_BUDGET: Family("What p95 of the first token should be.", ("route", "target")),
    names.BREAKER_STATE: Family("0 closed, 1 half open, 2 open.", ("target",)),
    names.IN_FLIGHT: Family("Attempts under way.", ("target",), sum),
    names.TARGET_RESIDENCY: Family("1 for where a worker last said its weights are.", ("target", "state")),
    names.TARGET_WAIT_SECONDS: Family("What a worker last said a request would wait.", ("target",)),
    names.POLICY_INFO: Family("The running policy.", ("hash",)),
    names.POLICY_LOADED: Family("When the running policy was loaded.", (), min),
    names.POLICY_CURRENT: Family("Is the running policy what its file says?", (), min),
    names.STORE_UP: Family("Did the last exchange with other replicas work?", (), min),
    names.BUILD_INFO: Family("What runs here.", ("version",)),
}
_LANE_NUMBER: Final = {LaneState.SERVING: 0, LaneState.PROBING: 1, LaneState.EJECTED: 2}
_BREAKER_NUMBER: Final = {BreakerState.CLOSED: 0, BreakerState.HALF_OPEN: 1, BreakerState.OPEN: 2}


class Gauges(Collector):
    """Register it with a registry. `others` gives what other processes saw."""

    def __init__(self, others: Source = tuple) -> None:
        self._sources: list[Source] = []
        self._others = others
        self._seen: tuple[Reading, ...] = ()

    def watch(self, source: Source) -> None:
        """Ask it, too, at every look."""
        self._sources.append(source)

    def look(self) -> tuple[Reading, ...]:
        """Read everything now; on the event loop."""
        self._seen = tuple(reading for source in self._sources for reading in source())
        return self._seen

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """What was last seen, family by family."""
        seen: dict[str, dict[tuple[str, ...], list[float]]] = {}
        for reading in (*self._seen, *self._others()):
            seen.setdefault(reading.name, {}).setdefault(reading.labels, []).append(reading.value)
        for name, family in FAMILIES.items():
            if name in seen:
                metric = GaugeMetricFamily(name, family.says, labels=family.labels)
                for labels, values in seen[name].items():
                    metric.add_metric(labels, family.fold(values))
                yield metric


def lanes_of(
    policy: Callable[[], Policy], state: StateStore, clock: Clock, status_of: Callable[[Target], Status]
) -> Source:
    """All lanes and targets of the running policy."""

    def look() -> Iterator[Reading]:
        now_s, seen = clock.now_s(), set[str]()
        for candidate in policy().lanes:
            yield from _lane(candidate, state, now_s)
            for place in candidate.endpoints:
                if place.target.name not in seen:
                    seen.add(place.target.name)
                    yield from _target(place, state, status_of(place.target), now_s)
        yield Reading(names.POLICY_INFO, (policy().version,), 1)

    return look


def _lane(candidate: Candidate, state: StateStore, now_s: float) -> Iterator[Reading]:
    if candidate.slo is None:
        return
    lane = candidate.lane
    yield Reading(names.LANE_STATE, lane, _LANE_NUMBER[state.health(candidate, Status(), now_s).lane])
    if candidate.slo.p95_ms < inf:
        yield Reading(names.LANE_BUDGET_SECONDS, lane, candidate.slo.p95_ms / 1000)
    if candidate.slo.first_token_p95_ms < inf:
        yield Reading(names.LANE_FIRST_TOKEN_BUDGET, lane, candidate.slo.first_token_p95_ms / 1000)
    p95_ms = state.p95_ms(candidate, now_s)
    if p95_ms is not None:
        yield Reading(names.LANE_P95_SECONDS, lane, p95_ms / 1000)


def _target(place: Candidate, state: StateStore, status: Status, now_s: float) -> Iterator[Reading]:
    health, label = state.health(place, status, now_s), (place.target.name,)
    yield Reading(names.BREAKER_STATE, label, _BREAKER_NUMBER[health.breaker])
    yield Reading(names.IN_FLIGHT, label, health.in_flight)
    if status.residency is not Residency.UNKNOWN:
        yield Reading(names.TARGET_RESIDENCY, (*label, status.residency), 1)
    if status.predicted_wait_ms is not None:
        yield Reading(names.TARGET_WAIT_SECONDS, label, status.predicted_wait_ms / 1000)
