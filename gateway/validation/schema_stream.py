"""Follows a JSON text through a schema while it comes, and names the first place that nothing to come can mend.

Knows the outline of a schema (see `schema_outline`) and the grammar (see `json_prefix`). A fault here is sure; none
here is not yet a verdict. An object that names a key twice is held to what it said first.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

import orjson

from gateway.validation.json_prefix import JsonPrefix
from gateway.validation.schema_cost import escaped
from gateway.validation.schema_outline import Breach, Outline, Part, Parts

MOST_READERS: Final = 32  # alternatives that are followed at once; further ones are left to the verdict on the whole


class SchemaFollower(JsonPrefix):
    """`feed` text as to a JsonPrefix; after a fault, `breach` says which keyword, or None if the text is no JSON."""

    def __init__(self, outline: Outline) -> None:
        super().__init__()
        self.breach: Breach | None = None
        self._reader = _Reader(outline, outline.root, _Room())

    def _begins(self, char: str, at: int) -> bool:
        return self._holds(self._reader.begins(char), at)

    def _named(self, raw: str, at: int) -> bool:
        return self._holds(self._reader.named(_parsed(raw)), at)

    def _said(self, raw: str, at: int) -> bool:
        return self._holds(self._reader.said(_parsed(raw)), at)

    def _closed(self, at: int) -> bool:
        return self._holds(self._reader.closed(), at)

    def _holds(self, breach: Breach | None, at: int) -> bool:
        if breach is None:
            return True
        self.breach = breach
        self.fault_at = at
        return False


@dataclass(slots=True)
class _Room:
    """How many more alternatives may be followed; unbounded, those of a recursive schema double at every level."""

    left: int = MOST_READERS


@dataclass(slots=True)
class _Open:
    """An array or object that has begun. `next` is what the value that comes next must satisfy."""

    parts: Parts
    is_object: bool
    next: Parts = ()
    names: set[str] = field(default_factory=set)
    items: int = 0


@dataclass(slots=True)
class _Fork:
    """Several schemas of which a value must satisfy one (`anyOf`, `oneOf`), and those that it still can."""

    breach: Breach  # if none is left
    depth: int  # of the value that they speak of
    readers: "list[_Reader]"


class _Reader:
    """What one schema says of one value, event by event: each returns the Breach that is sure by then, or None."""

    def __init__(self, outline: Outline, root: Parts | Breach, room: _Room) -> None:
        self._outline = outline
        self._root = root
        self._room = room
        self._stack: list[_Open] = []
        self._value: Parts = ()  # of the value that began last
        self._forks: list[_Fork] = []

    def begins(self, char: str) -> Breach | None:
        """A value begins with this character."""
        expected = self._expected()
        if isinstance(expected, Breach):
            return expected
        for part in expected:
            if part.beginnings is not None and char not in part.beginnings:
                return Breach("type", part.place)
            if part.forks:
                self._forks += self._forked(part)
        self._value = expected
        breach = self._ask_forks(lambda reader: reader.begins(char)) if self._forks else None
        if char in "[{":
            self._stack.append(_Open(expected, char == "{"))
        return breach

    def named(self, name: object) -> Breach | None:
        """A member's name was read."""
        inside = self._stack[-1]
        if inside.parts and isinstance(name, str):
            inside.names.add(name)
            expected = _too_many(inside) or self._outline.member(inside.parts, name)
            if isinstance(expected, Breach):
                return expected
            inside.next = expected
        return self._ask_forks(lambda reader: reader.named(name)) if self._forks else None

    def said(self, value: object) -> Breach | None:
        """The value that began last is this scalar."""
        if value is not _UNREADABLE:
            for part in self._value:
                if part.scalar is not None and (breach := _breach_of(part, value)) is not None:
                    return breach
        return self._ended(lambda reader: reader.said(value)) if self._forks else None

    def closed(self) -> Breach | None:
        """The innermost array or object ended."""
        inside = self._stack.pop()
        for part in inside.parts:
            breach = _missing(part, inside.names) if inside.is_object else _too_few(part, inside.items)
            if breach is not None:
                return breach
        return self._ended(lambda reader: reader.closed()) if self._forks else None

    def leave(self) -> None:
        """It is not asked any more: make room for others."""
        self._room.left += 1
        for fork in self._forks:
            for reader in fork.readers:
                reader.leave()

    def _expected(self) -> Parts | Breach:
        if not self._stack:
            return self._root
        inside = self._stack[-1]
        if inside.is_object:
            return inside.next
        inside.items += 1
        return self._outline.item(inside.parts, inside.items - 1) if inside.parts else ()

    def _forked(self, part: Part) -> Iterator[_Fork]:
        """The alternatives of a value that begins, as far as there is room to follow all of them."""
        for keyword in part.forks:
            branches = self._outline.branches(part, keyword)
            if not branches or len(branches) > self._room.left:
                continue
            self._room.left -= len(branches)
            readers = [_Reader(self._outline, branch, self._room) for branch in branches]
            yield _Fork(Breach(keyword, part.place), len(self._stack), readers)

    def _ask_forks(self, ask: "Callable[[_Reader], Breach | None]") -> Breach | None:
        """Whom an event rules out is asked no more; nothing can mend a fork that rules out all."""
        for fork in self._forks:
            alive = []
            for reader in fork.readers:
                if ask(reader) is None:
                    alive.append(reader)
                else:
                    reader.leave()
            fork.readers = alive
            if not alive:
                return fork.breach
        return None

    def _ended(self, ask: "Callable[[_Reader], Breach | None]") -> Breach | None:
        """A value ended, and with it the forks that speak of it."""
        breach = self._ask_forks(ask)
        while self._forks and self._forks[-1].depth >= len(self._stack):
            for reader in self._forks.pop().readers:
                reader.leave()
        return breach


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
