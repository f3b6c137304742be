"""A compiled policy: conditions, plans made ahead, promises given to the right lanes."""

from collections.abc import Callable

import pytest

from gateway.core.policy import DIRECT, Policy, Route, When, compile_policy
from gateway.records import Classification, Expectation, Query, Target
from gateway.terms import Checks, Slo
from gateway.words import Form, Hold, Kind, Place, Task

MakeQuery = Callable[..., Query]
MakeTarget = Callable[..., Target]
EDIT = Classification(task=Task.EDIT, confidence=0.7, evidence="prediction")
SLO = Slo(p95_ms=400)
OWN = Slo(p95_ms=9000)


def compiled(target: MakeTarget, *routes: Route) -> Policy:
    targets = {
        "fast": target("fast"),
        "careful": target("careful"),
        "quality": target("quality", kind=Kind.OPENAI, place=Place.EXTERNAL),
    }
    return compile_policy(
        content_hash="0123456789abcdef", targets=targets, target_slos={"quality": OWN, "fast": OWN}, routes=routes
    )


@pytest.mark.parametrize(
    ("when", "fields", "matches"),
    [
        (When(), {}, True),
        (When(tasks=frozenset({Task.EDIT})), {}, True),
        (When(tasks=frozenset({Task.CHAT})), {}, False),
        (When(confidence=(">=", 0.7)), {}, True),
        (When(confidence=(">", 0.7)), {}, False),
        (When(confidence=("<=", 0.7)), {}, True),
        (When(confidence=("<", 0.7)), {}, False),
        (When(models=frozenset({"auto"})), {}, True),
        (When(models=frozenset({"other"})), {}, False),
        (When(keys=frozenset({"ci"})), {"principal": "ci"}, True),
        (When(keys=frozenset({"ci"})), {}, False),
        (When(stream=True), {"stream": True}, True),
        (When(stream=True), {}, False),
        (When(stream=False), {}, True),
        (When(schema=True), {"expectation": Expectation(form=Form.JSON_OBJECT)}, True),
        (When(schema=True), {}, False),
        (When(private=True), {"private": True}, True),
        (When(private=False), {"private": True}, False),
        (When(tasks=frozenset({Task.EDIT}), stream=True), {}, False),
    ],
)
def test_a_route_takes_a_request_when_all_its_conditions_hold(
    query: MakeQuery, when: When, fields: dict[str, object], matches: bool
) -> None:
    assert when.matches(query(**fields), EDIT) is matches


def test_the_routes_promise_is_for_its_first_choice_and_others_keep_their_own(target: MakeTarget) -> None:
    route = Route(name="r", when=When(), use="fast", fall_back=("careful", "quality"), slo=SLO)
    lanes = {lane.target.name: lane.slo for lane in compiled(target, route).lanes}
    assert lanes == {"fast": SLO, "careful": None, "quality": OWN}


def test_without_a_promise_of_the_route_the_targets_own_counts(target: MakeTarget) -> None:
    assert compiled(target, Route(name="r", when=When(), use="fast")).lanes[0].slo == OWN


def test_only_the_worker_is_asked_how_sure_it_is(target: MakeTarget) -> None:
    route = Route(name="r", when=When(), use="fast", fall_back=("quality",), min_confidence=0.8)
    assert [lane.min_confidence for lane in compiled(target, route).lanes] == [0.8, None]


def test_the_private_plan_has_only_targets_inside(target: MakeTarget) -> None:
    rule = compiled(target, Route(name="r", when=When(), use="quality", fall_back=("fast",))).rules[0]
    assert [candidate.target.name for candidate in rule.open.candidates] == ["quality", "fast"]
    assert [candidate.target.name for candidate in rule.private.candidates] == ["fast"]
    assert (rule.open.private, rule.private.private) == (False, True)


def test_a_route_that_keeps_requests_in_is_private_for_everybody(target: MakeTarget) -> None:
    route = Route(name="r", when=When(), use="fast", fall_back=("quality",), keep_in_cluster=True)
    plan = compiled(target, route).rules[0].open
    assert plan.private
    assert [candidate.target.name for candidate in plan.candidates] == ["fast"]


def test_every_target_can_be_named_itself_without_fallback_but_with_checks(target: MakeTarget) -> None:
    policy = compiled(target, Route(name="r", when=When(), use="fast"))
    assert set(policy.direct) == set(policy.targets)
    plan = policy.direct["quality"].open
    assert (plan.route, len(plan.candidates), plan.checks) == (DIRECT, 1, Checks(hold=Hold.WHOLE))


def test_plans_carry_the_first_digits_of_the_hash(target: MakeTarget) -> None:
    policy = compiled(target, Route(name="r", when=When(), use="fast"))
    assert policy.version == "0123456789ab" == policy.rules[0].open.policy
