"""One simulation: sends a trace's requests through the real pipeline in virtual time and records the outcomes."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from gateway.decision import Decision, Mirrored
from gateway.enums import LaneState, Outcome, Reason, Task
from gateway.errors import AttemptFailed, CannotStart
from gateway.pipeline import Pipeline
from gateway.routing.policy import Policy
from gateway.simulation.latency_models import TargetModel
from gateway.simulation.simulated_upstreams import Disruption, SimulatedUpstreams, query_of
from gateway.simulation.traffic import Arrival, Trace
from gateway.simulation.virtual_time import SeededRandom, VirtualWorld, run_virtual
from gateway.state.memory import MemoryStore
from gateway.types import Classification, Query, Status

NOON: Final = datetime(2026, 1, 5, 12, tzinfo=UTC).timestamp()  # a Monday, for traces without a date
_UNKNOWN: Final = Status()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A simulation without its policy. `models` by target."""

    trace: Trace
    models: Mapping[str, TargetModel]
    disruptions: tuple[Disruption, ...] = ()
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletedRequest:
    """The outcome of one request. `calls`: target and ms of every attempt, in order."""

    number: int
    task: Task
    route: str
    target: str | None
    outcome: Outcome
    total_ms: float
    cost: float
    changes: tuple[tuple[str, str, Reason], ...] = ()
    calls: tuple[tuple[str, float], ...] = ()
    hedges: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneChange:
    """A lane's state from this moment on, in seconds since the start of the trace."""

    at_s: float
    route: str
    target: str
    state: LaneState


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """All requests in order of arrival, and all lane changes in order of time."""

    policy: str
    completed: tuple[CompletedRequest, ...]
    changes: tuple[LaneChange, ...]
    took_s: float  # virtual


def simulate(policy: Policy, scenario: Scenario) -> Run:
    """Deterministic: the same arguments give the same run on every machine. Raises NoLatency or CannotStart before
    it starts."""
    for disruption in scenario.disruptions:
        if disruption.target not in policy.targets:
            raise CannotStart(
                f"unknown target {disruption.target!r} in --slow or --down; targets: {', '.join(policy.targets)}"
            )
    disruptions = tuple(_of_servers(policy, scenario.disruptions))
    registry = SimulatedUpstreams(scenario.models, scenario.trace.arrivals, SeededRandom(scenario.seed), disruptions)
    for target in policy.endpoints:
        registry(target)
    return run_virtual(_run(policy, scenario, registry))


def _of_servers(policy: Policy, disruptions: Iterable[Disruption]) -> Iterator[Disruption]:
    """What happens to a target happens to its servers, so to each target that has no others."""
    urls = {name: {each.url for each in target.endpoints or (target,)} for name, target in policy.targets.items()}
    for disruption in disruptions:
        yield from (replace(disruption, target=name) for name in urls if urls[name] <= urls[disruption.target])


async def _run(policy: Policy, scenario: Scenario, registry: SimulatedUpstreams) -> Run:
    begin_s = scenario.trace.begin_s
    world = VirtualWorld(SeededRandom(scenario.seed), epoch_s=NOON if begin_s is None else begin_s)
    state = MemoryStore()
    listener = _Recorder(policy, state, world)
    pipeline = Pipeline(
        policies=_FixedPolicy(current=policy),
        classify=lambda query: _class_of(registry.arrival(query)),
        upstreams=registry,
        state=state,
        observer=listener,
        world=world,
    )
    async with asyncio.TaskGroup() as clients:
        for arrival in scenario.trace.arrivals:
            wait_s = arrival.at_s - world.now_s()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            clients.create_task(_client(pipeline, world, arrival))
    took_s = world.now_s()
    await pipeline.aclose()
    completed = tuple(sorted(listener.completed, key=lambda each: each.number))
    return Run(policy=policy.version, completed=completed, changes=tuple(listener.changes), took_s=took_s)


async def _client(pipeline: Pipeline, world: VirtualWorld, arrival: Arrival) -> None:
    """Sends a request and reads the response to its end."""
    query: Query = query_of(arrival, world.now_s())
    world.bind_request(query.request_id)
    response = await pipeline.handle(query)
    try:
        async for _ in response.deltas():
            pass
    except AttemptFailed:
        pass  # recorded in the decision
    finally:
        await response.aclose()


def _class_of(arrival: Arrival) -> Classification:
    return Classification(task=arrival.task, confidence=arrival.confidence, evidence=arrival.evidence)


@dataclass(frozen=True, slots=True, kw_only=True)
class _FixedPolicy:
    """See `pipeline.Policies`: never reloaded."""

    current: Policy


class _Recorder:
    """See `ports.Observer`. Checks the state of every lane with an SLO after each request."""

    def __init__(self, policy: Policy, state: MemoryStore, world: VirtualWorld) -> None:
        self.completed: list[CompletedRequest] = []
        self.changes: list[LaneChange] = []
        self._state = state
        self._world = world
        self._lanes = {lane: LaneState.SERVING for lane in policy.lanes if lane.slo is not None}

    def decided(self, decision: Decision) -> None:
        """Record the request and lane changes."""
        self.completed.append(_completed(decision))
        now_s = self._world.now_s()
        for lane, known in self._lanes.items():
            state = self._state.health(lane, _UNKNOWN, now_s).lane
            if state is not known:
                self._lanes[lane] = state
                route, target = lane.lane
                self.changes.append(LaneChange(at_s=now_s, route=route, target=target, state=state))

    def mirrored(self, mirrored: Mirrored) -> None:
        """Shadows are not reported."""


def _completed(decision: Decision) -> CompletedRequest:
    attempts = decision.attempts
    return CompletedRequest(
        number=int(decision.query_id),
        task=decision.classification.task,
        route=decision.route,
        target=decision.target,
        outcome=decision.outcome,
        total_ms=decision.total_ms,
        cost=decision.cost,
        changes=decision.changes,
        calls=tuple((each.target, each.elapsed_ms) for each in attempts if not each.skipped),
        hedges=sum(each.hedge for each in attempts),
    )
