"""Reading a YAML mapping key by key, so that every mistake can be told with its line, column and nearest valid key.

Knows YAML and positions, but nothing of what a policy means.
"""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from enum import StrEnum
from typing import Any, Final, Protocol, TypeVar

from gateway.errors import PolicyError

Word = TypeVar("Word", bound=StrEnum)

REQUIRED: Final = object()
_ABSENT: Final = object()


class Notes(Protocol):
    """Who wants to know what the readers of a file ask for; see `schema`."""

    def note(self, path: str, key: str, takes: dict[str, Any], *, required: bool) -> None:
        """In the section at `path`, `key` takes what this JSON Schema says."""
        ...


class Section:
    """One mapping of the file. Each key is taken once; `close` refuses what nobody took."""

    def __init__(self, node: Any, *, file: str, path: str = "", notes: Notes | None = None) -> None:
        self.node = node
        self.file = file
        self.path = path
        self._notes = notes
        self._known: list[str] = []

    def fault(self, cause: str, key: str | None = None, item: int | None = None) -> PolicyError:
        """The error for this section, one of its keys, or one item of a key's list; to be raised by the caller."""
        line, column = self._position(key, item)
        name = ".".join(part for part in (self.path, key) if part)
        return PolicyError(
            cause,
            file=self.file,
            line=line,
            column=column,
            key=f"{name}[{item}]" if item is not None else name,
        )

    def text(self, key: str, default: Any = REQUIRED) -> Any:
        """A string; numbers and booleans are not taken for one."""
        value = self._take(key, default, {"type": "string", "minLength": 1})
        if value is _ABSENT:
            return default
        if isinstance(value, str) and value:
            return str(value)
        raise self.fault(f"expected text, got {_describe(value)}", key)

    def number(self, key: str, default: Any = REQUIRED, *, least: float, most: float) -> Any:
        """A number within [least, most]; text counts if it reads as a number, as an environment value does."""
        return self._number(key, default, least, most, "number")

    def _number(self, key: str, default: Any, least: float, most: float, kind: str) -> Any:
        value = self._take(key, default, {"type": kind, "minimum": least, "maximum": most})
        if value is _ABSENT:
            return default
        try:
            number = None if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):  # 0xfff... is a number that no float holds
            number = None
        if number is None:
            raise self.fault(f"expected a number, got {_describe(value)}", key)
        if not least <= number <= most:
            raise self.fault(f"{number:g} is not between {least:g} and {most:g}", key)
        return number

    def integer(self, key: str, default: Any = REQUIRED, *, least: int, most: int) -> Any:
        """A whole number within [least, most]."""
        number = self._number(key, default, least, most, "integer")
        if not self.has(key):
            return default
        if number != int(number):
            raise self.fault(f"expected a whole number, got {number:g}", key)
        return int(number)

    def flag(self, key: str, default: Any = REQUIRED) -> Any:
        """True or false."""
        value = self._take(key, default, {"type": "boolean"})
        if value is _ABSENT:
            return default
        if isinstance(value, bool):
            return value
        raise self.fault(f"expected true or false, got {_describe(value)}", key)

    def word(self, key: str, words: type[Word], default: Any = REQUIRED) -> Any:
        """One word of a closed set."""
        value = self._take(key, default, {"enum": [*words]})
        if value is _ABSENT:
            return default
        if not isinstance(value, str) or not value:
            raise self.fault(f"expected text, got {_describe(value)}", key)
        return self._known_word(value, words, key, None)

    def words(self, key: str, words: type[Word], default: Any = REQUIRED) -> Any:
        """One or several words of a closed set."""
        values = self._names(key, default, {"enum": [*words]})
        if not self.has(key):
            return default
        item = None if isinstance(self.node[key], str) else 0
        return tuple(
            self._known_word(value, words, key, item if item is None else number) for number, value in enumerate(values)
        )

    def names(self, key: str, default: Any = REQUIRED) -> Any:
        """One text or a list of texts, as a tuple without repetitions."""
        return self._names(key, default, {"type": "string", "minLength": 1})

    def _names(self, key: str, default: Any, each: dict[str, Any]) -> Any:
        several = {"type": "array", "items": each, "uniqueItems": True}
        value = self._take(key, default, {"anyOf": [each, several]})
        if value is _ABSENT:
            return default
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list):
            raise self.fault(f"expected text or a list of texts, got {_describe(value)}", key)
        for number, name in enumerate(values):
            if not isinstance(name, str) or not name:
                raise self.fault(f"expected text, got {_describe(name)}", key, number)
            if name in values[:number]:
                raise self.fault(f"{name!r} is named twice", key, number)
        return tuple(map(str, values))

    def section(self, key: str) -> "Section | None":
        """A mapping under a key, or None if the key is absent."""
        value = self._take(key, None, {"type": "object"})
        return None if value is _ABSENT else self.within(value, key)

    def within(self, value: Any, key: str, item: int | None = None) -> "Section":
        """`value`, found under a key (or as an item of its list), as a section of its own."""
        if not isinstance(value, dict):
            raise self.fault(f"expected a mapping, got {_describe(value)}", key, item)
        name = ".".join(part for part in (self.path, key) if part)
        path = f"{name}[{item}]" if item is not None else name
        return Section(value, file=self.file, path=path, notes=self._notes)

    def items(self, key: str, default: Any = REQUIRED) -> "Sequence[Section]":
        """The mappings of a list that is not empty."""
        value = self._take(key, default, {"type": "array", "items": {"type": "object"}, "minItems": 1})
        if value is _ABSENT:
            return ()
        if not isinstance(value, list) or not value:
            raise self.fault(f"expected a list of mappings, got {_describe(value)}", key)
        return [self.within(item, key, number) for number, item in enumerate(value)]

    def has(self, key: str) -> bool:
        """Is the key there?"""
        return key in self.node

    def refuse(self, keys: Mapping[str, str]) -> None:
        """Keys of the language that this version cannot honour, with what they would do: an error, never ignored."""
        for key, meaning in keys.items():
            if self.has(key):
                raise self.fault(f"{meaning} is not supported in this version", key)

    def close(self) -> None:
        """Every key must have been taken by now."""
        for key in self.node:
            if key not in self._known:
                raise self.fault(f"unknown key{suggestion(str(key), self._known)}", str(key))

    def _take(self, key: str, default: Any, takes: dict[str, Any]) -> Any:
        self._known.append(key)
        if self._notes is not None:
            self._notes.note(self.path, key, takes, required=default is REQUIRED)
        if key in self.node:
            return self.node[key]
        if default is REQUIRED:
            near = get_close_matches(key, [str(known) for known in self.node if known not in self._known], n=1)
            raise self.fault(f"{key!r} is missing" + (f" (is it {near[0]!r}?)" if near else ""))
        return _ABSENT

    def _known_word(self, value: str, words: type[Word], key: str, item: int | None) -> Word:
        if value in [*words]:
            return words(value)
        raise self.fault(f"unknown word {value!r}{suggestion(value, list(words), list_all=True)}", key, item)

    def _position(self, key: str | None, item: int | None) -> tuple[int, int]:
        """Line and column from 1; a key that came through a YAML merge has only its section's."""
        here = self.node.lc
        line, column = here.line, here.col
        if item is not None and isinstance(self.node[key], list):
            line, column = self.node[key].lc.item(item)
        elif key is not None and here.data is not None and key in here.data:
            line, column = here.key(key)
        return line + 1, column + 1


def suggestion(word: str, known: Iterable[str], *, list_all: bool = False) -> str:
    """ "; did you mean ...?" with the nearest known word, or else what is known if there is little of it."""
    choices = sorted({str(name) for name in known})
    near = get_close_matches(word, choices, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; known: {', '.join(choices)}" if choices and (list_all or len(choices) <= 20) else ""


def _describe(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    if isinstance(value, str):
        return "text" if value else "empty text"
    return "a number"
