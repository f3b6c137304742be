"""Enumerates the answers that a constraint accepts, if they are few and written out: the labels of a classification.

A choice lists them. A schema does if it consists of `enum`, `const`, booleans and null, unions of them, and closed
objects with only required members of such schemas (annotations aside). Any other keyword makes the answers not finite.
"""

import itertools
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from diffusion_worker.constraints.schema.document import canonical
from diffusion_worker.constraints.spec import Constraint

MAX_LABELS: Final = 256  # labels
_MAX_DEPTH: Final = 16  # nested references
_MAX_SCHEMAS: Final = 4096  # visited
_ANNOTATIONS: Final = {"title", "description", "default", "examples", "$schema", "$defs", "definitions", "$comment"}
_REFERENCES: Final = ("#/$defs/", "#/definitions/")
_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
    "array": (list,),
    "object": (dict,),
}


class _NotFinite(Exception):  # noqa: N818 - a finding
    """The values are not few or not enumerable."""


def label_texts(constraint: Constraint) -> tuple[tuple[str, ...], ...] | None:
    """The equivalent texts of each label: a JSON value in compact form and in Python's default layout. None: not few
    answers."""
    if constraint.kind == "choice":
        choices = tuple((choice,) for choice in dict.fromkeys(constraint.value))
        return choices if len(choices) <= MAX_LABELS else None
    if constraint.kind != "json_schema":
        return None
    try:
        values = _distinct(_Enumerator(constraint.value).values(constraint.value))
    except _NotFinite:
        return None
    return tuple(map(_json_texts, values)) or None


def _json_texts(value: Any) -> tuple[str, ...]:
    texts = (json.dumps(value, ensure_ascii=False, separators=between) for between in ((",", ":"), (", ", ": ")))
    return tuple(dict.fromkeys(texts))


def _distinct(values: Iterator[Any]) -> list[Any]:
    found: dict[str, Any] = {}
    for seen, value in enumerate(values):
        found.setdefault(canonical(value), value)
        if len(found) > MAX_LABELS or seen > _MAX_SCHEMAS:
            raise _NotFinite
    return list(found.values())


class _Enumerator:
    """Enumerates the values of one document in a bounded number of visits, because references may multiply them without
    limit."""

    def __init__(self, root: Any) -> None:
        self._root, self._looks = root, 0

    def values(self, schema: Any, depth: int = _MAX_DEPTH) -> Iterator[Any]:
        """Every value of a schema, some perhaps twice."""
        self._looks += 1
        if not isinstance(schema, Mapping) or not depth or self._looks > _MAX_SCHEMAS:
            raise _NotFinite
        keywords = set(schema) - _ANNOTATIONS
        types = _types_of(schema)
        if keywords in ({"enum"}, {"enum", "type"}):
            yield from (value for value in schema["enum"] if _is_any(value, types))
        elif keywords in ({"const"}, {"const", "type"}):
            yield from (value for value in (schema["const"],) if _is_any(value, types))
        elif keywords == {"type"} and set(types or ()) <= {"boolean", "null"}:
            yield from (value for value in (True, False, None) if _is_any(value, types))
        elif keywords == {"anyOf"}:
            for part in schema["anyOf"]:
                yield from self.values(part, depth - 1)
        elif keywords == {"$ref"}:
            yield from self.values(self._referred(schema["$ref"]), depth - 1)
        elif keywords == {"type", "properties", "required", "additionalProperties"} and _is_closed(schema):
            yield from self._objects(schema["properties"], depth - 1)
        else:
            raise _NotFinite

    def _objects(self, members: Mapping[str, Any], depth: int) -> Iterator[Any]:
        given = [_distinct(self.values(member, depth)) for member in members.values()]
        for values in itertools.product(*given):
            yield dict(zip(members, values, strict=True))

    def _referred(self, reference: str) -> Any:
        """Resolve references into `$defs` or `definitions`, where pydantic puts them; no others."""
        for prefix in _REFERENCES:
            name, place = reference.removeprefix(prefix), self._root.get(prefix[2:-1])
            if name != reference and isinstance(place, Mapping) and name in place:
                return place[name]
        raise _NotFinite


def _is_closed(schema: Mapping[str, Any]) -> bool:
    is_whole = set(schema["required"]) == set(schema["properties"])
    return schema["type"] == "object" and is_whole and schema["additionalProperties"] is False


def _types_of(schema: Mapping[str, Any]) -> list[str] | None:
    types = schema.get("type")
    return [types] if isinstance(types, str) else types


def _is_any(value: Any, types: list[str] | None) -> bool:
    return types is None or any(_is(value, name) for name in types)


def _is(value: Any, name: str) -> bool:
    """The JSON Schema type of a value: true is not a number, 1.0 is an integer."""
    if isinstance(value, bool):
        return name == "boolean"
    if name == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES[name])
