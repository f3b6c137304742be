"""JSON Schemas: accepted or rejected with a pointer, in agreement with the reference, at bounded cost."""

import json
from typing import Any

import jsonschema
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema.validators import validator_for

from gateway.validation.json_schema import (
    Schema,
    SchemaCache,
    SchemaError,
    TextPattern,
    ValidationError,
    check_schema,
    digest_of,
)
from tests.gateway.validation.any_schema import schemas, values
from tests.measured import cpu_s


def error_of(schema: Any, text: str) -> ValidationError | None:
    return Schema(schema).validate(orjson.loads(text), len(text))


@given(schemas, st.lists(values, min_size=1, max_size=4))
def test_the_compiled_validator_agrees_with_the_reference(schema: Any, instances: list[Any]) -> None:
    compiled, reference = Schema(schema), jsonschema.Draft202012Validator(schema)
    for value in instances:
        assert (compiled.validate(value, 10) is None) is reference.is_valid(value)


LATEST = "https://json-schema.org/draft/2020-12/schema"
TREE = {
    "$schema": LATEST, "$id": "https://example.com/strict-tree", "$dynamicAnchor": "node", "$ref": "tree",
    "unevaluatedProperties": False,
    "$defs": {
        "tree": {
            "$id": "tree", "$dynamicAnchor": "node", "type": "object",
            "properties": {"data": True, "children": {"type": "array", "items": {"$dynamicRef": "#node"}}},
        }
    },
}  # fmt: skip
TEXTS = {
    "$schema": LATEST, "$id": "https://example.com/texts", "$ref": "list",
    "$defs": {
        "item": {"$dynamicAnchor": "T", "type": "string"},
        "list": {"$id": "list", "items": {"$dynamicRef": "#T"}, "$defs": {"T": {"$dynamicAnchor": "T", "not": {}}}},
    },
}  # fmt: skip
RECURSIVE = {
    "$schema": "https://json-schema.org/draft/2019-09/schema", "$id": "https://example.com/r", "type": "object",
    "$recursiveAnchor": True, "properties": {"c": {"$recursiveRef": "#"}}, "additionalProperties": False,
}  # fmt: skip
BASES = {
    "definitions": {"x": {"type": "string"}},
    "properties": {
        "a": {"$id": "https://example.com/a", "$ref": "#/definitions/x", "definitions": {"x": {"type": "integer"}}}
    },
}


@pytest.mark.parametrize(
    ("schema", "instances"),
    [
        (TREE, [{"children": [{"data": 1}]}, {"children": [{"daat": 1}]}]),
        (TEXTS, [["a"], [1]]),
        (RECURSIVE, [{"c": {"c": {}}}, {"c": {"d": 1}}]),
        (BASES, [{"a": 1}, {"a": "x"}]),
        (BASES | {"$schema": "http://json-schema.org/draft-07/schema#"}, [{"a": 1}, {"a": "x"}]),
    ],
)
def test_references_with_other_bases_and_dynamic_ones_lead_where_the_drafts_say(
    schema: Any, instances: list[Any]
) -> None:
    reference = validator_for(schema, default=jsonschema.Draft202012Validator)(schema)
    for value in instances:
        assert (Schema(schema).validate(value, 10) is None) is reference.is_valid(value)
        fed = Schema(schema).incremental_validator().feed(orjson.dumps(value).decode())
        assert fed or not reference.is_valid(value)


def test_a_reference_that_resolves_in_another_draft_only_is_refused() -> None:
    """By the validator: the cost counts it."""
    with pytest.raises(SchemaError):
        Schema({"properties": {"a": {"$id": "https://example.com/a", "$ref": "#/b"}}, "b": {}})


DRAFTS = ["http://json-schema.org/draft-04/schema#", "http://json-schema.org/draft-06/schema#",
          "http://json-schema.org/draft-07/schema#", "https://json-schema.org/draft/2019-09/schema",
          "https://json-schema.org/draft/2020-12/schema"]  # fmt: skip


