"""Turns the keywords of one schema into a shape, each keyword on its own: everything but references and combinators."""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from diffusion_worker.constraints.schema.document import Conj, Document, Node
from diffusion_worker.constraints.schema.formats import FORMATS
from diffusion_worker.constraints.schema.keywords import refuse_unsupported
from diffusion_worker.constraints.schema.numbers import Bounds, Numbers
from diffusion_worker.constraints.schema.shapes import (
    TYPES,
    ItemLayer,
    Items,
    MemberLayer,
    Members,
    Shape,
    Text,
)
from diffusion_worker.errors import UnsupportedSchema

_NAMES: Final = {"integer": "number"}


def plain_shape(document: Document, node: Node) -> Shape:
    """The conjunction of the plain keywords of an object schema."""
    schema = node.schema
    assert not isinstance(schema, bool)
    refuse_unsupported(schema, node.pointer)
    types, integer = _types(schema, node.pointer)
    shape = Shape(
        types=types,
        numbers=_numbers(schema, integer),
        text=_text(node, schema),
        items=_items(document, node, schema),
        members=_members(document, node, schema),
        literals=_literals(schema),
        unchecked=_unchecked(schema, types),
    )
    return shape.reduced()


def _types(schema: Mapping[str, Any], pointer: str) -> tuple[frozenset[str], bool]:
    named = schema.get("type", [])
    names = [named] if isinstance(named, str) else list(named)
    if not all(isinstance(name, str) for name in names):
        raise UnsupportedSchema("a schema among the types (draft 3)", keyword="type", pointer=f"{pointer}/type")
    if "type" not in schema:
        return TYPES, False
    return frozenset(_NAMES.get(name, name) for name in names) & TYPES, "integer" in names and "number" not in names


def _numbers(schema: Mapping[str, Any], integer: bool) -> Numbers:
    multiples = (Decimal(str(schema["multipleOf"])),) if "multipleOf" in schema else ()
    return Numbers(integer=integer, bounds=_bounds(schema), multiples=multiples)


def _bounds(schema: Mapping[str, Any]) -> Bounds:
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum", False), schema.get("exclusiveMaximum", False)
    bounds = Bounds(low=_decimal(low), high=_decimal(high), above=above is True, below=below is True)
    if not isinstance(above, bool):
        bounds = bounds.and_(Bounds(low=_decimal(above), above=True))
    if not isinstance(below, bool):
        bounds = bounds.and_(Bounds(high=_decimal(below), below=True))
    return bounds


def _decimal(value: float | None) -> Decimal | None:
    return None if value is None else Decimal(str(value))


def _readable(pattern: str, keyword: str, pointer: str) -> str:
    """The pattern, if Python's `re` can compile it, which not every metaschema requires."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise UnsupportedSchema(f"not a valid regular expression: {error}", keyword=keyword, pointer=pointer) from None
    return pattern


def _text(node: Node, schema: Mapping[str, Any]) -> Text:
    return Text(
        low=_count(schema, "minLength") or 0,
        high=_count(schema, "maxLength"),
        patterns=(_readable(schema["pattern"], "pattern", f"{node.pointer}/pattern"),) if "pattern" in schema else (),
        formats=(schema["format"],) if schema.get("format") in FORMATS else (),
    )


def _items(document: Document, node: Node, schema: Mapping[str, Any]) -> Items:
    child = document.child
    items = schema.get("items")
    prefix: tuple[Conj, ...] = ()
    rest: Conj | None = None
    if isinstance(items, list):
        prefix = tuple((child(node, "items", index),) for index in range(len(items)))
        rest = (child(node, "additionalItems"),) if "additionalItems" in schema else None
    elif items is not None:
        rest = (child(node, "items"),)
    if isinstance(given := schema.get("prefixItems"), list) and not node.dialect.lists_items:
        prefix = tuple((child(node, "prefixItems", index),) for index in range(len(given)))
    least = _count(schema, "minContains", 1) if "contains" in schema else 0
    return Items(
        layers=(ItemLayer(prefix=prefix, rest=rest),) if prefix or rest is not None else (),
        low=max(_count(schema, "minItems") or 0, least or 0),
        high=_count(schema, "maxItems"),
    )


def _members(document: Document, node: Node, schema: Mapping[str, Any]) -> Members:
    child = document.child
    layer = MemberLayer(
        properties={name: (child(node, "properties", name),) for name in schema.get("properties", {})},
        patterns=tuple(
            (_readable(pattern, "patternProperties", node.pointer), (child(node, "patternProperties", pattern),))
            for pattern in schema.get("patternProperties", {})
        ),
        rest=(child(node, "additionalProperties"),) if "additionalProperties" in schema else None,
    )
    return Members(
        layers=(layer,) if layer.properties or layer.patterns or layer.rest is not None else (),
        required=_required(node, schema),
        low=_count(schema, "minProperties") or 0,
        high=_count(schema, "maxProperties"),
        names=(child(node, "propertyNames"),) if "propertyNames" in schema else (),
        closed=schema.get("unevaluatedProperties") is False,
    )


def _required(node: Node, schema: Mapping[str, Any]) -> tuple[str, ...]:
    required = schema.get("required", ())
    if isinstance(required, bool):
        raise UnsupportedSchema("a boolean (draft 3)", keyword="required", pointer=f"{node.pointer}/required")
    return tuple(required)


def _count(schema: Mapping[str, Any], keyword: str, default: int | None = None) -> int | None:
    value = schema.get(keyword, default)
    return None if value is None else int(value)


def _literals(schema: Mapping[str, Any]) -> tuple[Any, ...] | None:
    if "const" in schema:
        return (schema["const"],)
    return tuple(schema["enum"]) if "enum" in schema else None


def _unchecked(schema: Mapping[str, Any], types: frozenset[str]) -> frozenset[str]:
    """The keywords that only validation of the whole answer checks, if they matter for these types."""
    found = set()
    if "array" in types:
        if schema.get("uniqueItems") is True and (_count(schema, "maxItems", 2) or 0) > 1:
            found.add("uniqueItems")
        if "contains" in schema and schema.get("minContains") != 0:
            found.add("contains")
        found |= {"unevaluatedItems", "maxContains"} & set(schema)
    if "object" in types:
        found |= {"unevaluatedProperties"} & set(schema)
    return frozenset(found)
