"""The policy that `twolane init` writes: short, valid, and fitted to the engine of the fast lane."""

import json
from pathlib import Path

import jsonschema
import pytest
from ruamel.yaml import YAML

from gateway.enums import Task
from gateway.policy_files.gates import gate_problems
from gateway.policy_files.load import parse
from gateway.routing.engine_profiles import ENGINES
from twolane.init.policy_text import WORKER, Lane, location_of, render

QUALITY = Lane(url="https://llm.example.com/v1", model="big-model", engine="openai", key_env="QUALITY_API_KEY")


def fast(engine: str) -> Lane:
    return Lane(url="http://127.0.0.1:8001", model="diffusion", engine=engine, key_env=None)


@pytest.mark.parametrize("engine", [WORKER, *ENGINES])
def test_the_policy_is_valid_and_short_for_every_engine(engine: str) -> None:
    text = render(fast(engine), QUALITY)
    assert text.count("\n") <= 31
    policy = parse(text, {})
    assert list(policy.targets) == ["fast", "quality"]
    assert policy.targets["quality"].key_env == "QUALITY_API_KEY"


def test_the_gate_is_written_for_diffusion_engines_whose_confidence_is_known() -> None:
    """A worker reports it, and log-probabilities tell it; without them a gate would have no effect."""
    gated = {engine for engine in [WORKER, *ENGINES] if "min_confidence" in render(fast(engine), QUALITY)}
    assert gated == {WORKER, "vllm_diffusion"}
    assert list(gate_problems(parse(render(fast(WORKER), QUALITY), {}))) == []


@pytest.mark.parametrize("engine", [WORKER, *ENGINES])
def test_routes_of_the_fast_lane_leave_time_for_the_quality_lane_and_go_by_its_probability(engine: str) -> None:
    rules = [rule for rule in parse(render(fast(engine), QUALITY), {}).rules if rule.route.use == "fast"]
    plans = [rule.open for rule in rules]
    assert all(plan.attempt_ms and plan.deadline_ms and plan.attempt_ms <= plan.deadline_ms / 3 for plan in plans)
    fast_tasks = {Task.EDIT, Task.AUTOCOMPLETE, Task.STRUCTURED, Task.EXTRACTION}
    assert set(rules[0].route.when.confidence_of or ()) == fast_tasks


def test_requests_with_a_schema_go_to_the_fast_lane_only_if_its_engine_takes_schemas() -> None:
    routes = {engine: YAML(typ="safe").load(render(fast(engine), QUALITY))["routes"] for engine in [WORKER, *ENGINES]}
    with_schemas = {engine for engine, found in routes.items() if "constrained" in {route["name"] for route in found}}
    assert with_schemas == {WORKER, "vllm", "sglang", "llama_cpp", "openai"}


@pytest.mark.parametrize(
    "model", ["org/model:free", 'a "quoted" one', "# no comment", "{x: y}", "naïve-模型-🚀", "a\\b"]
)
def test_any_model_id_survives(model: str) -> None:
    lane = Lane(url="http://[::1]:8001", model=model, engine="openai", key_env=None)
    assert parse(render(lane, QUALITY), {}).targets["fast"].model == model


@pytest.mark.parametrize(
    ("url", "location"),
    [
        ("http://127.0.0.1:8001", "in_cluster"),
        ("http://[::1]:8001", "in_cluster"),
        ("http://10.1.2.3", "in_cluster"),
        ("http://worker:8001", "in_cluster"),
        ("http://worker.models.svc:8001", "in_cluster"),
        ("http://8.8.8.8", "external"),
        ("https://llm.example.com", "external"),
    ],
)
def test_a_fast_lane_outside_the_own_network_gets_no_private_requests(url: str, location: str) -> None:
    assert location_of(url) == location
    lane = Lane(url=url, model="m", engine=WORKER, key_env=None)
    assert parse(render(lane, QUALITY), {}).targets["fast"].location == location


def test_the_quality_lane_gets_no_private_requests_unless_the_user_says_so() -> None:
    local = Lane(url="http://127.0.0.1:8000", model="m", engine="vllm", key_env=None)
    assert parse(render(fast(WORKER), local), {}).targets["quality"].location == "external"


def test_an_editor_with_the_schema_of_policies_accepts_the_policy() -> None:
    schema = json.loads((Path(__file__).parents[3] / "policies" / "schema.json").read_text())
    jsonschema.validate(YAML(typ="safe").load(render(fast(WORKER), QUALITY)), schema)