@pytest.mark.parametrize("draft", DRAFTS)
@pytest.mark.parametrize(
    ("keyword", "argument", "value"),
    [
        ("items", [{"type": "string"}], [1]),
        ("exclusiveMinimum", True, 3),
        ("const", 1, 2),
        ("contains", {"type": "string"}, [1]),
        ("if", {"type": "integer"}, 1),
        ("dependentRequired", {"a": ["b"]}, {"a": 1}),
        ("prefixItems", [{"type": "string"}], [1]),
        ("unevaluatedProperties", False, {"a": 1}),
        ("format", "date", "no date"),
    ],
)
def test_each_keyword_means_what_the_declared_draft_says(draft: str, keyword: str, argument: Any, value: Any) -> None:
    schema = {"$schema": draft, "minimum": 3, "then": False, keyword: argument}
    reference = validator_for(schema)
    try:
        reference.check_schema(schema)
    except jsonschema.SchemaError:
        with pytest.raises(SchemaError):
            Schema(schema)
    else:
        assert (Schema(schema).validate(value, 10) is None) is reference(schema).is_valid(value)


@pytest.mark.parametrize(
    ("schema", "value", "valid"),
    [
        # Decimals are exact, unlike binary floats.
        ({"multipleOf": 0.1}, 0.3, True),
        # Patterns follow ECMA 262: ASCII classes, and $ matches only at the end of the text.
        ({"pattern": "^\\d$"}, "٣", False),
        ({"pattern": "^a$"}, "a\n", False),
        # A keyword that newer drafts moved still applies.
        ({"dependencies": {"a": ["b"]}}, {"a": 1}, False),
    ],
)
def test_the_intended_differences_from_the_reference(schema: Any, value: Any, valid: bool) -> None:
    assert (Schema(schema).validate(value, 10) is None) is valid
    assert jsonschema.Draft202012Validator(schema).is_valid(value) is not valid


PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "zip": {}, "age": {"$ref": "#/$defs/age"}, "no": False},
    "required": ["name", "zip"],
    "additionalProperties": False,
    "$defs": {"age": {"minimum": 0}},
}


@pytest.mark.parametrize(
    ("value", "detail"),
    [
        ({"name": "x", "zip": 1, "secret": 1}, "additionalProperties at #"),
        ({"name": "secret"}, "required at #/properties/zip"),
        ({"zip": 1}, "required at #/properties/name"),
        ({"name": 7, "zip": 1}, "type at #/properties/name"),
        ({"name": "x", "zip": 1, "age": -1}, "minimum at #/$defs/age"),
        ({"name": "x", "zip": 1, "no": "secret"}, "falseSchema at #/properties/no"),
        ("secret", "type at #"),
    ],
)
def test_an_error_names_keyword_and_pointer_and_no_value(value: Any, detail: str) -> None:
    error = error_of(PERSON, json.dumps(value))
    assert error is not None
    assert error.detail == detail
    assert "secret" not in repr(error)


def test_a_long_pointer_is_truncated() -> None:
    error = error_of({"properties": {"n" * 500: {"type": "null"}}}, json.dumps({"n" * 500: 1}))
    assert error is not None
    assert len(error.detail) <= 160


def deep_list(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("schema", "pointer", "cause"),
    [
        ({"type": "strin"}, "#/type", "violates its draft"),
        ({"properties": {"a": {"minimum": "1"}}}, "#/properties/a/minimum", "violates its draft"),
        ({"required": "a"}, "#/required", "violates its draft"),
        ({"properties": {"a": {"pattern": "("}}}, "#/properties/a/pattern", "not a regular expression"),
        ({"pattern": "^(a{1,1000}){1,1000}$"}, "#/pattern", "not a regular expression"),
        ({"$schema": "https://example.com/draft"}, "#/$schema", "an unknown draft"),
        ({"$ref": "https://example.com/s"}, "#/$ref", "only references within the schema"),
        ({"const": deep_list(400)}, "#", "Recursion limit"),
        ([], "#", "a schema must be an object"),
        ("type", "#", "a schema must be an object"),
        (None, "#", "a schema must be an object"),
        ({"$id": "http://[x"}, "#", "an identifier or reference that is not a URI"),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "$id": "http://[x"}, "#/$id", "that is not a URI"),
    ],
)
def test_an_unusable_schema_is_rejected_with_its_pointer(schema: Any, pointer: str, cause: str) -> None:
    with pytest.raises(SchemaError, match=cause) as caught:
        check_schema(schema)
    assert caught.value.pointer == pointer
    assert str(caught.value).endswith(f"at {pointer}")


