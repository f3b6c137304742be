"""Limits to locations: whatever policy and request say, a plan stays in the locations that all of them allow."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.enums import Kind, Task
from gateway.errors import NoPrivateTarget, NoTargetInLocation
from gateway.policy_types import LocationLimit
from gateway.routing.conditions import When
from gateway.routing.policy import DIRECT, Policy, Route, compile_policy
from gateway.routing.route import plan_request
from gateway.types import Candidate, Classification, Plan, Query, Target

CHAT = Classification(task=Task.CHAT, confidence=1.0, evidence="header")
LABELS = ("in_cluster", "eu", "us-east", "on-prem")
NAMES = ("a", "b", "c", "d")
PLACES = st.sampled_from((None, *LABELS))
SETS = st.frozensets(st.sampled_from((*LABELS, "mars")), min_size=1)
MAYBE = st.none() | SETS


def target(name: str, location: str | None) -> Target:
    """With two endpoints, as every target may have."""
    plain = Target(name=name, kind=Kind.WORKER, url=f"http://{name}", model="m", location=location)
    return replace(plain, endpoints=tuple(replace(plain, name=f"{name}/{n}", pool=name) for n in (1, 2)))


def compiled(places: Iterable[str | None], private_locations: frozenset[str], **route: Any) -> Policy:
    return compile_policy(
        content_hash="f" * 64,
        targets={name: target(name, place) for name, place in zip(NAMES, places, strict=True)},
        target_slos={},
        routes=(Route(**{"name": "r", "when": When(), "use": "a", "fall_back": ("b", "c"), **route}),),
        private_locations=private_locations,
    )


def asking(*limits: frozenset[str] | None, **fields: Any) -> Query:
    stated = tuple(LocationLimit(f"limit {n}", each) for n, each in enumerate(limits) if each is not None)
    return Query(**{"request_id": "r", "model": "auto", "body": b"", "received_s": 0.0, "locations": stated, **fields})


def called_in(plan: Plan) -> list[str | None]:
    """The location of everything that a request with this plan may be sent to."""
    candidates = [*plan.candidates, *((plan.shadow.candidate,) if plan.shadow is not None else ())]
    return [each.target.location for candidate in candidates for each in (candidate, *candidate.endpoints)]


CASES = st.fixed_dictionaries(
    {
        "places": st.tuples(*(PLACES for _ in NAMES)),
        "private_locations": SETS,
        "of_route": MAYBE,
        "limits": st.tuples(MAYBE, MAYBE),
        "is_private": st.booleans(),
        "is_private_route": st.booleans(),
        "shares": st.sampled_from(((), (("a", 1.0), ("c", 2.0)), (("d", 0.0), ("b", 1.0)))),
        "shadow": st.sampled_from((None, ("d", 1.0), ("a", 1.0))),
        "model": st.sampled_from(("auto", *NAMES)),
        "sample": st.floats(0, 1, exclude_max=True),
    }
)


@given(CASES)
def test_whatever_the_policy_no_plan_leaves_the_allowed_locations(case: dict[str, Any]) -> None:
    common = {"shares": case["shares"], "shadow": case["shadow"]}
    unlimited = compiled(case["places"], case["private_locations"], **common)
    limited = {"private": case["is_private_route"], "locations": case["of_route"]}
    policy = compiled(case["places"], case["private_locations"], **common, **limited)
    is_routed, model = case["model"] == "auto", case["model"]
    stated = [each for each in (*case["limits"], case["of_route"] if is_routed else None) if each is not None]
    is_private = case["is_private"] or (case["is_private_route"] and is_routed)
    holding = [*stated, case["private_locations"]] if is_private else stated

    def is_allowed(candidate: Candidate) -> bool:
        return all(candidate.target.location in limit for limit in holding)

    before = plan_request(unlimited, asking(model=model), CHAT, wall_s=0.0, sample=case["sample"])
    allowed = [each.target.name for each in before.candidates if is_allowed(each)]
    query = asking(*case["limits"], model=model, private=case["is_private"])
    if not allowed:
        with pytest.raises(NoTargetInLocation) as caught:
            plan_request(policy, query, CHAT, wall_s=0.0, sample=case["sample"])
        assert not caught.value.retryable
        return
    plan = plan_request(policy, query, CHAT, wall_s=0.0, sample=case["sample"])
    assert [each.target.name for each in plan.candidates] == allowed
    assert all(place in limit for place in called_in(plan) for limit in holding)
    assert plan.locations == (frozenset.intersection(*stated) if stated else None)
    has_shadow = before.shadow is not None and is_allowed(before.shadow.candidate)
    assert (plan.shadow is not None) is has_shadow


def test_a_plan_without_limits_is_the_compiled_one() -> None:
    """Requests that nothing limits cost what they did."""
    policy = compiled(("eu", None, "us-east", "on-prem"), frozenset({"eu"}))
    [rule] = policy.rules
    assert plan_request(policy, asking(), CHAT, wall_s=0.0, sample=0.0) is rule.splits[0].open
    assert plan_request(policy, asking(private=True), CHAT, wall_s=0.0, sample=0.0) is rule.splits[0].private


@pytest.mark.parametrize(
    ("query", "route", "error", "text"),
    [
        (
            asking(frozenset({"mars", "venus"})),
            {},
            NoTargetInLocation,
            "limited to some locations (limit 0: mars, venus), and route 'r' has no target in mars, venus.",
        ),
        (
            asking(frozenset({"eu"}), frozenset({"us-east", "on-prem"})),
            {},
            NoTargetInLocation,
            "(limit 0: eu; limit 1: on-prem, us-east), and route 'r' cannot take it: no location satisfies all limits.",
        ),
        (
            asking(frozenset({"us-east"})),
            {"locations": frozenset({"eu"})},
            NoTargetInLocation,
            "(limit 0: us-east; the route: eu), and route 'r' cannot",
        ),
        (
            asking(frozenset({"eu"}), private=True),
            {},
            NoPrivateTarget,
            "(limit 0: eu; private requests: on-prem), and route 'r' cannot",
        ),
        (
            asking(frozenset({"us-east"}), model="a"),
            {},
            NoTargetInLocation,
            "(limit 0: us-east), and route 'direct' has no target in us-east.",
        ),
    ],
)
def test_where_no_target_is_left_the_error_names_every_limit(
    query: Query, route: dict[str, Any], error: type[NoTargetInLocation], text: str
) -> None:
    policy = compiled(("eu", None, "us-east", "on-prem"), frozenset({"on-prem"}), **route)
    with pytest.raises(NoTargetInLocation) as caught:
        plan_request(policy, query, CHAT, wall_s=0.0, sample=0.0)
    assert type(caught.value) is error
    assert text in caught.value.message


def test_a_private_request_whose_own_limit_excludes_the_private_targets_is_told_of_its_limit() -> None:
    policy = compiled(("on-prem", None, "us-east", "eu"), frozenset({"on-prem"}))
    with pytest.raises(NoTargetInLocation) as caught:
        plan_request(policy, asking(frozenset({"eu"}), private=True), CHAT, wall_s=0.0, sample=0.0)
    assert caught.value.code == "no_target_in_location"


def test_a_request_in_progress_does_not_follow_its_target_to_another_location() -> None:
    before, after = (compiled((place, None, None, None), frozenset({"eu"})) for place in ("eu", "us-east"))
    moved = replace(after.targets["a"], endpoints=(target("elsewhere", "us-east"),))
    [candidate, *_] = before.rules[0].open.candidates
    assert replace(after, targets={"a": moved}).with_current_endpoints(candidate) is candidate
    same = replace(moved, location="eu", endpoints=(target("elsewhere", "eu"),))
    assert replace(after, targets={"a": same}).with_current_endpoints(candidate) is not candidate


def test_a_named_target_is_limited_as_a_route_is(query: Callable[..., Query]) -> None:
    policy = compiled(("eu", None, "us-east", "on-prem"), frozenset({"on-prem"}))
    limited = (LocationLimit("h", frozenset({"us-east"})),)
    plan = plan_request(policy, query(model="c", locations=limited), CHAT, wall_s=0.0, sample=0.0)
    assert (plan.route, [each.target.name for each in plan.candidates]) == (DIRECT, ["c"])
