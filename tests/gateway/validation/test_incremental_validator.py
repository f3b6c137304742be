"""Incremental validation: every error is certain, and its position does not depend on how the text is split."""

import json
from typing import Any

import jsonschema
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema.validators import validator_for

from gateway.validation.incremental_validator import MAX_BRANCHES, IncrementalValidator
from gateway.validation.json_schema import Schema
from tests.gateway.validation.any_schema import schemas, values


def read(schema: Any, *pieces: str) -> IncrementalValidator:
    validator = Schema(schema).incremental_validator()
    for piece in pieces:
        validator.feed(piece)
    return validator


def error_of(schema: Any, *pieces: str) -> str | None:
    """The keyword, its pointer and the index of the first error."""
    validator = read(schema, *pieces)
    if validator.error_at is None:
        return None
    violation = validator.violation
    return (
        f"{violation.keyword} {violation.pointer} {validator.error_at}" if violation else f"json {validator.error_at}"
    )


@pytest.mark.slow
@given(schemas, values, st.sampled_from([None, 1]))
def test_what_it_rejects_the_reference_rejects(schema: Any, value: Any, indent: int | None) -> None:
    if read(schema, json.dumps(value, indent=indent)).error_at is not None:
        assert not jsonschema.Draft202012Validator(schema).is_valid(value)


DRAFTS = [
    "http://json-schema.org/draft-04/schema#",
    "http://json-schema.org/draft-06/schema#",
    "http://json-schema.org/draft-07/schema#",
    "https://json-schema.org/draft/2019-09/schema",
    "https://json-schema.org/draft/2020-12/schema",
]
objects = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["integer", "number", "string", "object", "array"]),
        "enum": st.lists(values, min_size=1, max_size=2, unique_by=repr),
        "required": st.lists(st.sampled_from("ab"), min_size=1, max_size=2, unique=True),
        "maxLength": st.integers(0, 2),
    },
)
inner = st.fixed_dictionaries(
    {},
    optional={
        "$ref": st.sampled_from(["#/definitions/x", "#/definitions/y", "#/properties/a"]),
        "items": objects | st.lists(objects, min_size=1, max_size=2),
        "additionalItems": objects,
        "properties": st.dictionaries(st.sampled_from("ab"), objects, max_size=2),
        "allOf": st.lists(objects, min_size=1, max_size=2),
        "minimum": st.integers(-1, 1),
        "maxItems": st.integers(0, 2),
    },
)


@given(inner, st.tuples(objects, objects), st.sampled_from(DRAFTS), values)
def test_in_every_draft_it_agrees_with_the_compiled_validator_and_that_with_the_reference(
    schema: Any, definitions: Any, draft: str, value: Any
) -> None:
    whole = {**schema, "$schema": draft, "definitions": dict(zip("xy", definitions, strict=True))}
    text = json.dumps(value) + " "
    try:
        compiled = Schema(whole)
    except ValueError:  # not a schema of this draft, or infinite recursion
        return
    is_valid = compiled.validate(value, len(text)) is None
    assert validator_for(whole)(whole).is_valid(value) is is_valid
    validator = compiled.incremental_validator()
    assert validator.feed(text) or not is_valid, validator.violation


@pytest.mark.slow
@given(schemas, values)
def test_the_result_does_not_depend_on_how_the_text_is_split(schema: Any, value: Any) -> None:
    text = json.dumps(value) + " "
    assert error_of(schema, text) == error_of(schema, *text)


@given(schemas, values)
def test_no_error_is_reported_before_its_position(schema: Any, value: Any) -> None:
    text = json.dumps(value) + " "
    at = read(schema, text).error_at
    if at is not None:
        assert read(schema, text[:at]).error_at is None


