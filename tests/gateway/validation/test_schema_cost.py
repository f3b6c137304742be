"""Schema cost: references resolve inside the schema, evaluations are counted, depth is limited."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.validation.json_schema import Schema, ValidationError
from gateway.validation.schema_cost import SchemaCost, SchemaError, escaped, masked_pointer
from tests.gateway.validation.any_schema import schemas, values


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
        ({"allOf": [{}], "$ref": "#/allOf/-1"}, "unresolved reference"),
        ({"allOf": [{}], "$ref": "#/allOf/00"}, "unresolved reference"),
        ({"$dynamicRef": "#node"}, "unresolved reference"),
        ({"$dynamicRef": "#node", "$dynamicAnchor": "node"}, "infinite .ref recursion"),
        ({"properties": {"a": {"$dynamicRef": "https://example.com/tree#node"}}}, "only references within the schema"),
        ({"$id": "https://example.com", "properties": {"a": {"$ref": "http://[/"}}}, "not a URI reference"),
        ({"$id": "https://example.com", "properties": {"a": {"$id": "http://[/"}}}, "not a URI"),
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
        {"$id": "https://example.com/root", "$ref": "root#/$defs/a", "$defs": {"a": {}}},
        {"properties": {"a": {"$id": "https://example.com/a", "$ref": "#/$defs/b", "$defs": {"b": {}}}}},
        {"properties": {"a": {"$ref": "b"}}, "$defs": {"b": {"$id": "b", "type": "null"}}},
        {"$dynamicAnchor": "node", "properties": {"a": {"$dynamicRef": "#node"}}},
        {"$recursiveAnchor": True, "properties": {"a": {"$recursiveRef": "#"}}},
        nested(60),
        True,
        False,
        {},
    ],
)
def test_ordinary_schemas_pass(schema: Any) -> None:
    SchemaCost(schema).of(value_of_depth(3))


def dynamic_tower(width: int, height: int) -> dict[str, Any]:
    """The tower, with dynamic references."""
    levels: dict[str, Any] = {
        f"a{i}": {"$dynamicAnchor": f"a{i}", "allOf": [{"$dynamicRef": f"#a{i + 1}"}] * width} for i in range(height)
    }
    return {"$defs": {**levels, f"a{height}": {"$dynamicAnchor": f"a{height}"}}, "$dynamicRef": "#a0"}


def test_every_target_of_a_dynamic_reference_is_counted() -> None:
    """It depends on the references before it which one of them applies."""
    with pytest.raises(SchemaError, match="evaluations"):
        SchemaCost(decoded(dynamic_tower(2, 60)))
    heavy = {"$id": "b", "$dynamicAnchor": "x", "allOf": [{} for _ in range(50)]}
    schema = {"$dynamicRef": "#x", "$defs": {"a": {"$dynamicAnchor": "x"}, "b": heavy}}
    assert SchemaCost(schema).of({}) > 50


@pytest.mark.parametrize(
    "schema",
    [
        {"$defs": {f"d{i}": {"$id": f"r{i}", "$dynamicAnchor": "x"} for i in range(5000)}, "$dynamicRef": "r0#x"},
        {"$defs": {f"d{i}": {"$anchor": "x", "not": {"$ref": "#x"}} for i in range(5000)}, "$ref": "#x"},
        {"$defs": {f"d{i}": {"$id": "r", "not": {"$ref": "r"}} for i in range(5000)}, "$ref": "r"},
    ],
)
def test_a_reference_with_many_targets_is_refused(schema: Any) -> None:
    with pytest.raises(SchemaError, match="targets of one reference") as caught:
        SchemaCost(schema)
    assert caught.value.unsupported


def test_identifiers_inside_each_other_are_limited() -> None:
    schema: dict[str, Any] = {}
    for level in range(20):
        schema = {"$id": f"https://example.com/{level}", "not": schema}
    with pytest.raises(SchemaError, match="identifiers around one position"):
        SchemaCost(schema)


def test_an_error_names_its_pointer() -> None:
    with pytest.raises(SchemaError) as caught:
        SchemaCost({"properties": {"a/b": {"items": [{}, {"$ref": "http://x"}]}}})
    assert caught.value.pointer == "#/properties/a~1b/items/1/$ref"


@pytest.mark.parametrize(
    ("pointer", "masked"),
    [
        ("#", "#"),
        ("its end", "its end"),
        ("#/properties/name", "#/properties/*"),
        ("#/properties/properties/properties/items", "#/properties/*/properties/*"),
        ("#/properties/0/prefixItems/0", "#/properties/*/prefixItems/0"),
        ("#/$defs/anna/allOf/1/$ref", "#/$defs/*/allOf/1/$ref"),
        ("#/patternProperties/^anna~1bert$/type", "#/patternProperties/*/*"),
        ("#/dependentSchemas/anna/not", "#/dependentSchemas/*/not"),
        ("#/anna", "#/*"),
    ],
)
def test_a_masked_pointer_keeps_keywords_and_indices_alone(pointer: str, masked: str) -> None:
    assert masked_pointer(pointer) == masked


def renamed(schema: Any) -> Any:
    """The same schema with a private name for every name in it."""
    if isinstance(schema, list):
        return [renamed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    named = {"properties", "patternProperties", "dependentSchemas", "$defs"}
    return {
        keyword: {f"secret{name}": renamed(each) for name, each in value.items()}
        if keyword in named and isinstance(value, dict)
        else [f"secret{name}" for name in value]
        if keyword == "required"
        else renamed(value)
        for keyword, value in schema.items()
    }


@pytest.mark.slow
@given(st.data())
def test_what_is_logged_of_an_invalid_value_holds_no_name(data: st.DataObject) -> None:
    schema = renamed(data.draw(schemas))
    value = data.draw(values)
    try:
        error = Schema(schema).validate(value, len(json.dumps(value)))
    except SchemaError:  # a pattern that is none, or a reference that leads nowhere now
        return
    if error is not None:
        assert "secret" not in error.log_detail
        assert error.detail.split(" at ")[0] == error.log_detail.split(" at ")[0]


@given(st.lists(st.one_of(st.text(), st.sampled_from(["properties", "items", "7", "$defs"])), max_size=6))
def test_a_mask_hides_every_name_whatever_it_is(names: list[str]) -> None:
    pointer = "#" + "".join(f"/properties/{escaped(name)}" for name in names)
    assert masked_pointer(pointer) == "#" + "/properties/*" * len(names)


def test_the_name_of_a_tool_is_not_logged() -> None:
    error = ValidationError(keyword="type", pointer="#/properties/x", byte=3, tool="ask_anna")
    assert error.detail == "type at tool ask_anna: #/properties/x, byte 3"
    assert error.log_detail == "type at tool *: #/properties/*, byte 3"
