"""Routing: aliases, direct targets, unknown models, private requests, deadlines."""

from collections.abc import Callable

import pytest

from gateway.enums import Kind, Task
from gateway.errors import ModelNotFound, NoPrivateTarget
from gateway.routing.conditions import Comparison, When
from gateway.routing.policy import Policy, Route, compile_policy
from gateway.routing.route import plan_request
from gateway.types import Classification, Query, Target

MakeQuery = Callable[..., Query]
EDIT = Classification(task=Task.EDIT, confidence=0.98, evidence="prediction")
CHAT = Classification(task=Task.CHAT, confidence=0.3, evidence="none")


@pytest.fixture(name="policy")
def make_policy(target: Callable[..., Target]) -> Policy:
    targets = {"fast": target("fast"), "quality": target("quality", kind=Kind.OPENAI, location="external")}
    edits = When(tasks=frozenset({Task.EDIT}), confidence=Comparison(sign=">=", number=0.6))
    return compile_policy(
        content_hash="f" * 64,
        targets=targets,
        target_slos={},
        routes=(
            Route(name="edits", when=edits, use="fast", fall_back=("quality",), deadline_ms=3000),
            Route(name="default", when=When(), use="quality"),
        ),
        aliases=frozenset({"small-model"}),
    )


@pytest.mark.parametrize("model", ["auto", "small-model"])
def test_auto_and_aliases_use_the_first_matching_route(policy: Policy, query: MakeQuery, model: str) -> None:
    assert plan_request(policy, query(model=model), EDIT, wall_s=0.0, sample=0.0).route == "edits"
    assert plan_request(policy, query(model=model), CHAT, wall_s=0.0, sample=0.0).route == "default"


def test_too_little_confidence_takes_the_default_route(policy: Policy, query: MakeQuery) -> None:
    unsure = Classification(task=Task.EDIT, confidence=0.55, evidence="words")
    assert plan_request(policy, query(), unsure, wall_s=0.0, sample=0.0).route == "default"


def test_a_request_that_names_a_target_is_routed_to_it_alone(policy: Policy, query: MakeQuery) -> None:
    plan = plan_request(policy, query(model="fast"), CHAT, wall_s=0.0, sample=0.0)
    assert [candidate.target.name for candidate in plan.candidates] == ["fast"]
    assert plan.checks is not None


@pytest.mark.parametrize("model", ["gpt-4", "AUTO", "", "edits", "default"])
def test_any_other_model_does_not_exist(policy: Policy, query: MakeQuery, model: str) -> None:
    with pytest.raises(ModelNotFound) as caught:
        plan_request(policy, query(model=model), EDIT, wall_s=0.0, sample=0.0)
    assert (caught.value.status, caught.value.param) == (404, "model")


def test_a_private_request_never_leaves_even_when_falling_back(policy: Policy, query: MakeQuery) -> None:
    plan = plan_request(policy, query(private=True), EDIT, wall_s=0.0, sample=0.0)
    assert plan.private
    assert [candidate.target.name for candidate in plan.candidates] == ["fast"]


@pytest.mark.parametrize("model", ["auto", "quality"])
def test_a_private_request_without_a_target_in_the_cluster_is_rejected(
    policy: Policy, query: MakeQuery, model: str
) -> None:
    with pytest.raises(NoPrivateTarget):
        plan_request(policy, query(private=True, model=model), CHAT, wall_s=0.0, sample=0.0)


@pytest.mark.parametrize(("asked", "holds"), [(None, 3000), (1000.0, 1000.0), (9000.0, 3000)])
def test_the_shorter_of_two_deadlines_applies(
    policy: Policy, query: MakeQuery, asked: float | None, holds: float
) -> None:
    assert plan_request(policy, query(deadline_ms=asked), EDIT, wall_s=0.0, sample=0.0).deadline_ms == holds


def test_a_requests_deadline_holds_where_the_route_has_none(policy: Policy, query: MakeQuery) -> None:
    assert plan_request(policy, query(deadline_ms=50.0), CHAT, wall_s=0.0, sample=0.0).deadline_ms == 50.0
