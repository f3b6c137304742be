"""The shipped policies: which requests their fast lane takes, and what it must fulfil."""

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.classifier.weights import open_classifier
from gateway.policy_files.gates import gate_problems
from gateway.policy_files.load import load
from gateway.routing.gates import is_diffusion
from gateway.routing.route import plan_request
from gateway.web.parse_request import parse_chat

POLICIES = Path(__file__).parents[3] / "policies"
CLUSTER = POLICIES.parent / "deploy" / "kubernetes"
CLASSIFY = open_classifier()
VARIABLES = {"QUALITY_URL": "http://a", "VLLM_URL": "http://b", "QUALITY_MODEL": "m"}
SHIPPED = pytest.mark.parametrize(
    "policy",
    [*POLICIES.glob("*.yaml"), *CLUSTER.rglob("policy.yaml")],
    ids=lambda policy: f"{policy.parent.name}-{policy.stem}",
)


@SHIPPED
def test_every_shipped_route_that_uses_the_fast_lane_requires_confidence(policy: Path) -> None:
    """An answer in the right form may still be one that the model does not know; also that of a fallback."""
    found = load(policy, VARIABLES)
    lanes = [lane for rule in found.rules for lane in rule.open.candidates if is_diffusion(lane.target)]
    if policy.stem in ("default", "demo", "offline"):  # requests may name a target, too
        lanes += [rule.open.candidates[0] for rule in found.direct.values() if rule.route.use != "quality"]
    assert lanes
    assert [lane.lane for lane in lanes if (lane.min_confidence or 0) < 0.8] == []
    assert list(gate_problems(found)) == []


@SHIPPED
def test_every_shipped_route_of_the_fast_lane_leaves_time_for_its_next_target(policy: Path) -> None:
    plans = [rule.open for rule in load(policy, VARIABLES).rules if rule.route.use != "quality"]
    assert plans
    assert all(plan.attempt_ms and plan.deadline_ms and plan.attempt_ms <= plan.deadline_ms / 3 for plan in plans)


@pytest.mark.parametrize("name", ["default.yaml", "demo.yaml", "offline.yaml"])
@pytest.mark.parametrize(
    ("body", "route"),
    [
        ({"text": "As JSON."}, "default"),
        ({"text": "Please answer as JSON"}, "default"),
        ({"text": "json"}, "default"),
        ({"text": "As JSON.", "response_format": {"type": "json_object"}}, "constrained"),
        ({"text": "hi", "guided_choice": ["a", "b"]}, "constrained"),
        ({"text": "hi", "metadata": {"task": "structured"}}, "constrained"),
        ({"text": "Return a JSON object with the fields name and age for: Bob is 5 years old"}, "constrained"),
    ],
)
def test_prose_alone_is_a_constrained_request_only_if_it_says_what_it_wants(
    name: str, body: dict[str, Any], route: str
) -> None:
    fields = {"model": "auto", "messages": [{"role": "user", "content": body["text"]}], **body}
    query = parse_chat(json.dumps(fields).encode(), {}, now_s=0.0, key=None)
    plan = plan_request(load(POLICIES / name, {}), query, CLASSIFY(query), wall_s=0.0, sample=0.0)
    assert plan.route == route
