"""Simulated runs: the real pipeline with modelled targets in virtual time."""

import random
import time
from collections import Counter
from typing import Any

import pytest

from gateway.enums import LaneState, Outcome, Reason, Task
from gateway.errors import NoLatency
from gateway.simulation.latency_models import Faults, LinearLatency, TargetModel, assumed
from gateway.simulation.report import report
from gateway.simulation.run import Run, Scenario, simulate
from gateway.simulation.simulated_upstreams import Disruption
from gateway.simulation.traffic import Arrival, Trace

MODELS = {"fast": assumed(120), "quality": assumed(250)}


def share_of_fast(run: Run, trace: Trace, start_s: float, end_s: float) -> float:
    told = [each for each in run.completed if start_s <= trace.arrivals[each.number].at_s < end_s]
    return sum(each.target == "fast" for each in told) / len(told)


@pytest.mark.slow
def test_a_worker_five_times_slower_is_ejected_and_recovers(policy: Any, poisson: Any) -> None:
    trace = poisson(rate=10, seconds=300)
    slow = Disruption(target="fast", from_s=60, to_s=160, slowdown=5)
    run = simulate(policy(), Scenario(trace=trace, models=MODELS, disruptions=(slow,)))
    assert [each.state for each in run.changes] == [LaneState.EJECTED, LaneState.PROBING, LaneState.SERVING]
    assert 60 < run.changes[0].at_s < 70
    assert run.changes[2].at_s < 220
    assert share_of_fast(run, trace, 0, 60) == 1
    assert share_of_fast(run, trace, 70, 160) < 0.12
    assert share_of_fast(run, trace, 221, 300) == 1
    assert {each.outcome for each in run.completed} == {Outcome.OK}


def test_an_outage_of_the_fast_lane_causes_no_storm_and_no_failed_request(policy: Any, poisson: Any) -> None:
    trace = poisson(rate=10, seconds=120)
    down = Disruption(target="fast", from_s=20, to_s=80)
    found = report(simulate(policy(), Scenario(trace=trace, models=MODELS, disruptions=(down,))))
    assert found.errors == 0
    for target in found.targets:
        assert target.calls <= 1.2 * target.requests
    reasons = {each.reason for each in found.fallbacks}
    assert reasons == {Reason.UPSTREAM_ERROR, Reason.CIRCUIT_OPEN}


def test_an_outage_concerns_all_targets_of_the_server(policy: Any, poisson: Any) -> None:
    """A route with a decoding mode has a target that no policy writes down."""
    down = Disruption(target="fast", from_s=0, to_s=1e6)
    models = {**MODELS, "fast:verified": assumed(120)}
    scenario = Scenario(trace=poisson(rate=10, seconds=10), models=models, disruptions=(down,))
    run = simulate(policy(("use: fast", "use: fast\n    decoding: verified")), scenario)
    assert {each.target for each in run.completed} == {"quality"}


@pytest.mark.slow
def test_weights_shift_traffic_and_a_request_keeps_its_random_numbers(policy: Any, poisson: Any) -> None:
    scenario = Scenario(trace=poisson(rate=20, seconds=100), models=MODELS)

    def on_fast(share: int) -> set[int]:
        shared = policy(("use: fast", f"use: {{fast: {share}, quality: {100 - share}}}"))
        return {each.number for each in simulate(shared, scenario).completed if each.target == "fast"}

    few, many = on_fast(10), on_fast(60)
    total = len(scenario.trace.arrivals)
    assert abs(len(few) / total - 0.1) < 0.03
    assert abs(len(many) / total - 0.6) < 0.05
    assert few <= many


def test_the_seed_determines_the_run(policy: Any, poisson: Any) -> None:
    trace = poisson(rate=10, seconds=30)
    one, again, other = (simulate(policy(), Scenario(trace=trace, models=MODELS, seed=seed)) for seed in (1, 1, 2))
    assert one == again
    assert one != other