@pytest.mark.parametrize(
    ("schema", "keyword"),
    [({"maxLength": 50}, "maxLength"), ({"enum": ["a", "b" * 50, 7]}, "enum"), ({"const": "c" * 50}, "const")],
)
@pytest.mark.parametrize("unit", ["a", "é", "\\n", "\\u00e9", "\\ud83e\\udd8a"])
def test_a_string_that_is_too_long_is_an_error_before_its_end(schema: Any, keyword: str, unit: str) -> None:
    validator = Schema({"properties": {"s": schema}}).incremental_validator()
    length = 0
    for piece in ['{"s": "', *[unit] * 2000]:
        length += len(piece)
        if not validator.feed(piece):
            break
    assert validator.violation == (keyword, "#/properties/s")
    assert validator.error_at == 6
    assert length <= 12 * 50 + 40


@given(st.text(max_size=30), st.booleans(), st.integers(1, 9))
def test_a_string_of_the_allowed_length_is_never_an_error(text: str, ascii_only: bool, chunk: int) -> None:
    document = json.dumps({"s": text}, ensure_ascii=ascii_only)
    for schema in ({"maxLength": len(text)}, {"enum": [text]}, {"const": text}):
        validator = Schema({"properties": {"s": schema}}).incremental_validator()
        assert all(validator.feed(document[at : at + chunk]) for at in range(0, len(document), chunk))


ORDER = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 3},
        "lines": {"type": "array", "items": {"$ref": "#/$defs/line"}, "maxItems": 2, "minItems": 1},
        "kind": {"enum": ["a", "b"]},
    },
    "required": ["name"],
    "additionalProperties": False,
    "$defs": {"line": {"allOf": [{"type": "object"}, {"properties": {"qty": {"type": "integer", "minimum": 1}}}]}},
}


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('{"name": "abc"}', None),
        ("[", "type # 0"),
        ('{"name": 1', "type #/properties/name 9"),
        ('{"name": "abcd"', "maxLength #/properties/name 9"),
        ('{"nome"', "additionalProperties # 1"),
        ('{"kind": "c"', "enum #/properties/kind 9"),
        ('{"lines": [{"qty": 1.5,', "type #/$defs/line/allOf/1/properties/qty 19"),
        ('{"lines": [{"qty": 0}', "minimum #/$defs/line/allOf/1/properties/qty 19"),
        ('{"lines": [7', "type #/$defs/line/allOf/0 11"),
        ('{"lines": [{}, {}, {', "maxItems #/properties/lines 19"),
        ('{"lines": []', "minItems #/properties/lines 11"),
        ('{"lines": [{}]}', "required #/properties/name 14"),
        ('{"name": "a"} x', "json 14"),
        ('{"name": "a\\u00', None),
    ],
)
def test_an_error_is_reported_at_the_first_character_that_no_continuation_can_correct(
    text: str, error: str | None
) -> None:
    assert error_of(ORDER, text) == error
    assert error_of(ORDER, *text) == error


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        # Siblings of `$ref` apply since 2019-09, and not before.
        ({"$schema": "http://json-schema.org/draft-07/schema#", "$ref": "#/definitions/any", "type": "string",
          "definitions": {"any": {}}}, "1 "),
        # A reference below an `$id` resolves against that base.
        ({"properties": {"a": {"$id": "http://other/", "properties": {"b": {"$ref": "#/$defs/x"}},
                               "$defs": {"x": {"type": "number"}}}}, "$defs": {"x": {"type": "string"}}},
         '{"a": {"b": 1}}'),
        # Positional items were called `items` up to 2019-09.
        ({"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"type": "string"}], "prefixItems": [False],
          "additionalItems": {"type": "integer"}}, '["a", 1]'),
        # A name that matches `patternProperties` is not an additional one.
        ({"additionalProperties": False, "patternProperties": {"^x": {}}}, '{"x1": 1}'),
        ({"$schema": "http://json-schema.org/draft-04/schema#", "minimum": 3, "exclusiveMinimum": False}, "3 "),
        ({"$ref": "#/$defs/tree", "$defs": {"tree": {"properties": {"next": {"$ref": "#/$defs/tree"}}}}},
         '{"next": {"next": {}}}'),
        ({"$ref": "#/examples/0", "examples": [{"pattern": 5, "required": [[1]], "type": "q"}]}, "null "),
    ],
)  # fmt: skip
def test_drafts_and_references_are_interpreted_as_specified(schema: Any, text: str) -> None:
    try:
        compiled = Schema(schema)
    except ValueError:  # the schema is rejected
        return
    assert compiled.incremental_validator().feed(text)
    assert compiled.validate(orjson.loads(text), len(text)) is None


