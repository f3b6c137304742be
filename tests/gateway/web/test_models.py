"""The list of models: names that take a route, and targets with what they can do."""

from typing import Any

import pytest

from gateway.enums import Capability, Grade
from gateway.errors import ModelNotFound
from gateway.policy_files.load import parse
from gateway.types import Capabilities, Status, Target
from gateway.web.models import model_of, models_of, page_of

POLICY = """
version: 1
aliases: [small, "gpt-*"]
targets:
  fast: {kind: worker, url: "http://a", model: diffusion, location: in_cluster}
  big: {kind: openai, engine: openai, url: "http://b", model: m, location: external, context_length: 9000}
  embedder:
    {kind: openai, capabilities: [embeddings], url: "http://c", model: e, location: external, max_inputs: 32,
     dimensions: 1024}
routes: [{name: default, use: big}]
"""


def status(_target: Any) -> Status:
    return Status(capabilities=Capabilities(supported=frozenset(), context_length=4096))


def listed(allowed: frozenset[str] | None = None) -> dict[str, dict[str, Any]]:
    return {entry["id"]: entry for entry in models_of(parse(POLICY, {}), status, allowed)}


def test_aliases_wildcards_and_targets_are_listed() -> None:
    assert list(listed()) == ["auto", "gpt-*", "small", "fast", "big", "embedder"]
    assert [entry["twolane"]["routed"] for entry in listed().values()] == [True, True, True, False, False, False]
    assert list(listed(frozenset({"small", "big"}))) == ["small", "big"]


def test_each_entry_says_how_long_a_context_may_be() -> None:
    lengths = {name: entry["context_length"] for name, entry in listed().items()}
    assert lengths == {"auto": 9000, "gpt-*": 9000, "small": 9000, "fast": 4096, "big": 9000, "embedder": None}
    assert all(entry["max_model_len"] == entry["context_length"] for entry in listed().values())


ROUTES = """
version: 1
targets:
  a: {kind: worker, url: "http://a", model: diffusion, location: in_cluster}
  b: {kind: worker, url: "http://b", model: diffusion, location: in_cluster}
  c: {kind: worker, url: "http://c", model: diffusion, location: in_cluster}
aliases: ["small-*"]
routes:
  - {name: small, when: {model: "small-*"}, use: a}
  - {name: edits, when: {task: edit}, use: a, fall_back: [b]}
  - {name: default, use: b, fall_back: [c]}
"""
CAN = {
    "a": ({Capability.SEED, Capability.STOP}, Grade.BEST_EFFORT),
    "b": ({Capability.TOP_K}, Grade.GUARANTEED),
    "c": ({Capability.SEED, Capability.TOP_K}, Grade.NONE),
}


def test_a_name_that_takes_a_route_can_do_what_some_target_of_every_route_can() -> None:
    def status_of(target: Target) -> Status:
        supported, grade = CAN[target.name]
        return Status(capabilities=Capabilities(supported=frozenset(supported), json_schema=grade))

    policy = parse(ROUTES, {})
    found = {name: model_of(policy, status_of, name)["twolane"]["capabilities"] for name in ("auto", "small-x")}
    assert found["auto"] == {"seed": True, "top_k": True, "json_schema": "best_effort"}
    assert found["small-x"] == {"seed": True, "stop": True, "json_schema": "best_effort"}


def test_a_name_that_takes_a_route_has_the_longest_context_of_its_own_routes() -> None:
    lengths = {"a": 1000, "b": 4000, "c": 8000}

    def status_of(target: Target) -> Status:
        return Status(capabilities=Capabilities(supported=frozenset(), context_length=lengths[target.name]))

    policy = parse(ROUTES, {})
    found = {name: model_of(policy, status_of, name)["context_length"] for name in ("auto", "small-x")}
    assert found == {"auto": 8000, "small-x": 1000}


def test_capabilities_of_a_route_are_unknown_before_its_targets_were_asked() -> None:
    policy = parse(POLICY.replace("default, use: big", "default, use: fast"), {})
    assert model_of(policy, lambda _: Status(), "auto")["twolane"]["capabilities"] is None


def test_a_target_with_embeddings_says_how_many_inputs_and_dimensions() -> None:
    assert listed()["embedder"]["twolane"]["embeddings"] == {"max_inputs": 32, "dimensions": 1024}
    assert listed()["big"]["twolane"]["embeddings"] == {"max_inputs": None, "dimensions": None}
    assert "embeddings" not in listed()["fast"]["twolane"]


def test_a_name_that_a_wildcard_matches_is_a_model() -> None:
    policy = parse(POLICY, {})
    assert model_of(policy, status, "gpt-5")["id"] == "gpt-5"
    assert model_of(policy, status, "small")["twolane"]["routed"]
    for name, allowed in (("claude", None), ("gpt-5", frozenset({"small"}))):
        with pytest.raises(ModelNotFound):
            model_of(policy, status, name, allowed)


def test_the_list_is_one_page_in_the_form_of_both_apis() -> None:
    models = list(listed().values())
    page = page_of(models)
    assert (page["object"], page["data"], page["has_more"]) == ("list", models, False)
    assert (page["first_id"], page["last_id"]) == ("auto", "embedder")
    assert all(each["type"] == each["object"] == "model" and each["display_name"] == each["id"] for each in models)
    assert page_of([])["first_id"] is None