def test_the_digest_ignores_layout_and_order() -> None:
    one, other = json.loads('{"type":"object","title":"x"}'), json.loads('{ "title": "x", "type": "object" }')
    assert check_schema(one) == check_schema(other) == digest_of(one)
    assert digest_of(one).startswith("sha256:")
    assert digest_of(one) != digest_of({})


@pytest.mark.parametrize("pattern", ["^(a+)+$", "(x+x+)+y", "^(?=(a+)+$)", "(?!q)(x+x+)+y", "^(a|aa)+$", "(.*)*\\1z"])
def test_no_pattern_takes_long_on_hostile_text(pattern: str) -> None:
    """Backtracking would double with every character; quadratic time is allowed."""
    schema = Schema({"pattern": pattern})

    def validate(length: int) -> None:
        for text in ("a" * length + "!", "x" * length):
            schema.validate(text, len(text))

    assert cpu_s(lambda: validate(5000)) < 500 * cpu_s(lambda: validate(500))


def test_too_much_work_is_an_error_instead_of_a_wait() -> None:
    schema = Schema(json.loads('{"properties": {"x": {"allOf": [{"$ref": "#"}, {"$ref": "#"}]}}}'))
    value: Any = {}
    for _ in range(40):
        value = {"x": value}
    assert schema.validate(value, 400) == ValidationError(keyword="cost", pointer="#")  # 2**40 steps would never end


@pytest.mark.parametrize(
    ("pattern", "text", "matches"),
    [
        ("[0-9]{3}", "123", True),
        ("[0-9]{3}", "1234", False),
        ("[0-9]{3}", "123\n", False),
        ("a|bc", "bc", True),
        ("a|bc", "ac", False),
        ("^ab$", "ab", True),
        ("", "", True),
    ],
)
def test_a_pattern_must_match_the_whole_text(pattern: str, text: str, matches: bool) -> None:
    assert TextPattern(pattern).matches(text) is matches


@pytest.mark.parametrize("pattern", ["(", "a)|(b", "[", "a{1,100000}", "a" * 5000])
def test_a_pattern_that_cannot_be_checked_is_refused(pattern: str) -> None:
    with pytest.raises(SchemaError, match=r"expression|longer"):
        TextPattern(pattern)


class Entry:
    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes


def test_the_cache_evicts_the_least_recently_used_entries() -> None:
    cache, made = SchemaCache(max_bytes=20), []

    def get(name: str) -> Entry:
        return cache.get(name, lambda: made.append(name) or Entry(10))  # type: ignore[func-returns-value]

    for name in ("a", "b", "a", "c", "a", "b"):
        get(name)
    assert made == ["a", "b", "c", "b"]
    assert (len(cache), cache.size_bytes) == (2, 20)
    assert get("b") is get("b")


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 40)), max_size=60))
def test_the_cache_is_bounded_by_bytes(entries: list[tuple[int, int]]) -> None:
    cache = SchemaCache(max_bytes=50)
    for key, size in entries:
        cache.get(key, lambda size=size: Entry(size))  # type: ignore[misc]
        assert cache.size_bytes <= 50


@pytest.mark.parametrize("pattern", [r"\p{L}{20}", "(a{100}){50}", "[^a]{900}", "[ab]" * 99])
def test_regular_expressions_that_take_long_to_compile_are_refused_together(pattern: str) -> None:
    Schema({"allOf": [{"pattern": pattern}]})
    with pytest.raises(SchemaError, match="too large together") as refused:
        Schema({"allOf": [{"pattern": f"{number}{pattern}"} for number in range(100)]})
    assert refused.value.unsupported


def test_an_invalid_value_that_is_nested_very_deeply_is_an_error() -> None:
    deep: object = 1
    for _ in range(900):
        deep = [deep]
    assert Schema({"type": "object"}).validate(deep, 2000) is not None