OPTIONAL = {
    "properties": {
        "age": {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "null"}]},
        "pet": {
            "oneOf": [
                {"properties": {"kind": {"const": "cat"}, "lives": {"type": "integer"}}, "required": ["kind"]},
                {"properties": {"kind": {"const": "dog"}, "lives": False}, "required": ["kind"]},
            ],
            "type": "object",
        },
        "list": {"items": {"anyOf": [{"type": "string"}, {"items": {"anyOf": [{"const": 1}, {"const": 2}]}}]}},
    }
}


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('{"age": null, "pet": {"kind": "cat", "lives": 9}, "list": ["a", [1, 2]]}', None),
        ('{"age": "', "anyOf #/properties/age 8"),
        ('{"age": -1,', "anyOf #/properties/age 8"),
        ('{"pet": {"kind": "cow"', "oneOf #/properties/pet 17"),
        ('{"pet": {"kind": "dog", "lives"', "oneOf #/properties/pet 24"),
        ('{"pet": {"lives": 9, "kind": "dog"', "oneOf #/properties/pet 29"),
        ('{"pet": {}', "oneOf #/properties/pet 9"),
        ('{"pet": {"kind": "cat"}, "age": t', "anyOf #/properties/age 32"),
        ('{"list": [[1, 3,', "anyOf #/properties/list/items 14"),
        ('{"list": [[1], "x", [2, 2], {', None),
    ],
)
def test_it_is_an_error_when_no_alternative_is_left(text: str, error: str | None) -> None:
    assert error_of(OPTIONAL, text) == error
    assert error_of(OPTIONAL, *text) == error


branches = st.lists(objects, min_size=1, max_size=3)
forked = st.fixed_dictionaries(
    {},
    optional={
        "anyOf": st.lists(
            st.fixed_dictionaries({}, optional={"anyOf": branches, "items": objects}) | objects, min_size=1
        ),
        "oneOf": branches,
        "properties": st.dictionaries(
            st.sampled_from("ab"), st.fixed_dictionaries({"oneOf": branches}) | objects, max_size=2
        ),
        "items": st.fixed_dictionaries({"anyOf": branches}),
    },
)


@given(forked, values)
def test_alternatives_reject_only_what_the_reference_rejects(schema: Any, value: Any) -> None:
    text = json.dumps(value) + " "
    at = read(schema, text).error_at
    assert at == read(schema, *text).error_at
    if at is not None:
        assert not jsonschema.Draft202012Validator(schema).is_valid(value)
        assert read(schema, text[:at]).error_at is None


def test_alternatives_that_double_at_every_level_are_followed_within_the_budget() -> None:
    twice: Any = {"$defs": {"x": {"anyOf": [{"items": {"$ref": "#/$defs/x"}}, {"items": {"$ref": "#/$defs/x"}}]}}}
    validator = Schema({**twice, "$ref": "#/$defs/x"}).incremental_validator()
    assert validator.feed("[" * 400 + "1" + "]" * 400 + " ")
    assert validator._validator._budget.left == MAX_BRANCHES  # the whole budget was returned


def test_depth_and_breadth_are_bounded() -> None:
    wide = {"allOf": [{"type": "integer"} for _ in range(500)]}
    assert error_of(wide, '"') == "type #/allOf/0 0"
    deep: Any = {}
    for _ in range(60):
        deep = {"items": deep}
    assert error_of(deep, "[" * 513) == "json 512"
