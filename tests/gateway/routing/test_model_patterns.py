"""Model names with wildcards, in aliases and in conditions of routes."""

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ModelNotFound
from gateway.policy_files.load import parse
from gateway.routing.model_patterns import ModelPattern
from gateway.routing.route import plan_request
from gateway.types import Classification

POLICY = """
version: 1
aliases: [small, "gpt-*", "text-embedding-*"]
targets:
  chat: {kind: openai, engine: openai, url: "http://a", model: m, location: external}
  gpt-own: {kind: openai, engine: openai, url: "http://b", model: m, location: external}
  embedder: {kind: openai, capabilities: [embeddings], url: "http://c", model: e, location: external}
routes:
  - {name: embeddings, when: {model: ["text-embedding-*", vectors]}, use: embedder}
  - {name: default, use: chat}
"""
NAMES = st.text(alphabet="ab-*", max_size=8)


@given(pattern=NAMES.filter(lambda text: "*" in text), name=NAMES)
def test_a_wildcard_represents_any_characters(pattern: str, name: str) -> None:
    expression = ".*".join(map(re.escape, pattern.split("*")))
    assert ModelPattern(pattern).matches(name) == bool(re.fullmatch(expression, name))


def test_many_wildcards_do_not_take_long() -> None:
    assert not ModelPattern("*a" * 200 + "*b").matches("a" * 256)


@pytest.mark.parametrize(
    ("model", "route"),
    [
        ("auto", "default"),
        ("small", "default"),
        ("gpt-5", "default"),
        ("gpt-", "default"),
        ("gpt-own", "direct"),
        ("text-embedding-3-small", "embeddings"),
        ("embedder", "direct"),
    ],
)
def test_aliases_and_conditions_match_wildcards_and_targets_take_precedence(query: Any, model: str, route: str) -> None:
    chat = Classification(task="chat", confidence=0.3, evidence="none")  # type: ignore[arg-type]
    plan = plan_request(parse(POLICY, {}), query(model=model), chat, wall_s=0.0, sample=0.0)
    assert plan.route == route


@pytest.mark.parametrize("model", ["gpt", "my-gpt-5", "vectors", "small-2"])
def test_other_names_are_not_found(query: Any, model: str) -> None:
    chat = Classification(task="chat", confidence=0.3, evidence="none")  # type: ignore[arg-type]
    with pytest.raises(ModelNotFound):
        plan_request(parse(POLICY, {}), query(model=model), chat, wall_s=0.0, sample=0.0)


def test_the_limits_of_a_key_name_models_exactly(query: Any) -> None:
    asked = replace(query(model="gpt-5"), allowed_models=frozenset({"gpt-5"}))
    chat = Classification(task="chat", confidence=0.3, evidence="none")  # type: ignore[arg-type]
    assert plan_request(parse(POLICY, {}), asked, chat, wall_s=0.0, sample=0.0).route == "default"
