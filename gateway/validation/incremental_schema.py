"""Incremental view of a JSON Schema: the keywords that can be checked while a value is still arriving.

These are *necessary* conditions: a value that violates them is invalid, and one that satisfies them must still be
validated when it is complete. One of its alternatives (`anyOf`, `oneOf`) must remain possible. Not covered: `not`,
`if` and all other keywords that need the complete value, and references into schemas with their own base URI.
"""

from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

import jsonschema_rs

from gateway.validation.schema_cost import escaped
from twolane.process import exact_json

MAX_SUBSCHEMAS: Final = 32  # subschemas that apply to one value at once; further ones are ignored
# Drafts in which `$ref` disables its siblings, and `items` may be a list.
_OLD_DRAFTS: Final = ("draft-03", "draft-04", "draft-06", "draft-07")
_LISTED_ITEMS: Final = (*_OLD_DRAFTS, "2019-09")
# Keywords checked on scalars. `minimum` and `exclusiveMinimum` belong together in draft 4.
_SCALAR_KEYWORDS: Final = frozenset(
    "type enum const minimum maximum exclusiveMinimum exclusiveMaximum multipleOf minLength maxLength pattern".split()
)
_ALTERNATIVES: Final = ("anyOf", "oneOf")
_FIRST_CHARS: Final = {
    "object": "{",
    "array": "[",
    "string": '"',
    "number": "-0123456789",
    "integer": "-0123456789",
    "boolean": "tf",
    "null": "n",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Subschema:
    """A subschema, at `pointer`, that a value must satisfy. `first_chars` None allows any character. `longest`: the
    keyword that limits the length of its strings, and the limit in code points.

    `alternatives` are its keywords that list alternatives (`anyOf`, `oneOf`).
    """

    schema: dict[str, Any]
    pointer: str
    first_chars: frozenset[str] | None
    scalar: jsonschema_rs.Validator | None  # checks _SCALAR_KEYWORDS
    alternatives: tuple[str, ...] = ()
    longest: tuple[str, int] | None = None


class Violation(NamedTuple):
    """A violated keyword, and the pointer to its subschema."""

    keyword: str
    pointer: str


Subschemas = tuple[Subschema, ...]


class IncrementalSchema:
    """The incremental view of one schema; subschemas are prepared on first use."""

    def __init__(self, schema: Any, options: jsonschema_rs.FancyRegexOptions) -> None:
        self._root = schema
        self._options = options
        draft = schema.get("$schema", "") if isinstance(schema, dict) else ""
        self._draft = draft if isinstance(draft, str) else ""
        self._ref_hides = any(name in self._draft for name in _OLD_DRAFTS)
        self._items_listed = any(name in self._draft for name in _LISTED_ITEMS)
        self._known: dict[int, Subschemas | Violation] = {}
        self._branches: dict[tuple[int, str], tuple[Subschemas | Violation, ...]] = {}

    @property
    def root(self) -> Subschemas | Violation:
        """The subschemas of the whole value."""
        return self._of(self._root, "#")

    def member(self, subschemas: Subschemas, name: str) -> Subschemas | Violation:
        """The subschemas of the member with this name; a Violation if the member is not allowed."""
        found: list[Subschema] = []
        for subschema in subschemas:
            properties = subschema.schema.get("properties")
            if isinstance(properties, dict) and name in properties:
                more = self._of(properties[name], f"{subschema.pointer}/properties/{escaped(name)}")
            elif "additionalProperties" in subschema.schema and not subschema.schema.get("patternProperties"):
                if subschema.schema["additionalProperties"] is False:
                    return Violation("additionalProperties", subschema.pointer)
                more = self._of(subschema.schema["additionalProperties"], f"{subschema.pointer}/additionalProperties")
            else:
                continue
            if isinstance(more, Violation):
                return more
            found += more
        return tuple(found[:MAX_SUBSCHEMAS])

    def item(self, subschemas: Subschemas, index: int) -> Subschemas | Violation:
        """The subschemas of the item at this index; a Violation if the item is not allowed."""
        found: list[Subschema] = []
        for subschema in subschemas:
            limit = subschema.schema.get("maxItems")
            if isinstance(limit, int | float) and index >= limit:
                return Violation("maxItems", subschema.pointer)
            more = self._item(subschema, index)
            if isinstance(more, Violation):
                return more
            found += more
        return tuple(found[:MAX_SUBSCHEMAS])

    def branches(self, subschema: Subschema, keyword: str) -> tuple[Subschemas | Violation, ...]:
        """The alternatives under a keyword of a subschema; empty if one of them is known to accept anything."""
        key = id(subschema.schema), keyword
        known = self._branches.get(key)
        if known is None:
            listed = enumerate(subschema.schema[keyword])
            found = tuple(self._of(each, f"{subschema.pointer}/{keyword}/{number}") for number, each in listed)
            known = self._branches[key] = found if all(found) else ()
        return known

    def _item(self, subschema: Subschema, index: int) -> Subschemas | Violation:
        listed, rest = ("items", "additionalItems") if self._items_listed else ("prefixItems", "items")
        schemas = subschema.schema.get(listed)
        if isinstance(schemas, list) and index < len(schemas):
            return self._of(schemas[index], f"{subschema.pointer}/{listed}/{index}")
        if self._items_listed and not isinstance(schemas, list):
            rest = "items"
        if rest not in subschema.schema:
            return ()
        if subschema.schema[rest] is False:
            return Violation(rest, subschema.pointer)
        return self._of(subschema.schema[rest], f"{subschema.pointer}/{rest}")

    def _of(self, schema: Any, pointer: str) -> Subschemas | Violation:
        """Everything that applies in place: the schema itself, the target of its `$ref`, and all of `allOf`."""
        known = self._known.get(id(schema))
        if known is None:
            known = self._collect(schema, pointer)
            if isinstance(schema, dict):  # lives as long as the root, so that its id() is stable
                self._known[id(schema)] = known
        return known

    def _collect(self, schema: Any, pointer: str) -> Subschemas | Violation:
        found: list[Subschema] = []
        waiting, seen = [(schema, pointer)], set()
        for node, at in waiting:  # grows during iteration
            if len(found) == MAX_SUBSCHEMAS:
                break
            if node is False:
                return Violation("falseSchema", at)
            if not isinstance(node, dict) or id(node) in seen or (node is not self._root and _has_base(node)):
                continue
            seen.add(id(node))
            reference = node.get("$ref")
            if isinstance(reference, str):
                target = self._target(reference)
                waiting += [(target, reference)] if target is not None else []
                if self._ref_hides:
                    continue
            every = node.get("allOf")
            if isinstance(every, list):
                waiting += [(one, f"{at}/allOf/{number}") for number, one in enumerate(every)]
            found.append(self._part(node, at))
        return tuple(found)

    def _target(self, reference: str) -> Any:
        if reference != "#" and not reference.startswith("#/"):
            return None
        node = self._root
        for token in exact_json.pointer_tokens(unquote(reference[1:])):
            try:
                node = exact_json.pointer_step(node, token)
            except KeyError:
                return None
            if _has_base(node):
                return None
        return node

    def _part(self, node: dict[str, Any], pointer: str) -> Subschema:
        keywords = {key: value for key, value in node.items() if key in _SCALAR_KEYWORDS}
        alternatives = tuple(keyword for keyword in _ALTERNATIVES if isinstance(node.get(keyword), list))
        return Subschema(
            schema=node,
            pointer=pointer,
            first_chars=_first_chars(node),
            scalar=self._scalar(keywords),
            alternatives=alternatives,
            longest=_longest(node),
        )

    def _scalar(self, keywords: dict[str, Any]) -> jsonschema_rs.Validator | None:
        if not keywords:
            return None
        if self._draft:
            keywords["$schema"] = self._draft
        try:
            return jsonschema_rs.validator_for(
                keywords, validate_formats=False, pattern_options=self._options, offline=True
            )
        except (jsonschema_rs.ValidationError, ValueError):  # a reference may lead to something that is not a schema
            return None


def _first_chars(node: dict[str, Any]) -> frozenset[str] | None:
    types = node.get("type")
    names = [types] if isinstance(types, str) else types
    if not isinstance(names, list) or not all(isinstance(name, str) and name in _FIRST_CHARS for name in names):
        return None
    return frozenset("".join(_FIRST_CHARS[name] for name in names))


def _longest(node: dict[str, Any]) -> tuple[str, int] | None:
    """The keyword that limits the length of strings most, and the limit; None without one."""
    limit, listed = node.get("maxLength"), node.get("enum")
    limits = [("maxLength", int(limit))] if isinstance(limit, int | float) else []
    if isinstance(listed, list):
        limits.append(("enum", max((len(value) for value in listed if isinstance(value, str)), default=0)))
    if isinstance(node.get("const"), str):
        limits.append(("const", len(node["const"])))
    return min(limits, key=lambda each: each[1], default=None)


def _has_base(node: Any) -> bool:
    """Whether the node has its own base URI, so that references inside it resolve differently."""
    return isinstance(node, dict) and any(isinstance(node.get(key), str) for key in ("$id", "id"))
