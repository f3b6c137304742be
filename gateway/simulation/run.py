"""One simulation: a trace's requests, each through the real pipeline at its time, and what became of them.

Knows the pipeline and its ports; policies come compiled, targets as models (`modelled`).
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from gateway.decision import Decision, Mirrored
from gateway.enums import LaneState, Outcome, Reason, Task
from gateway.errors import AttemptFailed, CannotStart
from gateway.pipeline import Pipeline
from gateway.routing.policy import Policy
from gateway.simulation.latency_models import Behaviour
from gateway.simulation.simulated_upstreams import SimulatedUpstreams, Spell, query_of
from gateway.simulation.traffic import Arrival, Trace
from gateway.simulation.virtual_time import Luck, VirtualWorld, run_virtual
from gateway.state.memory import MemoryStore
from gateway.types import Classification, Query, Status

NOON: Final = datetime(2026, 1, 5, 12, tzinfo=UTC).timestamp()  # a Monday, for traces that do not say when they were
_UNKNOWN: Final = Status()


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Everything of a simulation but the policy. `behaviours` by target."""

    trace: Trace
    behaviours: Mapping[str, Behaviour]
    spells: tuple[Spell, ...] = ()
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """What became of one request. `calls`: target and ms of every attempt that was made, in order."""

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
    """A lane's state from this moment on, in seconds since the trace's beginning."""

    at_s: float
    route: str
    target: str
    state: LaneState


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """All requests in the order of their arrival, and all lane changes in the order of time."""

    policy: str
    ended: tuple[Ended, ...]
    changes: tuple[LaneChange, ...]
    took_s: float  # virtual


def simulate(policy: Policy, setting: Setting) -> Run:
    """The same run for the same arguments, on every machine. Raises NoLatency, CannotStart before anything is asked."""
    for spell in setting.spells:
        if spell.target not in policy.targets:
            raise CannotStart(f"no target called {spell.target!r} that could be slow or down")
    registry = SimulatedUpstreams(setting.behaviours, setting.trace.arrivals, Luck(setting.seed), setting.spells)
    for target in policy.endpoints:
        registry(target)
    return run_virtual(_play(policy, setting, registry))


async def _play(policy: Policy, setting: Setting, registry: SimulatedUpstreams) -> Run:
    begin_s = setting.trace.begin_s
    world = VirtualWorld(Luck(setting.seed), epoch_s=NOON if begin_s is None else begin_s)
    state = MemoryStore()
    listener = _Listener(policy, state, world)
    pipeline = Pipeline(
        policies=_Fixed(current=policy),
        classify=lambda query: _class_of(registry.arrival(query)),
        upstreams=registry,
        state=state,
        observer=listener,
        world=world,
    )
    async with asyncio.TaskGroup() as clients:
        for arrival in setting.trace.arrivals:
            wait_s = arrival.at_s - world.now_s()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            clients.create_task(_client(pipeline, world, arrival))
    took_s = world.now_s()
    await pipeline.aclose()
    ended = tuple(sorted(listener.ended, key=lambda each: each.number))
    return Run(policy=policy.version, ended=ended, changes=tuple(listener.changes), took_s=took_s)


async def _client(pipeline: Pipeline, world: VirtualWorld, arrival: Arrival) -> None:
    """Asks, and reads to the end."""
    query: Query = query_of(arrival, world.now_s())
    world.asks(query.request_id)
    answer = await pipeline.handle(query)
    try:
        async for _ in answer.deltas():
            pass
    except AttemptFailed:
        pass  # the decision says so, and the client of a simulation wants no more
    finally:
        await answer.aclose()


def _class_of(arrival: Arrival) -> Classification:
    return Classification(task=arrival.task, confidence=arrival.confidence, evidence=arrival.evidence)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fixed:
    """See `pipeline.Policies`: nobody reloads."""

    current: Policy


class _Listener:
    """See `ports.Observer`. Looks at every lane that promises something whenever a request has ended."""

    def __init__(self, policy: Policy, state: MemoryStore, world: VirtualWorld) -> None:
        self.ended: list[Ended] = []
        self.changes: list[LaneChange] = []
        self._state = state
        self._world = world
        self._lanes = {lane: LaneState.SERVING for lane in policy.lanes if lane.slo is not None}

    def decided(self, decision: Decision) -> None:
        """One more request has ended."""
        self.ended.append(_ended(decision))
        now_s = self._world.now_s()
        for lane, known in self._lanes.items():
            state = self._state.health(lane, _UNKNOWN, now_s).lane
            if state is not known:
                self._lanes[lane] = state
                route, target = lane.lane
                self.changes.append(LaneChange(at_s=now_s, route=route, target=target, state=state))

    def mirrored(self, mirrored: Mirrored) -> None:
        """Shadows change nothing that is told here."""


def _ended(decision: Decision) -> Ended:
    attempts = decision.attempts
    return Ended(
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
