"""What an operator would learn before it happens: the real pipeline, its targets models, its time virtual."""

import random
import time
from collections import Counter
from typing import Any

import pytest

from gateway.enums import LaneState, Outcome, Reason, Task
from gateway.errors import NoLatency
from gateway.simulation.latency_models import Behaviour, Curve, Faults, assumed
from gateway.simulation.report import report
from gateway.simulation.run import Run, Setting, simulate
from gateway.simulation.simulated_upstreams import Spell
from gateway.simulation.traffic import Arrival, Trace

BEHAVIOURS = {"fast": assumed(120), "quality": assumed(250)}


def share_of_fast(run: Run, trace: Trace, start_s: float, end_s: float) -> float:
    told = [each for each in run.ended if start_s <= trace.arrivals[each.number].at_s < end_s]
    return sum(each.target == "fast" for each in told) / len(told)


def test_a_worker_five_times_slower_is_benched_and_heals(policy: Any, poisson: Any) -> None:
    trace = poisson(rate=10, seconds=300)
    slow = Spell(target="fast", from_s=60, to_s=160, slower=5)
    run = simulate(policy(), Setting(trace=trace, behaviours=BEHAVIOURS, spells=(slow,)))
    assert [each.state for each in run.changes] == [LaneState.EJECTED, LaneState.PROBING, LaneState.SERVING]
    assert 60 < run.changes[0].at_s < 70
    assert run.changes[2].at_s < 220
    assert share_of_fast(run, trace, 0, 60) == 1
    assert share_of_fast(run, trace, 70, 160) < 0.12
    assert share_of_fast(run, trace, 221, 300) == 1
    assert {each.outcome for each in run.ended} == {Outcome.OK}


def test_a_fast_lane_that_is_down_gets_no_storm_and_costs_nobody_an_answer(policy: Any, poisson: Any) -> None:
    trace = poisson(rate=10, seconds=120)
    down = Spell(target="fast", from_s=20, to_s=80)
    found = report(simulate(policy(), Setting(trace=trace, behaviours=BEHAVIOURS, spells=(down,))))
    assert found.errors == 0
    for target in found.targets:
        assert target.calls <= 1.2 * target.requests
    reasons = {each.reason for each in found.fallbacks}
    assert reasons == {Reason.UPSTREAM_ERROR, Reason.CIRCUIT_OPEN}


def test_weights_shift_traffic_and_a_request_keeps_its_luck(policy: Any, poisson: Any) -> None:
    setting = Setting(trace=poisson(rate=20, seconds=100), behaviours=BEHAVIOURS)

    def on_fast(share: int) -> set[int]:
        shared = policy(("use: fast", f"use: {{fast: {share}, quality: {100 - share}}}"))
        return {each.number for each in simulate(shared, setting).ended if each.target == "fast"}

    few, many = on_fast(10), on_fast(60)
    total = len(setting.trace.arrivals)
    assert abs(len(few) / total - 0.1) < 0.03
    assert abs(len(many) / total - 0.6) < 0.05
    assert few <= many


def test_the_same_seed_tells_the_same_story_and_another_one_another(policy: Any, poisson: Any) -> None:
    trace = poisson(rate=10, seconds=30)
    one, again, other = (
        simulate(policy(), Setting(trace=trace, behaviours=BEHAVIOURS, seed=seed)) for seed in (1, 1, 2)
    )
    assert one == again
    assert one != other


def test_neither_the_wall_clock_nor_the_process_s_dice_are_asked(policy: Any, poisson: Any, monkeypatch: Any) -> None:
    def forbidden(*_: Any) -> float:
        raise AssertionError("real time or real chance")

    setting = Setting(trace=poisson(rate=10, seconds=30), behaviours=BEHAVIOURS)
    for module, name in ((time, "time"), (time, "sleep"), (random, "random")):
        monkeypatch.setattr(module, name, forbidden)
    assert len(simulate(policy(), setting).ended) == len(setting.trace.arrivals)


