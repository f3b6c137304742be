"""Limits to locations: whatever the policy and the request say, a plan stays in the locations that all of them allow."""

from collections.abc import Callable, Iterable
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
from gateway.types import Classification, Plan, Query, Target

CHAT = Classification(task=Task.CHAT, confidence=1.0, evidence="header")
LABELS = ("in_cluster", "eu", "us-east", "on-prem")
NAMES = ("a", "b", "c", "d")
PLACES = st.sampled_from((None, *LABELS))
SETS = st.frozensets(st.sampled_from((*LABELS, "mars")), min_size=1)
MAYBE = st.none() | SETS
TARGETS = st.tuples(*(PLACES for _ in NAMES))


def target(name: str, location: str | None) -> Target:
    """With two endpoints, as every target may have."""
    plain = {"kind": Kind.WORKER, "model": "m", "location": location}
    endpoints = tuple(Target(name=f"{name}/{n}", url=f"http://{name}{n}", pool=name, **plain) for n in (1, 2))  # type: ignore[arg-type]
    return Target(name=name, url=f"http://{name}1", endpoints=endpoints, **plain)  # type: ignore[arg-type]


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


@given(
    places=TARGETS,
    private_locations=SETS,
    of_route=MAYBE,
    limits=st.tuples(MAYBE, MAYBE),
    is_private=st.booleans(),
    is_private_route=st.booleans(),
    shares=st.sampled_from(((), (("a", 1.0), ("c", 2.0)), (("d", 0.0), ("b", 1.0)))),
    shadow=st.sampled_from((None, ("d", 1.0), ("a", 1.0))),
    model=st.sampled_from(("auto", *NAMES)),
    sample=st.floats(0, 1, exclude_max=True),
)
def test_whatever_the_policy_no_plan_leaves_the_allowed_locations(
    places: tuple[str | None, ...],
    private_locations: frozenset[str],
    of_route: frozenset[str] | None,
    limits: tuple[frozenset[str] | None, ...],
    is_private: bool,
    is_private_route: bool,
    shares: tuple[tuple[str, float], ...],
    shadow: tuple[str, float] | None,
    model: str,
    sample: float,
) -> None:
    policy = compiled(
        places, private_locations, private=is_private_route, locations=of_route, shares=shares, shadow=shadow
    )
    is_routed = model == "auto"
    everything = [*limits, of_route if is_routed else None]
    if is_private or (is_private_route and is_routed):
        everything.append(private_locations)
    holding = [each for each in everything if each is not None]
    unlimited = compiled(places, private_locations, shares=shares, shadow=shadow)
    before = plan_request(unlimited, asking(model=model), CHAT, wall_s=0.0, sample=sample)
    allowed = [each for each in before.candidates if all(each.target.location in limit for limit in holding)]
    try:
        plan = plan_request(policy, asking(*limits, model=model, private=is_private), CHAT, wall_s=0.0, sample=sample)
    except NoTargetInLocation as error:
        assert not allowed
        assert not error.retryable
        return
    assert [each.target.name for each in plan.candidates] == [each.target.name for each in allowed]
    assert all(place in limit for place in called_in(plan) for limit in holding)
    stated = [each for each in everything[:3] if each is not None]
    assert plan.locations == (frozenset.intersection(*stated) if stated else None)
    if before.shadow is not None and all(before.shadow.candidate.target.location in limit for limit in holding):
        assert plan.shadow is not None


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


def test_a_named_target_is_limited_as_a_route_is(query: Callable[..., Query]) -> None:
    policy = compiled(("eu", None, "us-east", "on-prem"), frozenset({"on-prem"}))
    limited = (LocationLimit("h", frozenset({"us-east"})),)
    plan = plan_request(policy, query(model="c", locations=limited), CHAT, wall_s=0.0, sample=0.0)
    assert (plan.route, [each.target.name for each in plan.candidates]) == (DIRECT, ["c"])