def test_a_run_uses_neither_the_wall_clock_nor_global_randomness(policy: Any, poisson: Any, monkeypatch: Any) -> None:
    def forbidden(*_: Any) -> float:
        raise AssertionError("real time or real chance")

    scenario = Scenario(trace=poisson(rate=10, seconds=30), models=MODELS)
    for module, name in ((time, "time"), (time, "sleep"), (random, "random")):
        monkeypatch.setattr(module, name, forbidden)
    assert len(simulate(policy(), scenario).completed) == len(scenario.trace.arrivals)


def test_an_invalid_response_falls_back_unless_the_policy_does_not_validate(policy: Any, poisson: Any) -> None:
    """The response text is invalid; the real validation detects it."""
    faults = {True: Faults(until=(0.25,), reasons=(Reason.INVALID_OUTPUT,), after_ms=(100.0,))}
    fast = TargetModel(whole=LinearLatency(base_ms=100), first=LinearLatency(base_ms=50), ratios=(1.0,), faults=faults)
    scenario = Scenario(trace=poisson(rate=10, seconds=60, has_schema=True), models={**MODELS, "fast": fast})
    checked = report(simulate(policy(), scenario))
    fallbacks = {each.reason: each.requests for each in checked.fallbacks}
    assert set(fallbacks) == {Reason.INVALID_OUTPUT}
    assert abs(fallbacks[Reason.INVALID_OUTPUT] / checked.requests - 0.25) < 0.06
    unchecked = policy(("use: fast", "use: fast\n    validate: none"))
    assert report(simulate(unchecked, scenario)).fallbacks == ()


def test_an_uncertain_response_falls_back_only_with_min_confidence(policy: Any, poisson: Any) -> None:
    faults = {False: Faults(until=(0.5,), reasons=(Reason.LOW_CONFIDENCE,), after_ms=(100.0,))}
    fast = TargetModel(whole=LinearLatency(base_ms=100), first=LinearLatency(base_ms=50), ratios=(1.0,), faults=faults)
    scenario = Scenario(trace=poisson(rate=10, seconds=30), models={**MODELS, "fast": fast})
    assert report(simulate(policy(), scenario)).fallbacks == ()
    asked = policy(("use: fast", "use: fast\n    min_confidence: 0.8"))
    assert {each.reason for each in report(simulate(asked, scenario)).fallbacks} == {Reason.LOW_CONFIDENCE}


def test_hedges_win_and_lanes_cost_what_their_targets_cost(policy: Any, poisson: Any) -> None:
    dear = {**MODELS, "quality": assumed(50, dollars_per_token=1e-3)}
    slow = Disruption(target="fast", from_s=0, to_s=1e6, slowdown=20)
    hedged = policy(("slo: {p95_ms: 400}", "hedge: {after_ms: 300, max_share: 0.5}"))
    scenario = Scenario(trace=poisson(rate=5, seconds=60), models=dear, disruptions=(slow,))
    found = report(simulate(hedged, scenario))
    assert 0 < found.hedges <= 0.5 * found.requests
    [lane] = [each for each in found.lanes if each.target == "quality"]
    assert lane.dollars == pytest.approx(lane.requests * 120 * 1e-3)


def test_streams_private_requests_and_named_targets_are_routed(policy: Any) -> None:
    rows = [
        {"task": Task.EDIT, "stream": True},
        {"task": Task.CHAT, "private": True},
        {"task": Task.CHAT, "locations": frozenset({"in_cluster"})},
        {"task": Task.CHAT, "target": "fast"},
        {"task": Task.CHAT, "target": "gone"},
    ]
    arrivals = tuple(
        Arrival(number=number, at_s=number, input_tokens=1, output_tokens=1, **row) for number, row in enumerate(rows)
    )
    run = simulate(policy(), Scenario(trace=Trace(arrivals=arrivals), models=MODELS))
    assert [(each.route, each.target) for each in run.completed] == [
        ("edits", "fast"), ("", None), ("", None), ("direct", "fast"), ("", None),
    ]  # fmt: skip
    assert Counter(each.outcome for each in run.completed) == {Outcome.OK: 2, Outcome.ERROR: 3}


def test_a_target_without_a_model_is_named(policy: Any, poisson: Any) -> None:
    with pytest.raises(NoLatency, match="'quality'"):
        simulate(policy(), Scenario(trace=poisson(rate=1, seconds=5), models={"fast": assumed(100)}))
