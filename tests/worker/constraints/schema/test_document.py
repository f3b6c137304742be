"""References: to metaschemas, dynamic ones, and those in resources of another dialect."""

import json
from typing import Any

import pytest

from diffusion_worker.constraints.compile import compile_schema
from diffusion_worker.constraints.schema.normal_form import to_normal_form
from diffusion_worker.constraints.schema.validation import SchemaValidator
from diffusion_worker.errors import InvalidRequest, UnsupportedSchema

DRAFT_7 = "http://json-schema.org/draft-07/schema"
DRAFT_2019 = "https://json-schema.org/draft/2019-09/schema"
DRAFT_2020 = "https://json-schema.org/draft/2020-12/schema"


def _agree(schema: Any, good: list[Any], bad: list[Any]) -> None:
    """The automaton and jsonschema accept these values and reject those."""
    compiled, validator = compile_schema(schema), SchemaValidator(schema)

    def accepts(value: Any) -> bool:
        return compiled.automaton.accepts(json.dumps(to_normal_form(schema, value)).encode())

    for values, is_good in ((good, True), (bad, False)):
        assert [value for value in values if accepts(value) is not is_good] == []
        assert [value for value in values if (validator.violation(value) is None) is not is_good] == []


@pytest.mark.parametrize("dialect", [{}, {"$schema": f"{DRAFT_7}#"}, {"$schema": DRAFT_2019}])
def test_parts_of_a_metaschema_are_referred_to_from_any_dialect(dialect: dict[str, str]) -> None:
    """A metaschema is read by the rules of its own dialect, and its references have its own base."""
    schema = dialect | {
        "type": "object",
        "properties": {
            "count": {"$ref": f"{DRAFT_7}#/definitions/nonNegativeIntegerDefault0"},
            "kind": {"$ref": "https://json-schema.org/draft/2020-12/meta/validation#/$defs/simpleTypes"},
        },
        "additionalProperties": False,
    }
    _agree(schema, [{"count": 3, "kind": "array"}, {}], [{"count": -1}, {"count": 1.5}, {"kind": "list"}])


@pytest.mark.slow
@pytest.mark.parametrize("uri", ["http://json-schema.org/draft-04/schema#", DRAFT_2020])
def test_a_whole_metaschema_is_referred_to(uri: str) -> None:
    """Schemas inside it are cut in depth, because each has twenty places for others; 3 s each."""
    schema = {"type": "object", "properties": {"schema": {"$ref": uri}}, "additionalProperties": False}
    good = [{}, {"type": "string"}, {"properties": {}, "required": ["a"]}, {"pattern": "^a", "minimum": 1.5}]
    bad = [{"type": "text"}, {"properties": {"a": {"minimum": "x"}}}, {"allOf": []}, {"minLength": -1}]
    _agree(schema, [{"schema": value} for value in good], [{"schema": value} for value in bad])


DYNAMIC = {"$schema": DRAFT_2020, "$dynamicAnchor": "node", "type": "object", "additionalProperties": False}
RECURSIVE = {"$schema": DRAFT_2019, "$recursiveAnchor": True, "type": "object", "additionalProperties": False}


@pytest.mark.parametrize(
    "schema",
    [
        DYNAMIC | {"properties": {"next": {"$dynamicRef": "#node"}}},
        RECURSIVE | {"properties": {"next": {"$recursiveRef": "#"}}},
        # the outermost of two anchors is that of the root
        DYNAMIC
        | {
            "$id": "https://example.org/root",
            "properties": {"next": {"$ref": "inner#/$defs/again"}},
            "$defs": {
                "inner": {
                    "$id": "inner",
                    "$dynamicAnchor": "node",
                    "type": "null",
                    "$defs": {"again": {"$dynamicRef": "#node"}},
                }
            },
        },
        # without an anchor, a reference like any other
        {
            "$schema": DRAFT_2019,
            "type": "object",
            "properties": {"next": {"$recursiveRef": "#"}},
            "additionalProperties": False,
        },
    ],
)
def test_dynamic_references_with_one_target_are_followed(schema: dict[str, Any]) -> None:
    _agree(schema, [{}, {"next": {}}, {"next": {"next": {}}}], [{"next": None}, {"next": {"next": 1}}, {"other": {}}])


def test_dynamic_references_with_several_targets_are_refused_by_name() -> None:
    """Which of them is meant depends on where the reference is reached from."""
    lists = {"$id": "list", "$dynamicAnchor": "item", "type": "array", "items": {"$dynamicRef": "#item"}}
    names = {"$id": "names", "$dynamicAnchor": "item", "type": "string"}
    schema = {"$id": "https://example.org/root", "$ref": "list", "$defs": {"list": lists, "names": names}}
    with pytest.raises(UnsupportedSchema, match="depends on other references") as caught:
        compile_schema(schema)
    assert (caught.value.keyword, caught.value.pointer) == ("$dynamicRef", "/$defs/list/items/$dynamicRef")


def test_a_dynamic_reference_of_another_dialect_is_an_annotation() -> None:
    """jsonschema ignores it, as unknown keywords are."""
    _agree({"$schema": f"{DRAFT_7}#", "type": "null", "$dynamicRef": "#none"}, [None], [1])


def test_literals_are_judged_with_the_references_of_their_resource() -> None:
    """`#` means the resource that a reference stands in, also beside an `enum`."""
    inner = {
        "$id": "inner",
        "$ref": "#/$defs/a",
        "enum": [1, "a", 2],
        "$defs": {"a": {"type": "integer", "minimum": 2}},
    }
    schema = {"$id": "https://example.org/root", "$ref": "inner", "$defs": {"a": {"type": "string"}, "inner": inner}}
    _agree(schema, [2], [1, "a", 3])


def test_a_resource_may_have_a_dialect_of_its_own() -> None:
    """Siblings of `$ref` are ignored up to draft 7 only."""
    old = {
        "$id": "https://example.org/old",
        "$schema": f"{DRAFT_7}#",
        "properties": {"a": {"$ref": "#/definitions/a", "type": "null"}},
        "definitions": {"a": {"type": "integer"}},
    }
    schema = {"$schema": DRAFT_2020, "type": "object", "$ref": old["$id"], "$defs": {"old": old}}
    _agree(schema, [{"a": 1}, {}], [{"a": None}, {"a": "a"}])


@pytest.mark.parametrize("token", ["-1", "+0", "00", "0x0", "", " 0", "2"])
def test_an_index_in_a_pointer_is_written_as_the_rfc_says(token: str) -> None:
    schema = {"$ref": f"#/allOf/{token}", "allOf": [{"type": "object"}, {}]}
    with pytest.raises(UnsupportedSchema, match="does not resolve"):
        compile_schema(schema)


@pytest.mark.parametrize("keyword", ["$id", "$ref"])
def test_an_identifier_that_is_no_uri_is_named(keyword: str) -> None:
    schema = {"$id": "https://example.com/", "properties": {"a": {keyword: "http://[/"}}}
    with pytest.raises(InvalidRequest, match="not a URI reference") as caught:
        compile_schema(schema)
    assert "/properties/a" in str(caught.value)
