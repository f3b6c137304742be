"""Typed access to a YAML mapping, key by key: every error carries line, column and the nearest valid key.

Depends on YAML and positions only, not on the policy language.
"""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from enum import StrEnum
from typing import Any, Final, Protocol, TypeVar

from gateway.errors import PolicyError

Member = TypeVar("Member", bound=StrEnum)

REQUIRED: Final = object()
_ABSENT: Final = object()


class SchemaVisitor(Protocol):
    """Receives every key that the readers read; `schema` builds the JSON Schema from it."""

    def key(self, path: str, key: str, takes: dict[str, Any], *, required: bool) -> None:
        """The JSON Schema `takes` describes the values of `key` in the section at `path`."""
        ...


class Section:
    """One mapping of the file. `close` refuses every key that was not read."""

    def __init__(self, node: Any, *, file: str, path: str = "", visitor: SchemaVisitor | None = None) -> None:
        self.node = node
        self.file = file
        self.path = path
        self._visitor = visitor
        self._known: list[str] = []

    def error(self, cause: str, key: str | None = None, item: int | None = None) -> PolicyError:
        """A PolicyError located at this section, one of its keys, or one item of a key's list. The caller raises it."""
        line, column = self._position(key, item)
        name = ".".join(part for part in (self.path, key) if part)
        return PolicyError(
            cause,
            file=self.file,
            line=line,
            column=column,
            key=f"{name}[{item}]" if item is not None else name,
        )

    def string(self, key: str, default: Any = REQUIRED) -> Any:
        """A non-empty string. Numbers and booleans are refused."""
        value = self._take(key, default, {"type": "string", "minLength": 1})
        if value is _ABSENT:
            return default
        if isinstance(value, str) and value:
            return str(value)
        raise self.error(f"expected a string, got {_type_name(value)}", key)

    def number(self, key: str, default: Any = REQUIRED, *, minimum: float, maximum: float) -> Any:
        """A number within [minimum, maximum]. A string that parses as a number is accepted: environment values are
        strings."""
        return self._number(key, default, minimum, maximum, "number")

    def _number(self, key: str, default: Any, minimum: float, maximum: float, kind: str) -> Any:
        value = self._take(key, default, {"type": kind, "minimum": minimum, "maximum": maximum})
        if value is _ABSENT:
            return default
        try:
            number = None if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):  # 0xfff... does not fit into a float
            number = None
        if number is None:
            raise self.error(f"expected a number, got {_type_name(value)}", key)
        if not minimum <= number <= maximum:
            allowed = _plain(minimum) if minimum == maximum else f"between {_plain(minimum)} and {_plain(maximum)}"
            raise self.error(f"must be {allowed}, got {_plain(number)}", key)
        return number

    def integer(self, key: str, default: Any = REQUIRED, *, minimum: int, maximum: int) -> Any:
        """An integer within [minimum, maximum]."""
        number = self._number(key, default, minimum, maximum, "integer")
        if not self.has(key):
            return default
        if number != int(number):
            raise self.error(f"expected a whole number, got {number:g}", key)
        return int(number)

    def boolean(self, key: str, default: Any = REQUIRED) -> Any:
        """True or false."""
        value = self._take(key, default, {"type": "boolean"})
        if value is _ABSENT:
            return default
        if isinstance(value, bool):
            return value
        raise self.error(f"expected true or false, got {_type_name(value)}", key)

    def choice(self, key: str, allowed: type[Member], default: Any = REQUIRED) -> Any:
        """One member of an enum."""
        value = self._take(key, default, {"enum": [*allowed]})
        if value is _ABSENT:
            return default
        if not isinstance(value, str) or not value:
            raise self.error(f"expected a string, got {_type_name(value)}", key)
        return self._member(value, allowed, key, None)

    def choices(self, key: str, allowed: type[Member], default: Any = REQUIRED) -> Any:
        """One member of an enum or a list of them."""
        values = self._strings(key, default, {"enum": [*allowed]})
        if not self.has(key):
            return default
        item = None if isinstance(self.node[key], str) else 0
        return tuple(
            self._member(value, allowed, key, item if item is None else number) for number, value in enumerate(values)
        )

    def strings(self, key: str, default: Any = REQUIRED) -> Any:
        """One string or a list of strings, as a tuple; duplicates are refused."""
        return self._strings(key, default, {"type": "string", "minLength": 1})

    def _strings(self, key: str, default: Any, each: dict[str, Any]) -> Any:
        several = {"type": "array", "items": each, "uniqueItems": True}
        value = self._take(key, default, {"anyOf": [each, several]})
        if value is _ABSENT:
            return default
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list):
            raise self.error(f"expected a string or a list of strings, got {_type_name(value)}", key)
        for number, name in enumerate(values):
            if not isinstance(name, str) or not name:
                raise self.error(f"expected a string, got {_type_name(name)}", key, number)
            if name in values[:number]:
                raise self.error(f"duplicate value {name!r}", key, number)
        return tuple(map(str, values))

    def section(self, key: str) -> "Section | None":
        """The mapping under a key, or None if the key is absent."""
        value = self._take(key, None, {"type": "object"})
        return None if value is _ABSENT else self.child(value, key)

    def child(self, value: Any, key: str, item: int | None = None) -> "Section":
        """`value`, found under a key (or as an item of its list), as a section of its own."""
        if not isinstance(value, dict):
            raise self.error(f"expected a mapping, got {_type_name(value)}", key, item)
        name = ".".join(part for part in (self.path, key) if part)
        path = f"{name}[{item}]" if item is not None else name
        return Section(value, file=self.file, path=path, visitor=self._visitor)

    def sections(self, key: str, default: Any = REQUIRED) -> "Sequence[Section]":
        """The mappings of a non-empty list."""
        value = self._take(key, default, {"type": "array", "items": {"type": "object"}, "minItems": 1})
        if value is _ABSENT:
            return ()
        if not isinstance(value, list) or not value:
            raise self.error(f"expected a list of mappings, got {_type_name(value)}", key)
        return [self.child(item, key, number) for number, item in enumerate(value)]

    def has(self, key: str) -> bool:
        """Whether the key is present."""
        return key in self.node

    def reject_unsupported(self, keys: Mapping[str, str]) -> None:
        """Refuse keys that the language reserves; `keys` maps each to the feature that is missing."""
        for key, meaning in keys.items():
            if self.has(key):
                raise self.error(f"{meaning} is not supported in this version", key)

    def reject_renamed(self, keys: Mapping[str, str]) -> None:
        """Refuse retired keys; `keys` maps each to what replaces it (see `renamed_keys`)."""
        for key, replacement in keys.items():
            if self.has(key):
                raise self.error(f"this key was renamed: use {replacement}", key)

    def close(self) -> None:
        """Refuse the keys that were not read."""
        for key in self.node:
            if key not in self._known:
                raise self.error(f"unknown key{suggestion(str(key), self._known)}", str(key))

    def _take(self, key: str, default: Any, takes: dict[str, Any]) -> Any:
        self._known.append(key)
        if self._visitor is not None:
            self._visitor.key(self.path, key, takes, required=default is REQUIRED)
        if key in self.node:
            return self.node[key]
        if default is REQUIRED:
            near = get_close_matches(key, [str(known) for known in self.node if known not in self._known], n=1)
            raise self.error(
                f"required key {key!r} is missing" + (f"; is {near[0]!r} a misspelling of it?" if near else "")
            )
        return _ABSENT

    def _member(self, value: str, allowed: type[Member], key: str, item: int | None) -> Member:
        if value in [*allowed]:
            return allowed(value)
        raise self.error(f"unknown value {value!r}{suggestion(value, list(allowed), list_all=True)}", key, item)

    def _position(self, key: str | None, item: int | None) -> tuple[int, int]:
        """Line and column from 1. A key inherited through a YAML merge has only the position of its section."""
        here = self.node.lc
        line, column = here.line, here.col
        if item is not None and isinstance(self.node[key], list):
            line, column = self.node[key].lc.item(item)
        elif key is not None and here.data is not None and key in here.data:
            line, column = here.key(key)
        return line + 1, column + 1


def suggestion(name: str, known: Iterable[str], *, list_all: bool = False) -> str:
    """ "; did you mean ...?" with the closest known name, or the list of allowed names if it is short."""
    choices = sorted(map(str, set(known)))
    near = get_close_matches(name, choices, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; allowed: {', '.join(choices)}" if choices and (list_all or len(choices) <= 20) else ""


def _plain(number: float) -> str:
    """Integers in full: `:g` would print 3600000 as 3.6e+06."""
    return str(int(number)) if float(number).is_integer() else f"{number:g}"


def _type_name(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    if isinstance(value, str):
        return "a string" if value else "an empty string"
    return "a number"
