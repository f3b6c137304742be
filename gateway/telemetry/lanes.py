"""The state of lanes, targets and policy as gauges, read at the moment somebody looks."""

from collections.abc import Callable, Iterator
from math import inf

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from gateway.core.policy import Policy
from gateway.ports import Clock, StateStore
from gateway.records import Status
from gateway.telemetry import names
from gateway.words import BreakerState, LaneState

_LANE_NUMBER = {LaneState.SERVING: 0, LaneState.PROBING: 1, LaneState.BENCHED: 2}
_BREAKER_NUMBER = {BreakerState.CLOSED: 0, BreakerState.HALF_OPEN: 1, BreakerState.OPEN: 2}


class LaneCollector(Collector):
    """Register it with a registry. `policy` gives the running policy."""

    def __init__(self, policy: Callable[[], Policy], state: StateStore, clock: Clock) -> None:
        self._policy = policy
        self._state = state
        self._clock = clock

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """All gauges, lane by lane; a p95 that is unknown is left out, never 0."""
        policy, now_s = self._policy(), self._clock.now_s()
        states = GaugeMetricFamily(names.LANE_STATE, "0 serving, 1 probing, 2 benched.", labels=("route", "target"))
        p95s = GaugeMetricFamily(names.LANE_P95_SECONDS, "p95 of the window.", labels=("route", "target"))
        budgets = GaugeMetricFamily(names.LANE_BUDGET_SECONDS, "What p95 should be.", labels=("route", "target"))
        breakers = GaugeMetricFamily(names.BREAKER_STATE, "0 closed, 1 half open, 2 open.", labels=("target",))
        in_flight = GaugeMetricFamily(names.IN_FLIGHT, "Attempts under way.", labels=("target",))
        seen: set[str] = set()
        for candidate in policy.lanes:
            health = self._state.health(candidate, Status(), now_s)
            if candidate.slo is not None:
                states.add_metric(candidate.lane, _LANE_NUMBER[health.lane])
                if candidate.slo.p95_ms < inf:
                    budgets.add_metric(candidate.lane, candidate.slo.p95_ms / 1000)
                p95_ms = self._state.p95_ms(candidate, now_s)
                if p95_ms is not None:
                    p95s.add_metric(candidate.lane, p95_ms / 1000)
            for place in candidate.places:
                name = place.target.name
                if name not in seen:
                    seen.add(name)
                    health = self._state.health(place, Status(), now_s)
                    breakers.add_metric((name,), _BREAKER_NUMBER[health.breaker])
                    in_flight.add_metric((name,), health.in_flight)
        info = GaugeMetricFamily(names.POLICY_INFO, "The running policy.", labels=("hash",))
        info.add_metric((policy.version,), 1)
        yield from (states, p95s, budgets, breakers, in_flight, info)
