"""Lanes under load: a slow lane is ejected, clients hardly notice, and it recovers automatically, once.

The whole pipeline under open-loop traffic in virtual time; latencies and arrivals are seeded.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from gateway.enums import LaneState, Outcome
from gateway.errors import UpstreamError
from gateway.policy_types import Hedge, Retry, Slo
from gateway.types import Call, Status
from gateway.upstreams.scripted import ScriptedUpstream, fails, says
from tests.gateway.virtual import LoopClock, run_virtual

pytestmark = pytest.mark.slow
BUDGET_MS, HEDGE_MS = 400.0, 400.0
SLO = Slo(p95_ms=BUDGET_MS, window_s=60)


class Timed(ScriptedUpstream):
    """Answers after the latency that `takes_s` returns at that moment; None: fails at once."""

    def __init__(self, takes_s: Callable[[], float | None], sleep: Any) -> None:
        super().__init__([says("hi")], sleep=sleep)
        self._takes_s = takes_s

    async def send(self, call: Call) -> Any:
        took_s = self._takes_s()
        line = fails(UpstreamError("down")) if took_s is None else says("hi", before_s=took_s)
        self._responses = [line] * (len(self.calls) + 1)
        return await super().send(call)


@dataclass
class Told:
    """One request as its client observed it, and the lane's state at that time."""

    at_s: float
    took_ms: float
    target: str | None
    state: LaneState


@dataclass
class Run:
    """A whole run."""

    scene: Any
    told: list[Told] = field(default_factory=list)

    def between(self, start_s: float, end_s: float) -> list[Told]:
        return [each for each in self.told if start_s <= each.at_s < end_s]

    def share_of_fast(self, start_s: float, end_s: float) -> float:
        told = self.between(start_s, end_s)
        return sum(each.target == "fast" for each in told) / len(told)

    def p95_ms(self, start_s: float, end_s: float) -> float:
        times = sorted(each.took_ms for each in self.between(start_s, end_s))
        return times[int(0.95 * len(times))]

    @property
    def states(self) -> list[LaneState]:
        """The lane's states in order, without repetitions."""
        found: list[LaneState] = []
        for each in self.told:
            if not found or found[-1] is not each.state:
                found.append(each.state)
        return found


def drive(
    stage: Any,
    fast_s: Callable[[float, Random], float | None],
    *,
    rate: float,
    seconds: float,
    seed: int = 1,
    **given: Any,
) -> Run:
    """Poisson arrivals at `rate` for `seconds`; `fast_s` gives the fast lane's latency at a time since the start."""
    dice, clock = Random(1), LoopClock()

    async def story() -> Run:
        begin_s = clock.now_s()
        run = Run(stage(clock=clock, fast=says("x"), quality=says("x"), **given))
        fast = Timed(lambda: fast_s(clock.now_s() - begin_s, dice), clock.sleep)
        run.scene.targets["fast"] = fast
        run.scene.targets["quality"] = Timed(lambda: dice.uniform(0.15, 0.25), clock.sleep)
        lane = run.scene.policy.lanes[0]
        run.scene.pipeline._sample = dice.random

        async def client() -> None:
            at_s = clock.now_s() - begin_s
            state = run.scene.state.health(lane, Status(), clock.now_s()).lane
            sent = await run.scene.send()
            took_ms = (clock.now_s() - begin_s - at_s) * 1000
            run.told.append(Told(at_s, took_ms, sent.headers.target, state))

        clients = []
        while clock.now_s() - begin_s < seconds:
            clients.append(asyncio.create_task(client()))
            await asyncio.sleep(dice.expovariate(rate))
        await asyncio.gather(*clients)
        run.told.sort(key=lambda each: each.at_s)
        assert sum(run.scene.state._in_flight.values()) == 0
        assert len(run.scene.listener.decisions) == len(clients)
        return run

    return run_virtual(story())


def slowed(start_s: float, end_s: float, factor: float = 5.0) -> Callable[[float, Random], float]:
    """About 100 ms, and `factor` times that for a while."""
    return lambda now_s, dice: dice.uniform(0.08, 0.12) * (factor if start_s <= now_s < end_s else 1.0)


