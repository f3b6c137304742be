"""The policy that `twolane init` writes: short, valid, and fitted to the engine of the fast lane."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from gateway.policy_files.load import parse
from gateway.routing.engine_profiles import ENGINES
from twolane.init.policy_text import WORKER, Lane, location_of, render

QUALITY = Lane(url="https://llm.example.com/v1", model="big-model", engine="openai", key_env="QUALITY_API_KEY")


def fast(engine: str) -> Lane:
    return Lane(url="http://127.0.0.1:8001", model="diffusion", engine=engine, key_env=None)


@pytest.mark.parametrize("engine", [WORKER, *ENGINES])
def test_the_policy_is_valid_and_short_for_every_engine(engine: str) -> None:
    text = render(fast(engine), QUALITY)
    assert text.count("\n") <= 25
    policy = parse(text, {})
    assert list(policy.targets) == ["fast", "quality"]
    assert policy.targets["quality"].key_env == "QUALITY_API_KEY"


def test_only_a_worker_is_asked_for_its_confidence() -> None:
    """Other engines report no confidence, and all their answers would count as uncertain."""
    assert "min_confidence" in render(fast(WORKER), QUALITY)
    assert "min_confidence" not in render(fast("vllm_diffusion"), QUALITY)


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


def test_the_documentation_keys_exist_in_the_schema_for_editors() -> None:
    """An editor with policies/schema.json accepts the policy."""
    import json

    import jsonschema

    schema = json.loads((Path(__file__).parents[3] / "policies" / "schema.json").read_text())
    jsonschema.validate(YAML(typ="safe").load(render(fast(WORKER), QUALITY)), schema)
