"""What a JSON Schema says that can be seen while a value is still coming: an outline of it, never more than it says.

Knows schemas, not texts. Everything here is a *necessary* condition: what breaks the outline breaks the schema, and
what keeps it must still be judged by `validate`. Of alternatives (`anyOf`, `oneOf`) it knows that one must be kept.
Left out are `not` and `if`, which only a whole value decides, all else that needs one, and references into schemas that
have a base of their own.
"""

from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

import jsonschema_rs

from gateway.validation.schema_cost import escaped

MOST_PARTS: Final = 32  # schemas that apply to one value at once; further ones are left out
# Whose `$ref` hides everything beside it, and whose `items` may be a list.
_OLD_DRAFTS: Final = ("draft-03", "draft-04", "draft-06", "draft-07")
_LISTED_ITEMS: Final = (*_OLD_DRAFTS, "2019-09")
# What a scalar can be asked at once. `minimum` and `exclusiveMinimum` belong together in draft 4.
_OF_SCALARS: Final = frozenset(
    "type enum const minimum maximum exclusiveMinimum exclusiveMaximum multipleOf minLength maxLength pattern".split()
)
_FORKS: Final = ("anyOf", "oneOf")
_BEGINNINGS: Final = {
    "object": "{",
    "array": "[",
    "string": '"',
    "number": "-0123456789",
    "integer": "-0123456789",
    "boolean": "tf",
    "null": "n",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One schema, at `place` (a JSON pointer), that a value must satisfy. `beginnings` None: any character.

    `forks` are the keywords that list alternatives.
    """

    schema: dict[str, Any]
    place: str
    beginnings: frozenset[str] | None
    scalar: jsonschema_rs.Validator | None  # asks the keywords of _OF_SCALARS
    forks: tuple[str, ...] = ()


class Breach(NamedTuple):
    """A keyword that is broken, and its place in the schema."""

    keyword: str
    place: str


Parts = tuple[Part, ...]


class Outline:
    """Of one schema, made as it is needed: most answers touch little of it."""

    def __init__(self, schema: Any, options: jsonschema_rs.FancyRegexOptions) -> None:
        self._root = schema
        self._options = options
        draft = schema.get("$schema", "") if isinstance(schema, dict) else ""
        self._draft = draft if isinstance(draft, str) else ""
        self._ref_hides = any(name in self._draft for name in _OLD_DRAFTS)
        self._items_listed = any(name in self._draft for name in _LISTED_ITEMS)
        self._known: dict[int, Parts | Breach] = {}
        self._branches: dict[tuple[int, str], tuple[Parts | Breach, ...]] = {}

    @property
    def root(self) -> Parts | Breach:
        """What the whole value must satisfy."""
        return self._of(self._root, "#")

    def member(self, parts: Parts, name: str) -> Parts | Breach:
        """What the value under this name must satisfy; a Breach if there must not be one."""
        found: list[Part] = []
        for part in parts:
            described = part.schema.get("properties")
            if isinstance(described, dict) and name in described:
                more = self._of(described[name], f"{part.place}/properties/{escaped(name)}")
            elif "additionalProperties" in part.schema and not part.schema.get("patternProperties"):
                if part.schema["additionalProperties"] is False:
                    return Breach("additionalProperties", part.place)
                more = self._of(part.schema["additionalProperties"], f"{part.place}/additionalProperties")
            else:
                continue
            if isinstance(more, Breach):
                return more
            found += more
        return tuple(found[:MOST_PARTS])

    def item(self, parts: Parts, index: int) -> Parts | Breach:
        """What the item at this index must satisfy; a Breach if there must not be one."""
        found: list[Part] = []
        for part in parts:
            most = part.schema.get("maxItems")
            if isinstance(most, int | float) and index >= most:
                return Breach("maxItems", part.place)
            more = self._item(part, index)
            if isinstance(more, Breach):
                return more
            found += more
        return tuple(found[:MOST_PARTS])

    def branches(self, part: Part, keyword: str) -> tuple[Parts | Breach, ...]:
        """The alternatives that a part lists under this keyword; none, if one of them is known to allow anything."""
        key = id(part.schema), keyword
        known = self._branches.get(key)
        if known is None:
            listed = enumerate(part.schema[keyword])
            found = tuple(self._of(each, f"{part.place}/{keyword}/{number}") for number, each in listed)
            known = self._branches[key] = found if all(found) else ()
        return known

    def _item(self, part: Part, index: int) -> Parts | Breach:
        listed, rest = ("items", "additionalItems") if self._items_listed else ("prefixItems", "items")
        schemas = part.schema.get(listed)
        if isinstance(schemas, list) and index < len(schemas):
            return self._of(schemas[index], f"{part.place}/{listed}/{index}")
        if self._items_listed and not isinstance(schemas, list):
            rest = "items"
        if rest not in part.schema:
            return ()
        if part.schema[rest] is False:
            return Breach(rest, part.place)
        return self._of(part.schema[rest], f"{part.place}/{rest}")

    def _of(self, schema: Any, place: str) -> Parts | Breach:
        """The schema itself, where its reference leads, and all of `allOf`: everything that must hold at once."""
        known = self._known.get(id(schema))
        if known is None:
            known = self._collect(schema, place)
            if isinstance(schema, dict):  # lives as long as the root; nothing else has an identity
                self._known[id(schema)] = known
        return known

    def _collect(self, schema: Any, place: str) -> Parts | Breach:
        found: list[Part] = []
        waiting, seen = [(schema, place)], set()
        for node, at in waiting:  # grows meanwhile
            if len(found) == MOST_PARTS:
                break
            if node is False:
                return Breach("falseSchema", at)
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
        for step in unquote(reference[2:]).split("/") if reference[2:] else ():
            name = step.replace("~1", "/").replace("~0", "~")
            try:
                node = node[int(name)] if isinstance(node, list) else node[name]
            except (KeyError, IndexError, ValueError, TypeError):
                return None
            if _has_base(node):
                return None
        return node

    def _part(self, node: dict[str, Any], place: str) -> Part:
        asked = {key: value for key, value in node.items() if key in _OF_SCALARS}
        forks = tuple(keyword for keyword in _FORKS if isinstance(node.get(keyword), list))
        return Part(schema=node, place=place, beginnings=_beginnings(node), scalar=self._scalar(asked), forks=forks)

    def _scalar(self, asked: dict[str, Any]) -> jsonschema_rs.Validator | None:
        if not asked:
            return None
        if self._draft:
            asked["$schema"] = self._draft
        try:
            return jsonschema_rs.validator_for(
                asked, validate_formats=False, pattern_options=self._options, offline=True
            )
        except (jsonschema_rs.ValidationError, ValueError):  # a reference may lead to what nobody took for a schema
            return None


def _beginnings(node: dict[str, Any]) -> frozenset[str] | None:
    types = node.get("type")
    names = [types] if isinstance(types, str) else types
    if not isinstance(names, list) or not all(isinstance(name, str) and name in _BEGINNINGS for name in names):
        return None
    return frozenset("".join(_BEGINNINGS[name] for name in names))


def _has_base(node: Any) -> bool:
    """Does it have a base of its own, so that references in it lead elsewhere?"""
    return isinstance(node, dict) and any(isinstance(node.get(key), str) for key in ("$id", "id"))
