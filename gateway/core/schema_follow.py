"""Follows a JSON text through a schema while it comes, and names the first place that nothing to come can mend.

Knows the outline of a schema (see `schema_outline`) and the grammar (see `json_prefix`). A fault here is sure; none
here is not yet a verdict. An object that names a key twice is held to what it said first.
"""

from dataclasses import dataclass, field

import orjson

from gateway.core.json_prefix import JsonPrefix
from gateway.core.schema_cost import escaped
from gateway.core.schema_outline import Breach, Outline, Part, Parts


@dataclass(slots=True)
class _Open:
    """An array or object that has begun. `next` is what the value that comes next must satisfy."""

    parts: Parts
    is_object: bool
    next: Parts = ()
    names: set[str] = field(default_factory=set)
    items: int = 0


class SchemaFollower(JsonPrefix):
    """`feed` text as to a JsonPrefix; after a fault, `breach` says which keyword, or None if the text is no JSON."""

    def __init__(self, outline: Outline) -> None:
        super().__init__()
        self.breach: Breach | None = None
        self._outline = outline
        self._stack: list[_Open] = []
        self._value: Parts = ()  # of the value that began last

    def _begins(self, char: str, at: int) -> bool:
        expected = self._expected()
        if isinstance(expected, Breach):
            return self._broken(expected, at)
        for part in expected:
            if part.beginnings is not None and char not in part.beginnings:
                return self._broken(Breach("type", part.place), at)
        self._value = expected
        if char in "[{":
            self._stack.append(_Open(expected, char == "{"))
        return True

    def _expected(self) -> Parts | Breach:
        if not self._stack:
            return self._outline.root
        inside = self._stack[-1]
        if inside.is_object:
            return inside.next
        inside.items += 1
        return self._outline.item(inside.parts, inside.items - 1) if inside.parts else ()

    def _named(self, raw: str, at: int) -> bool:
        inside = self._stack[-1]
        if not inside.parts:
            return True
        name = _parsed(raw)
        if not isinstance(name, str):
            return True
        inside.names.add(name)
        expected = _too_many(inside) or self._outline.member(inside.parts, name)
        if isinstance(expected, Breach):
            return self._broken(expected, at)
        inside.next = expected
        return True

    def _said(self, raw: str, at: int) -> bool:
        asked = [part for part in self._value if part.scalar is not None]
        if not asked:
            return True
        value = _parsed(raw)
        if value is _UNREADABLE:
            return True
        for part in asked:
            breach = _breach_of(part, value)
            if breach is not None:
                return self._broken(breach, at)
        return True

    def _closed(self, at: int) -> bool:
        inside = self._stack.pop()
        for part in inside.parts:
            breach = _missing(part, inside.names) if inside.is_object else _too_few(part, inside.items)
            if breach is not None:
                return self._broken(breach, at)
        return True

    def _broken(self, breach: Breach, at: int) -> bool:
        self.breach = breach
        self.fault_at = at
        return False


_UNREADABLE = object()


def _parsed(raw: str) -> object:
    """What the whole text's parser will make of it; what it cannot represent is its to refuse."""
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return _UNREADABLE


def _breach_of(part: Part, value: object) -> Breach | None:
    assert part.scalar is not None
    if part.scalar.is_valid(value):
        return None
    return Breach(next(iter(part.scalar.iter_errors(value))).kind.name, part.place)


def _missing(part: Part, names: set[str]) -> Breach | None:
    """`required` as the verdict on the whole tells it: at the missing property, where it is described."""
    required = part.schema.get("required")
    for name in required if isinstance(required, list) else ():
        if isinstance(name, str) and name not in names:
            described = part.schema.get("properties")
            is_described = isinstance(described, dict) and name in described
            return Breach("required", f"{part.place}/properties/{escaped(name)}" if is_described else part.place)
    least = part.schema.get("minProperties")
    if isinstance(least, int | float) and len(names) < least:
        return Breach("minProperties", part.place)
    return None


def _too_many(inside: _Open) -> Breach | None:
    for part in inside.parts:
        most = part.schema.get("maxProperties")
        if isinstance(most, int | float) and len(inside.names) > most:
            return Breach("maxProperties", part.place)
    return None


def _too_few(part: Part, items: int) -> Breach | None:
    least = part.schema.get("minItems")
    return Breach("minItems", part.place) if isinstance(least, int | float) and items < least else None
