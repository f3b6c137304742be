"""Schema cost: references resolve inside the schema, evaluations are counted, depth is limited."""

import json
from typing import Any

import pytest

from gateway.validation.schema_cost import SchemaCost, SchemaError


def decoded(schema: Any) -> Any:
    """As decoded from JSON: no two nodes share an object."""
    return json.loads(json.dumps(schema))


def tower(width: int, height: int) -> dict[str, Any]:
    """Each level applies the next one `width` times in place: width ** height evaluations."""
    levels: dict[str, Any] = {f"a{i}": {"allOf": [{"$ref": f"#/$defs/a{i + 1}"}] * width} for i in range(height)}
    return {"$defs": {**levels, f"a{height}": {"type": "object"}}, "$ref": "#/$defs/a0"}


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"properties": {"x": schema}}
    return schema


def value_of_depth(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"x": value}
    return value


def test_a_plain_schema_costs_what_it_says() -> None:
    cost = SchemaCost({"type": "object", "properties": {"a": {"type": "string"}, "b": {"items": {"type": "null"}}}})
    assert cost.of({"a": "x", "b": [None]}) == 4
    assert not cost.is_recursive


def test_combinations_through_references_are_counted_without_evaluating_them() -> None:
    assert SchemaCost(decoded(tower(2, 10))).of({}) > 2**10
    with pytest.raises(SchemaError, match="evaluations") as caught:
        SchemaCost(decoded(tower(2, 60)))  # evaluating them would never end
    assert caught.value.unsupported


def test_the_cost_of_a_recursive_schema_grows_with_the_depth_of_the_value() -> None:
    cost = SchemaCost({"properties": {"x": {"$ref": "#"}}})
    assert cost.is_recursive
    assert cost.of(value_of_depth(20)) - cost.of(value_of_depth(10)) == 20


def test_doubling_recursion_grows_with_depth_until_it_is_far_too_much() -> None:
    cost = SchemaCost(decoded({"properties": {"x": {"allOf": [{"$ref": "#"}, {"$ref": "#"}]}}}))
    assert cost.of(value_of_depth(40)) > 10**9 > 10**4 > cost.of(value_of_depth(5))


def test_unevaluated_keywords_double_the_count() -> None:
    plain = {"allOf": [{"properties": {"a": {}}}]}
    assert SchemaCost({**plain, "unevaluatedProperties": False}).of({}) > SchemaCost(plain).of({})


@pytest.mark.parametrize(
    ("schema", "cause"),
    [
        ({"$ref": "#"}, "infinite .ref recursion"),
        ({"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/b"}]}, "b": {"$ref": "#/$defs/a"}}}, "infinite .ref recursion"),
        ({"$ref": "#/$defs/nobody"}, "unresolved reference"),
        ({"$ref": "#nobody"}, "unresolved reference"),
        ({"items": {"$ref": "https://example.com/schema.json"}}, "only references within the schema"),
        ({"$ref": "file:///etc/passwd"}, "only references within the schema"),
        ({"$ref": "other.json#/a"}, "only references within the schema"),
        ({"$dynamicRef": "#node"}, "dynamicRef"),
        ({"properties": {"a": {"$id": "https://example.com/a", "$ref": "#/b"}}}, r"next to \$id"),
        (nested(65), "nested deeper"),
    ],
)
def test_references_must_resolve_inside_the_schema(schema: dict[str, Any], cause: str) -> None:
    with pytest.raises(SchemaError, match=cause):
        SchemaCost(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"type": "string"}}},
        {"$ref": "#thing", "$defs": {"a": {"$anchor": "thing"}}},
        {"$ref": "#/elsewhere/x~1y/0", "elsewhere": {"x/y": [{"type": "null"}]}},
        {"properties": {"$ref": {"type": "string"}, "$dynamicRef": {"type": "string"}}},
        {"enum": [{"$ref": "https://example.com"}], "default": {"$ref": "nowhere"}},
        {"properties": {"kids": {"type": "array", "items": {"$ref": "#"}}}},
        {"$id": "https://example.com/root", "$ref": "#/$defs/a", "$defs": {"a": {}}},
        nested(60),
        True,
        False,
        {},
    ],
)
def test_ordinary_schemas_pass(schema: Any) -> None:
    SchemaCost(schema).of(value_of_depth(3))


def test_an_error_names_its_pointer() -> None:
    with pytest.raises(SchemaError) as caught:
        SchemaCost({"properties": {"a/b": {"items": [{}, {"$ref": "http://x"}]}}})
    assert caught.value.pointer == "#/properties/a~1b/items/1/$ref"
