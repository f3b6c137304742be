"""A compiled policy: conditions, precomputed plans, and the objectives of lanes."""

from collections.abc import Callable

import pytest

from gateway.enums import Capability, Kind, Task
from gateway.policy_types import READ_ALONG, Slo
from gateway.routing.conditions import When
from gateway.routing.engine_profiles import ENGINES
from gateway.routing.gates import Gate
from gateway.routing.policy import DIRECT, Policy, Route, compile_policy
from gateway.types import Capabilities, Classification, Query, Target

MakeQuery = Callable[..., Query]
MakeTarget = Callable[..., Target]
EDIT = Classification(task=Task.EDIT, confidence=0.7, evidence="prediction")
SLO = Slo(p95_ms=400)
OWN = Slo(p95_ms=9000)


def compiled(target: MakeTarget, *routes: Route) -> Policy:
    targets = {
        "fast": target("fast"),
        "careful": target("careful"),
        "quality": target("quality", kind=Kind.OPENAI, location="external"),
    }
    return compile_policy(
        content_hash="0123456789abcdef", targets=targets, target_slos={"quality": OWN, "fast": OWN}, routes=routes
    )


def test_the_routes_objective_applies_to_its_first_target_and_fallbacks_keep_their_own(target: MakeTarget) -> None:
    route = Route(name="r", when=When(), use="fast", fall_back=("careful", "quality"), slo=SLO)
    lanes = {lane.target.name: lane.slo for lane in compiled(target, route).lanes}
    assert lanes == {"fast": SLO, "careful": None, "quality": OWN}


def test_without_an_objective_of_the_route_the_targets_own_applies(target: MakeTarget) -> None:
    assert compiled(target, Route(name="r", when=When(), use="fast")).lanes[0].slo == OWN


def test_a_gate_holds_for_every_worker_of_a_route_and_not_for_the_lane_that_it_falls_back_to(
    target: MakeTarget,
) -> None:
    route = Route(name="r", when=When(), use="fast", fall_back=("careful", "quality"), gate=Gate(minimum=0.8))
    assert [lane.min_confidence for lane in compiled(target, route).lanes] == [0.8, 0.8, None]


@pytest.mark.parametrize(("engine", "minimum"), [("vllm_diffusion", 0.8), ("vllm", None)])
def test_a_gate_holds_for_a_diffusion_engine_among_the_fallbacks_too(
    target: MakeTarget, engine: str, minimum: float | None
) -> None:
    server = target("server", kind=Kind.OPENAI, engine=engine, capabilities=ENGINES[engine])
    targets = {"fast": target("fast"), "server": server}
    route = Route(name="r", when=When(), use="fast", fall_back=("server",), gate=Gate(minimum=0.8))
    policy = compile_policy(content_hash="0123456789abcdef", targets=targets, target_slos={}, routes=(route,))
    assert [lane.min_confidence for lane in policy.lanes] == [0.8, minimum]


@pytest.mark.parametrize(
    ("gate", "minima"),
    [
        (None, [0.6, None]),
        (Gate(minimum=0.8), [0.8, 0.8]),
        (Gate(at_targets=(("careful", 0.7),)), [0.6, 0.7]),
        (Gate(at_targets=(("fast", 0.0),)), [0.0, None]),
    ],
)
def test_the_gate_of_a_target_holds_where_the_route_has_none_for_it(
    target: MakeTarget, gate: Gate | None, minima: list[float | None]
) -> None:
    targets = {"fast": target("fast", min_confidence=0.6), "careful": target("careful")}
    route = Route(name="r", when=When(), use="fast", fall_back=("careful",), gate=gate)
    policy = compile_policy(content_hash="0123456789abcdef", targets=targets, target_slos={}, routes=(route,))
    assert [lane.min_confidence for lane in policy.lanes] == minima
    assert [policy.direct[name].open.candidates[0].min_confidence for name in targets] == [0.6, None]


def test_a_gate_by_target_holds_for_exactly_those(target: MakeTarget) -> None:
    gate = Gate(at_targets=(("careful", 0.7),))
    route = Route(name="r", when=When(), use="quality", fall_back=("fast", "careful"), gate=gate)
    assert [lane.min_confidence for lane in compiled(target, route).lanes] == [None, None, 0.7]


def test_a_gate_holds_for_every_target_that_answers_decisions_with_probabilities(target: MakeTarget) -> None:
    server = target("server", kind=Kind.OPENAI, capabilities=Capabilities(supported=frozenset({Capability.DECISIONS})))
    route = Route(name="r", when=When(), use="server", gate=Gate(minimum=0.8))
    policy = compile_policy(
        content_hash="0123456789abcdef", targets={"server": server}, target_slos={}, routes=(route,)
    )
    assert [lane.min_confidence for lane in policy.lanes] == [0.8]


def test_the_private_plan_has_only_targets_in_the_cluster(target: MakeTarget) -> None:
    rule = compiled(target, Route(name="r", when=When(), use="quality", fall_back=("fast",))).rules[0]
    assert [candidate.target.name for candidate in rule.open.candidates] == ["quality", "fast"]
    assert [candidate.target.name for candidate in rule.splits[0].private.candidates] == ["fast"]
    assert (rule.open.private, rule.splits[0].private.private) == (False, True)


def test_a_private_route_is_private_for_all_requests(target: MakeTarget) -> None:
    route = Route(name="r", when=When(), use="fast", fall_back=("quality",), private=True)
    plan = compiled(target, route).rules[0].open
    assert plan.private
    assert [candidate.target.name for candidate in plan.candidates] == ["fast"]


def test_every_target_has_a_direct_route_without_fallback_but_with_checks(target: MakeTarget) -> None:
    policy = compiled(target, Route(name="r", when=When(), use="fast"))
    assert set(policy.direct) == set(policy.targets)
    plan = policy.direct["quality"].open
    assert (plan.route, len(plan.candidates), plan.checks) == (DIRECT, 1, READ_ALONG)


def test_plans_carry_the_first_digits_of_the_hash(target: MakeTarget) -> None:
    policy = compiled(target, Route(name="r", when=When(), use="fast"))
    assert policy.version == "0123456789ab" == policy.rules[0].open.policy


def test_a_traffic_split_picks_targets_by_their_shares(target: MakeTarget) -> None:
    route = Route(
        name="r", when=When(), use="fast", shares=(("fast", 3), ("careful", 1)), fall_back=("quality", "fast")
    )
    rule = compiled(target, route).rules[0]

    def asked(sample: float) -> list[str]:
        return [candidate.target.name for candidate in rule.pick(sample).open.candidates]

    assert asked(0.0) == asked(0.7499) == ["fast", "quality"]
    assert asked(0.75) == asked(0.9999999) == ["careful", "quality", "fast"]


def test_a_lane_of_a_traffic_split_has_the_same_objective_at_every_position(target: MakeTarget) -> None:
    """Otherwise its guard would restart with every sample."""
    shares = (("fast", 1), ("careful", 1))
    route = Route(name="r", when=When(), use="fast", shares=shares, fall_back=("fast", "careful"), slo=SLO)
    rule = compiled(target, route).rules[0]
    assert {each.slo for split in rule.splits for each in split.open.candidates} == {SLO}
    assert [lane.target.name for lane in compiled(target, route).lanes] == ["fast", "careful"]
