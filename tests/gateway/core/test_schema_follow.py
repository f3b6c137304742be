"""Reading a text along with its schema: sure of every fault, at the same place however the text is cut."""

import json
from typing import Any

import jsonschema
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema.validators import validator_for

from gateway.core.schema_follow import SchemaFollower
from gateway.core.validate import Schema
from tests.gateway.core.any_schema import schemas, values

thorough = settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])


def read(schema: Any, *pieces: str) -> SchemaFollower:
    follower = Schema(schema).follow()
    for piece in pieces:
        follower.feed(piece)
    return follower


def said(schema: Any, *pieces: str) -> str | None:
    """The keyword, its place and the index of the first fault."""
    follower = read(schema, *pieces)
    if follower.fault_at is None:
        return None
    breach = follower.breach
    return f"{breach.keyword} {breach.place} {follower.fault_at}" if breach else f"json {follower.fault_at}"


@thorough
@given(schemas, values, st.sampled_from([None, 1]))
def test_what_it_refuses_the_reference_refuses(schema: Any, value: Any, indent: int | None) -> None:
    if read(schema, json.dumps(value, indent=indent)).fault_at is not None:
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


@thorough
@given(inner, st.tuples(objects, objects), st.sampled_from(DRAFTS), values)
def test_in_every_draft_it_agrees_with_the_compiled_validator_and_that_with_the_reference(
    schema: Any, definitions: Any, draft: str, value: Any
) -> None:
    whole = {**schema, "$schema": draft, "definitions": dict(zip("xy", definitions, strict=True))}
    text = json.dumps(value) + " "
    try:
        compiled = Schema(whole)
    except ValueError:  # no schema of this draft, or one without end
        return
    is_valid = compiled.fault_of(value, len(text)) is None
    assert validator_for(whole)(whole).is_valid(value) is is_valid
    follower = compiled.follow()
    assert follower.feed(text) or not is_valid, follower.breach


@thorough
@given(schemas, values)
def test_it_says_the_same_however_the_text_is_cut(schema: Any, value: Any) -> None:
    text = json.dumps(value) + " "
    assert said(schema, text) == said(schema, *text)


@thorough
@given(schemas, values)
def test_before_its_fault_nothing_is_wrong(schema: Any, value: Any) -> None:
    text = json.dumps(value) + " "
    at = read(schema, text).fault_at
    if at is not None:
        assert read(schema, text[:at]).fault_at is None


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
    ("text", "fault"),
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
def test_a_fault_is_told_at_the_first_character_that_cannot_be_mended(text: str, fault: str | None) -> None:
    assert said(ORDER, text) == fault
    assert said(ORDER, *text) == fault


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        # What stands beside `$ref` counts since 2019-09, and before that it does not.
        ({"$schema": "http://json-schema.org/draft-07/schema#", "$ref": "#/definitions/any", "type": "string",
          "definitions": {"any": {}}}, "1 "),
        # A reference below an `$id` leads to another place than it seems to.
        ({"properties": {"a": {"$id": "http://other/", "properties": {"b": {"$ref": "#/$defs/x"}},
                               "$defs": {"x": {"type": "number"}}}}, "$defs": {"x": {"type": "string"}}},
         '{"a": {"b": 1}}'),
        # Items by place were called `items` up to 2019-09.
        ({"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"type": "string"}], "prefixItems": [False],
          "additionalItems": {"type": "integer"}}, '["a", 1]'),
        # A name that a pattern describes is not an additional one.
        ({"additionalProperties": False, "patternProperties": {"^x": {}}}, '{"x1": 1}'),
        ({"$schema": "http://json-schema.org/draft-04/schema#", "minimum": 3, "exclusiveMinimum": False}, "3 "),
        ({"$ref": "#/$defs/tree", "$defs": {"tree": {"properties": {"next": {"$ref": "#/$defs/tree"}}}}},
         '{"next": {"next": {}}}'),
        ({"$ref": "#/examples/0", "examples": [{"pattern": 5, "required": [[1]], "type": "q"}]}, "null "),
    ],
)  # fmt: skip
def test_drafts_and_references_are_not_taken_for_more_than_they_say(schema: Any, text: str) -> None:
    try:
        compiled = Schema(schema)
    except ValueError:  # refused as a whole: nothing is followed through it
        return
    assert compiled.follow().feed(text)
    assert compiled.fault_of(orjson.loads(text), len(text)) is None


def test_depth_and_breadth_are_bounded() -> None:
    wide = {"allOf": [{"type": "integer"} for _ in range(500)]}
    assert said(wide, '"') == "type #/allOf/0 0"
    deep: Any = {}
    for _ in range(60):
        deep = {"items": deep}
    assert said(deep, "[" * 513) == "json 512"
