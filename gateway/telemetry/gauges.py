"""Gauges of lanes, targets, policy and store, read when Prometheus scrapes.

`refresh` runs on the event loop, whose state it reads; `collect` may run on any thread and returns the last
refresh. Values of other processes of the same gateway are merged per gauge. An unknown value is omitted, never 0.
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
    """Help text and labels of a gauge, and how the values of several processes are merged."""

    help: str
    labels: tuple[str, ...]
    merge: Callable[[Iterable[float]], float] = max  # the worst value


class Reading(NamedTuple):
    """One value of a gauge."""

    name: str
    labels: tuple[str, ...]
    value: float


Source = Callable[[], Iterable[Reading]]

FAMILIES: Final = {
    names.LANE_STATE: Family("State of the lane: 0 serving, 1 probing, 2 ejected.", ("route", "target")),
    names.LANE_P95_SECONDS: Family("Measured p95 latency of the lane's window.", ("route", "target")),
    names.LANE_BUDGET_SECONDS: Family("p95 latency objective of the lane.", ("route", "target")),
    names.LANE_FIRST_TOKEN_BUDGET: Family(
        "p95 objective of the lane for the time to first token.", ("route", "target")
    ),
    names.BREAKER_STATE: Family("State of the circuit breaker: 0 closed, 1 half open, 2 open.", ("target",)),
    names.IN_FLIGHT: Family("Attempts in flight.", ("target",), sum),
    names.TARGET_RESIDENCY: Family("1 for the last reported state of the worker's weights.", ("target", "state")),
    names.TARGET_WAIT_SECONDS: Family("Queue wait of a new request as last predicted by the worker.", ("target",)),
    names.POLICY_INFO: Family("Hash of the running policy.", ("hash",)),
    names.POLICY_LOADED: Family("Unix time at which the running policy was loaded.", (), min),
    names.POLICY_CURRENT: Family("1 if the last reload of the policy file succeeded.", (), min),
    names.STORE_UP: Family("1 if the last exchange with other replicas succeeded.", (), min),
    names.BYTES_IN_FLIGHT: Family("Bytes of request bodies and buffered answers held in memory.", (), sum),
    names.BUILD_INFO: Family("Version of the gateway.", ("version",)),
}
_LANE_NUMBER: Final = {LaneState.SERVING: 0, LaneState.PROBING: 1, LaneState.EJECTED: 2}
_BREAKER_NUMBER: Final = {BreakerState.CLOSED: 0, BreakerState.HALF_OPEN: 1, BreakerState.OPEN: 2}


class Gauges(Collector):
    """A collector for a Prometheus registry. `peer_readings` returns the values of other processes."""

    def __init__(self, peer_readings: Source = tuple) -> None:
        self._sources: list[Source] = []
        self._peer_readings = peer_readings
        self._seen: tuple[Reading, ...] = ()

    def add_source(self, source: Source) -> None:
        """Read this source at every refresh."""
        self._sources.append(source)

    def refresh(self) -> tuple[Reading, ...]:
        """Read all sources; on the event loop."""
        self._seen = tuple(reading for source in self._sources for reading in source())
        return self._seen

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The last refresh, gauge by gauge."""
        seen: dict[str, dict[tuple[str, ...], list[float]]] = {}
        for reading in (*self._seen, *self._peer_readings()):
            seen.setdefault(reading.name, {}).setdefault(reading.labels, []).append(reading.value)
        for name, family in FAMILIES.items():
            if name in seen:
                metric = GaugeMetricFamily(name, family.help, labels=family.labels)
                for labels, values in seen[name].items():
                    metric.add_metric(labels, family.merge(values))
                yield metric


def lane_gauges(
    policy: Callable[[], Policy], state: StateStore, clock: Clock, status_of: Callable[[Target], Status]
) -> Source:
    """The gauges of all lanes and targets of the running policy."""

    def refresh() -> Iterator[Reading]:
        now_s, seen = clock.now_s(), set[str]()
        for candidate in policy().lanes:
            yield from _lane(candidate, state, now_s)
            for endpoint in candidate.endpoints:
                if endpoint.target.name not in seen:
                    seen.add(endpoint.target.name)
                    yield from _target(endpoint, state, status_of(endpoint.target), now_s)
        yield Reading(names.POLICY_INFO, (policy().version,), 1)

    return refresh


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


def _target(endpoint: Candidate, state: StateStore, status: Status, now_s: float) -> Iterator[Reading]:
    health, label = state.health(endpoint, status, now_s), (endpoint.target.name,)
    yield Reading(names.BREAKER_STATE, label, _BREAKER_NUMBER[health.breaker])
    yield Reading(names.IN_FLIGHT, label, health.in_flight)
    if status.residency is not Residency.UNKNOWN:
        yield Reading(names.TARGET_RESIDENCY, (*label, status.residency), 1)
    if status.predicted_wait_ms is not None:
        yield Reading(names.TARGET_WAIT_SECONDS, label, status.predicted_wait_ms / 1000)
