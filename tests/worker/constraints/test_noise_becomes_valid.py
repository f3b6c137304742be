"""Random logits in, valid JSON out: schemas of many kinds, checked against jsonschema."""

import json
import re
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from benchmarks.constraints_steps import Noise, random_answer
from benchmarks.vocabularies import shipped
from diffusion_worker.constraints.compile import compile_constraint, compile_schema
from diffusion_worker.constraints.spec import Constraint
from diffusion_worker.constraints.tokens.compilation import compile_tokens

WORDS = shipped()
VOCABULARY = WORDS.read()
SCHEMAS: dict[str, Any] = {
    "optional keys": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "string"}, "c": {"type": "boolean"}},
        "required": ["b"],
        "additionalProperties": False,
    },
    "open objects": {"type": "object", "additionalProperties": {"type": "number"}, "minProperties": 1},
    "bounded numbers": {"type": "array", "items": {"type": "integer", "minimum": -17, "maximum": 204}, "minItems": 2},
    "multiples": {"type": "array", "items": {"type": "integer", "multipleOf": 5}, "minItems": 1, "maxItems": 4},
    "patterns": {"type": "string", "pattern": "^(GET|POST) /[a-z]{2,8}(\\?q=[^&]+)?$"},
    "lengths": {"type": "array", "items": {"type": "string", "minLength": 2, "maxLength": 9}, "minItems": 3},
    "dates": {"type": "object", "properties": {"day": {"type": "string", "format": "date"}}, "required": ["day"]},
    "unions": {"anyOf": [{"type": "null"}, {"const": {"x": [1, 2]}}, {"enum": ["ä", "日", 3.5, False]}]},
    "tuples": {
        "type": "array",
        "prefixItems": [{"type": "boolean"}, {"type": "string"}],
        "items": False,
        "minItems": 2,
    },
    "recursion": {
        "$defs": {
            "tree": {
                "type": "object",
                "properties": {"kids": {"type": "array", "items": {"$ref": "#/$defs/tree"}}},
                "required": ["kids"],
                "additionalProperties": False,
            }
        },
        "$ref": "#/$defs/tree",
    },
    "anything": True,
}


@pytest.mark.parametrize("name", SCHEMAS)
@pytest.mark.parametrize("is_sampled", [False, True])
def test_every_answer_is_valid_and_closes_in_time(name: str, is_sampled: bool) -> None:
    """Several seeds, from the smallest budget to several canvases, shorter and longer than the answer needs."""
    compiled = compile_schema(SCHEMAS[name])
    assert not compiled.needs_check
    automaton = compile_tokens(compiled.automaton, VOCABULARY)
    assert automaton is not None
    validator = Draft202012Validator(SCHEMAS[name], format_checker=Draft202012Validator.FORMAT_CHECKER)
    shortest = int(automaton.distance[automaton.start])
    for seed in range(4):
        noise = Noise(canvas=32, vocab=VOCABULARY.size, seed=seed)
        for budget in (shortest, shortest + 1, shortest + 5, shortest + 150):
            validator.validate(json.loads(WORDS.text(random_answer(automaton, noise, budget, is_sampled=is_sampled))))


@pytest.mark.parametrize(
    ("constraint", "pattern"),
    [
        (Constraint(kind="regex", value=r"\d{3}-[A-F]+(é|日)?"), r"\d{3}-[A-F]+(é|日)?"),
        (Constraint(kind="choice", value=["yes", "no", "not \U0001f600"]), "yes|no|not \U0001f600"),
        (
            Constraint(
                kind="template", value={"text": "Dear {{name}}, {{x}}!", "holes": {"x": {"choice": ["hi", "bye"]}}}
            ),
            r"Dear [^\n\r]+, (hi|bye)!",
        ),
    ],
)
def test_regexes_choices_and_templates_close_in_time_too(constraint: Constraint, pattern: str) -> None:
    """Judged by Python's own regular expressions."""
    automaton = compile_tokens(compile_constraint(constraint).automaton, VOCABULARY)
    assert automaton is not None
    shortest = int(automaton.distance[automaton.start])
    for seed in range(4):
        noise = Noise(canvas=16, vocab=VOCABULARY.size, seed=seed)
        for budget in (shortest, shortest + 3, shortest + 40):
            for is_sampled in (False, True):
                text = WORDS.text(random_answer(automaton, noise, budget, is_sampled=is_sampled)).decode()
                assert re.fullmatch(pattern, text), text