def test_an_answer_that_breaks_its_schema_falls_back_only_where_the_policy_checks(policy: Any, poisson: Any) -> None:
    """The fault is in the text; whether anybody notices is the real validation's business."""
    faults = {True: Faults(until=(0.25,), reasons=(Reason.INVALID_OUTPUT,), after_ms=(100.0,))}
    fast = Behaviour(whole=Curve(base_ms=100), first=Curve(base_ms=50), ratios=(1.0,), faults=faults)
    setting = Setting(trace=poisson(rate=10, seconds=60, has_schema=True), behaviours={**BEHAVIOURS, "fast": fast})
    checked = report(simulate(policy(("use: fast", "use: fast\n    validate: {schema: request}")), setting))
    fallbacks = {each.reason: each.requests for each in checked.fallbacks}
    assert set(fallbacks) == {Reason.INVALID_OUTPUT}
    assert abs(fallbacks[Reason.INVALID_OUTPUT] / checked.requests - 0.25) < 0.06
    assert report(simulate(policy(), setting)).fallbacks == ()


def test_a_doubtful_answer_falls_back_only_where_the_policy_asks_for_confidence(policy: Any, poisson: Any) -> None:
    faults = {False: Faults(until=(0.5,), reasons=(Reason.LOW_CONFIDENCE,), after_ms=(100.0,))}
    fast = Behaviour(whole=Curve(base_ms=100), first=Curve(base_ms=50), ratios=(1.0,), faults=faults)
    setting = Setting(trace=poisson(rate=10, seconds=30), behaviours={**BEHAVIOURS, "fast": fast})
    assert report(simulate(policy(), setting)).fallbacks == ()
    asked = policy(("use: fast", "use: fast\n    min_confidence: 0.8"))
    assert {each.reason for each in report(simulate(asked, setting)).fallbacks} == {Reason.LOW_CONFIDENCE}


def test_hedges_overtake_and_lanes_cost_what_their_targets_cost(policy: Any, poisson: Any) -> None:
    dear = {**BEHAVIOURS, "quality": assumed(50, dollars_per_token=1e-3)}
    slow = Spell(target="fast", from_s=0, to_s=1e6, slower=20)
    hedged = policy(("slo: {p95_ms: 400}", "hedge: {after_ms: 300, max_share: 0.5}"))
    setting = Setting(trace=poisson(rate=5, seconds=60), behaviours=dear, spells=(slow,))
    found = report(simulate(hedged, setting))
    assert 0 < found.hedges <= 0.5 * found.requests
    [lane] = [each for each in found.lanes if each.target == "quality"]
    assert lane.dollars == pytest.approx(lane.requests * 120 * 1e-3)


def test_streams_private_requests_and_named_targets_go_where_they_would(policy: Any) -> None:
    rows = [
        {"task": Task.EDIT, "stream": True},
        {"task": Task.CHAT, "private": True},
        {"task": Task.CHAT, "target": "fast"},
        {"task": Task.CHAT, "target": "gone"},
    ]
    arrivals = tuple(
        Arrival(number=number, at_s=number, input_tokens=1, output_tokens=1, **row) for number, row in enumerate(rows)
    )
    run = simulate(policy(), Setting(trace=Trace(arrivals=arrivals), behaviours=BEHAVIOURS))
    assert [(each.route, each.target) for each in run.ended] == [
        ("edits", "fast"), ("", None), ("direct", "fast"), ("", None),
    ]  # fmt: skip
    assert Counter(each.outcome for each in run.ended) == {Outcome.OK: 2, Outcome.ERROR: 2}


def test_a_target_that_nothing_is_known_of_is_named(policy: Any, poisson: Any) -> None:
    with pytest.raises(NoLatency, match="'quality'"):
        simulate(policy(), Setting(trace=poisson(rate=1, seconds=5), behaviours={"fast": assumed(100)}))