@pytest.fixture(name="slip", scope="module")
def make_slip(stage: Any) -> Run:
    """Ten requests a second for five minutes; the worker is five times slower from 60 s to 160 s."""
    route = {"slo": SLO, "hedge": Hedge(after_ms=HEDGE_MS, max_share=0.1)}
    return drive(stage, slowed(60, 160), rate=10, seconds=300, route=route)


def test_a_worker_five_times_slower_is_left_within_seconds_but_for_probes(slip: Run) -> None:
    assert slip.share_of_fast(0, 60) > 0.98
    assert slip.share_of_fast(66, 160) < 0.12  # 2 %, or one in two seconds


def test_clients_stay_within_budget_and_hedge_all_the_while(slip: Run) -> None:
    for start_s in range(0, 300, 20):
        assert slip.p95_ms(start_s, start_s + 20) <= BUDGET_MS + HEDGE_MS


def test_the_lane_heals_by_itself_and_ramps_up(slip: Run) -> None:
    assert slip.states == [LaneState.SERVING, LaneState.EJECTED, LaneState.PROBING, LaneState.SERVING]
    probing = [each for each in slip.told if each.state is LaneState.PROBING]
    healed_s = next(each.at_s for each in reversed(slip.told) if each.state is not LaneState.SERVING)
    assert healed_s < 160 + 60
    assert slip.share_of_fast(healed_s + 1, 300) > 0.98
    # Ten answers at a tenth of the traffic, then ten at half of it.
    assert sum(each.target == "fast" for each in probing[:20]) <= 12
    assert 15 <= sum(each.target == "fast" for each in probing) <= 40


def test_hedges_stay_within_their_share_while_it_slips(slip: Run) -> None:
    hedges = sum(attempt.hedge for told in slip.scene.listener.decisions for attempt in told.attempts)
    assert hedges <= 0.1 * len(slip.scene.targets["fast"].calls)


def test_a_lane_that_slips_every_other_minute_changes_a_bounded_number_of_times_an_hour(stage: Any) -> None:
    run = drive(
        stage, lambda now_s, dice: 0.6 if int(now_s // 60) % 2 else 0.1, rate=2, seconds=1800, route={"slo": SLO}
    )
    assert run.states.count(LaneState.EJECTED) <= 10  # in half an hour, with 15 minutes of slowness


def test_a_lane_at_the_edge_of_its_promise_is_left_in_service(stage: Any) -> None:
    run = drive(stage, lambda _, dice: 0.6 if dice.random() < 0.03 else 0.1, rate=10, seconds=600, route={"slo": SLO})
    assert run.states == [LaneState.SERVING]


def test_a_fast_lane_that_is_down_costs_nobody_an_answer_and_gets_no_storm(stage: Any) -> None:
    """Attempts at each target <= 1.2 x the requests that were sent to it."""
    retry = {"retry": Retry(times=3, max_share=0.2)}
    run = drive(
        stage, lambda now_s, _: None if 20 <= now_s < 80 else 0.1, rate=10, seconds=120, route={"slo": SLO},
        fast_target=retry, quality_target=retry,
    )  # fmt: skip
    decisions = run.scene.listener.decisions
    assert {told.outcome for told in decisions} == {Outcome.OK}
    requests: Counter[str] = Counter()
    for told in decisions:
        requests.update({attempt.target for attempt in told.attempts if not attempt.skipped})
    for name, target in run.scene.targets.items():
        assert len(target.calls) <= 1.2 * requests[name]
    began_s = min(told.time_s for told in decisions)
    in_outage = [told for told in decisions if 25 <= told.time_s - began_s < 80]
    tries = sum(not each.skipped for told in in_outage for each in told.attempts if each.target == "fast")
    assert tries <= 12  # the breaker's trials: 2 s, 4 s, 8 s, ... apart
    assert run.share_of_fast(112, 120) > 0.98
    assert run.p95_ms(20, 80) < 260  # a skipped target costs no time
