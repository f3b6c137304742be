"""The table of keywords is correct: every keyword has an example that shows its treatment."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from diffusion_worker.constraints.compile import compile_schema
from diffusion_worker.constraints.schema.keyword_page import page
from diffusion_worker.constraints.schema.keywords import KEYWORDS
from diffusion_worker.constraints.schema.validation import SchemaValidator
from diffusion_worker.errors import UnsupportedSchema

DRAFT_7 = "http://json-schema.org/draft-07/schema#"
LONG = "x" * 400
HAS: list[dict[str, Any]] = [{"required": [f"m{index}"]} for index in range(18)]
# keyword: a schema, a value it admits, a value that the keyword forbids
KEPT: dict[str, tuple[Any, Any, Any]] = {
    "type": ({"type": "integer"}, 1, "a"),
    "enum": ({"enum": [1, "a"]}, "a", "b"),
    "const": ({"const": {"a": 1}}, {"a": 1}, {"a": 2}),
    "properties": ({"properties": {"a": {"type": "null"}}}, {"a": None}, {"a": 1}),
    "required": ({"required": ["a"]}, {"a": 1}, {}),
    "additionalProperties": ({"additionalProperties": {"type": "null"}}, {"a": None}, {"a": 1}),
    "dependentRequired": ({"dependentRequired": {"a": ["b"]}}, {"a": 1, "b": 1}, {"a": 1}),
    "dependentSchemas": ({"dependentSchemas": {"a": {"maxProperties": 1}}}, {"a": 1}, {"a": 1, "b": 1}),
    "dependencies": ({"$schema": DRAFT_7, "dependencies": {"a": ["b"]}}, {"b": 1}, {"a": 1}),
    "items": ({"items": {"type": "null"}}, [None], [1]),
    "prefixItems": ({"prefixItems": [{"type": "null"}]}, [None, 1], [1]),
    "additionalItems": ({"$schema": DRAFT_7, "items": [True], "additionalItems": False}, [1], [1, 1]),
    "minimum": ({"type": "number", "minimum": 2}, 2, 1.5),
    "maximum": ({"type": "number", "maximum": 2}, 2, 2.5),
    "exclusiveMinimum": ({"type": "number", "exclusiveMinimum": 2}, 2.5, 2),
    "exclusiveMaximum": ({"type": "number", "exclusiveMaximum": 2}, 1.5, 2),
    "allOf": ({"allOf": [{"minimum": 1}, {"maximum": 2}]}, 1, 3),
    "anyOf": ({"anyOf": [{"type": "null"}, {"type": "boolean"}]}, True, 1),
    "$ref": ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "null"}}}, None, 1),
    "$dynamicRef": (
        {"items": {"$dynamicRef": "#a"}, "$defs": {"b": {"$dynamicAnchor": "a", "type": "null"}}},
        [None],
        [1],
    ),
    "$recursiveRef": (
        {"$schema": "https://json-schema.org/draft/2019-09/schema", "type": "array", "items": {"$recursiveRef": "#"}},
        [[]],
        [1],
    ),
    "$defs": ({"items": {"$ref": "#/$defs/a"}, "$defs": {"a": {"type": "null"}}}, [None], [1]),
    "definitions": ({"items": {"$ref": "#/definitions/a"}, "definitions": {"a": {"type": "null"}}}, [None], [1]),
    "patternProperties": ({"patternProperties": {"^a": {"type": "null"}}}, {"ab": None, "b": 1}, {"ab": 1}),
    "propertyNames": ({"propertyNames": {"pattern": "^a"}}, {"ab": 1}, {"b": 1}),
    "minProperties": ({"minProperties": 1}, {"a": 1}, {}),
    "maxProperties": ({"maxProperties": 1}, {"a": 1}, {"a": 1, "b": 1}),
    "minItems": ({"minItems": 2}, [1, 1], [1]),
    "maxItems": ({"maxItems": 2}, [1, 1], [1, 1, 1]),
    "minLength": ({"minLength": 2}, "éé", "é"),
    "maxLength": ({"maxLength": 2}, "éé", "ééé"),
    "pattern": ({"pattern": "^a+$"}, "aa", "ab"),
    "format": ({"type": "string", "format": "date"}, "2024-02-29", "2023-02-29"),
    "multipleOf": ({"multipleOf": 7}, 14, 15),
    "oneOf": ({"oneOf": [{"required": ["a"]}, {"required": ["b"]}], "type": "object"}, {"a": 1}, {"a": 1, "b": 1}),
    "not": ({"not": {"type": "string"}}, 1, "a"),
    "if": ({"if": {"minimum": 5}, "then": {"multipleOf": 2}}, 6, 7),
    "then": ({"if": {"const": "a"}, "then": False}, "b", "a"),
    "else": ({"if": {"type": "string"}, "else": {"type": "null"}}, "a", 1),
}
# keyword: a schema that leaves it to validation, and a value that only the check forbids
CHECKED: dict[str, tuple[Any, Any]] = {
    "patternProperties": ({"patternProperties": {"^.{1,99}$": {"type": "null"}}}, None),
    "propertyNames": ({"propertyNames": {"pattern": r"\bb"}}, {"a": 1}),
    "minProperties": ({"minProperties": 99}, {f"m{index}": 1 for index in range(20)}),
    "maxProperties": ({"maxProperties": 99}, {f"m{index}": 1 for index in range(100)}),
    "minItems": ({"minItems": 99}, [1] * 60),
    "maxItems": ({"maxItems": 99}, [1] * 100),
    "minLength": ({"minLength": 300}, "x" * 200),
    "maxLength": ({"maxLength": 300}, LONG),
    "pattern": ({"pattern": r"\bb"}, "a"),
    "multipleOf": ({"multipleOf": 0.5}, 0.7),
    "oneOf": ({"oneOf": [{"multipleOf": 3}, {"multipleOf": 5}]}, 15),
    "not": ({"not": {"multipleOf": 3}}, 9),
    "if": ({"if": {"multipleOf": 3}, "then": {"minimum": 0}}, -3),
    "then": ({"if": {"multipleOf": 3}, "then": {"minimum": 0}}, -3),
    "else": ({"if": {"multipleOf": 3}, "then": {"minimum": 0}, "else": {"minimum": -9}}, -3),
    "uniqueItems": ({"uniqueItems": True}, [1, 1]),
    "contains": ({"contains": {"const": 1}}, [2]),
    "minContains": ({"contains": {"const": 1}, "minContains": 2}, [1, 2]),
    "maxContains": ({"contains": {"const": 1}, "maxContains": 1}, [1, 1]),
    "unevaluatedProperties": ({"unevaluatedProperties": {"type": "null"}}, {"a": 1}),
    "unevaluatedItems": ({"unevaluatedItems": False}, [1]),
}
OPEN = {"type": "object", "properties": {f"m{index}": {"type": "integer"} for index in range(7)}}
MANY: dict[str, tuple[Any, Any]] = {  # alternatives that multiply beyond the bound
    "allOf": (
        {"type": "object", "allOf": [{"anyOf": [HAS[a], HAS[a + 1]]} for a in range(0, 14, 2)]},
        {f"m{a}": 1 for a in range(0, 12, 2)},
    ),
    "anyOf": ({"type": "object", "allOf": [{"anyOf": HAS[:9]}], "anyOf": HAS[9:]}, {"m0": 1}),
    "dependentRequired": (
        {**OPEN, "dependentRequired": {f"m{index}": [f"n{index}"] for index in range(7)}},
        {"m6": 1},
    ),
    "dependentSchemas": (
        {**OPEN, "dependentSchemas": {f"m{index}": {"required": [f"n{index}"]} for index in range(7)}},
        {"m6": 1},
    ),
    "dependencies": (
        {**OPEN, "$schema": DRAFT_7, "dependencies": {f"m{index}": [f"n{index}"] for index in range(7)}},
        {"m6": 1},
    ),
}
NAMED_AS = {"then": "if", "else": "if", "minContains": "contains"}
PLAIN = {"type": "object", "properties": {"a": {"maxLength": 2}}, "additionalProperties": False}
REFUSED: dict[str, Any] = {
    "extends": {"extends": {}},
    "disallow": {"disallow": "string"},
    "divisibleBy": {"divisibleBy": 2},
}


def text(value: Any) -> bytes:
    """As a document."""
    return json.dumps(value).encode()


def with_treatment(*treatments: str) -> set[str]:
    """The keywords with one of these treatments."""
    return {name for name, keyword in KEYWORDS.items() if keyword.treatment in treatments}


def test_every_keyword_has_an_example() -> None:
    """A row cannot be added without an example."""
    assert set(KEPT) == with_treatment("automaton", "automaton or checked")
    assert set(CHECKED) | set(MANY) | {"format"} == with_treatment("automaton or checked", "checked")
    assert set(REFUSED) == with_treatment("refused")


@pytest.mark.parametrize("keyword", sorted(KEPT))
def test_automaton_keywords_cannot_be_violated(keyword: str) -> None:
    """Such schemas need no validation."""
    schema, good, bad = KEPT[keyword]
    compiled = compile_schema(schema)
    assert compiled.needs_check == ()
    assert compiled.automaton.accepts(text(good))
    assert not compiled.automaton.accepts(text(bad))


@pytest.mark.parametrize(
    "keyword",
    [
        *sorted(CHECKED),
        "anyOf",
        *(pytest.param(name, marks=pytest.mark.slow) for name in sorted(MANY.keys() - CHECKED - {"anyOf"})),
    ],
)
def test_checked_keywords_are_reported_and_validated(keyword: str) -> None:
    """The automaton accepts the violation, validation reports it."""
    schema, bad = {**CHECKED, **MANY}[keyword]
    compiled = compile_schema(schema)
    assert NAMED_AS.get(keyword, keyword) in compiled.needs_check
    if bad is not None:
        assert compiled.automaton.accepts(text(bad))
        assert SchemaValidator(schema).violation(bad) is not None


@pytest.mark.parametrize("keyword", sorted(REFUSED))
def test_refused_keywords_are_named(keyword: str) -> None:
    """At any position in the schema."""
    for schema, pointer in ((REFUSED[keyword], f"/{keyword}"), ({"items": REFUSED[keyword]}, f"/items/{keyword}")):
        with pytest.raises(UnsupportedSchema) as caught:
            compile_schema(schema)
        assert (caught.value.keyword, caught.value.pointer) == (keyword, pointer)


@pytest.mark.parametrize("keyword", [*sorted(with_treatment("annotation") - {"$schema", "$vocabulary"}), "x-anything"])
def test_annotations_change_nothing(keyword: str) -> None:
    """Known ones and unknown ones."""
    values = {
        "examples": ["a"],
        "deprecated": True,
        "readOnly": True,
        "writeOnly": True,
        "nullable": True,
        "contentSchema": {},
    }
    noted = {**PLAIN, keyword: values.get(keyword, "a")}
    assert compile_schema(noted).automaton.next.tobytes() == plain_transitions()


@cache
def plain_transitions() -> bytes:
    return compile_schema(PLAIN).automaton.next.tobytes()


def test_the_page_is_generated_from_the_table() -> None:
    """`python -m diffusion_worker.constraints.schema.keyword_page > docs/reference/json-schema.md` after a change."""
    assert (Path(__file__).parents[4] / "docs/reference/json-schema.md").read_text() == page()
