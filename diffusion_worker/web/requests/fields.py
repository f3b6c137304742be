"""Typed access to the fields of an untrusted JSON object. Errors name the full path of the field.

A null value counts as absent, because OpenAI clients send null for fields that are not set.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffusion_worker.web.error_body import InvalidType, InvalidValue, MissingField, Unsupported

MAX_DEPTH = 64  # of objects and arrays in a body; a JSON Schema uses two per level


@dataclass(frozen=True, slots=True)
class Fields:
    """A JSON object and its path in the body, e.g. `stream_options`; the path of the body is empty."""

    values: Mapping[str, Any]
    path: str = ""

    def param(self, name: str) -> str:
        """The full path of a field."""
        return f"{self.path}.{name}" if self.path else name

    def allow_only(self, known: Sequence[str]) -> None:
        """Raises Unsupported for the first field that is not in `known`."""
        for name in self.values:
            if name not in known:
                raise Unsupported(f"Unrecognized field: '{self.param(name)}'.", param=self.param(name))

    def raw(self, name: str) -> Any:
        """The value; None if absent or null."""
        return self.values.get(name)

    def required(self, name: str) -> Any:
        """The value. Raises MissingField."""
        value = self.values.get(name)
        if value is None:
            raise MissingField(f"Missing required field: '{self.param(name)}'.", param=self.param(name))
        return value

    def text(self, name: str) -> str | None:
        """A string; None if absent. Raises InvalidType."""
        value = self.values.get(name)
        if value is not None and not isinstance(value, str):
            raise self._mistyped(name, "a string", value)
        return value

    def nonempty(self, name: str) -> str:
        """A required, non-empty string."""
        self.required(name)
        text = self.text(name)
        if not text:
            raise self.invalid(name, "must not be empty.")
        return text

    def boolean(self, name: str) -> bool | None:
        """A boolean; None if absent. Raises InvalidType."""
        value = self.values.get(name)
        if value is not None and not isinstance(value, bool):
            raise self._mistyped(name, "a boolean", value)
        return value

    def integer(self, name: str, low: int, high: int) -> int | None:
        """An integer within bounds; None if absent. 3.0 is not an integer."""
        value = self.values.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._mistyped(name, "an integer", value)
        return int(self._within(name, value, low, high))

    def number(self, name: str, low: float, high: float) -> float | None:
        """A number within bounds; None if absent."""
        value = self.values.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._mistyped(name, "a number", value)
        return float(self._within(name, value, low, high))

    def object(self, name: str) -> "Fields | None":
        """A nested object; None if absent."""
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self._mistyped(name, "an object", value)
        return Fields(value, self.param(name))

    def objects(self, name: str) -> "tuple[Fields, ...]":
        """A required array of objects."""
        value = self.required(name)
        if not isinstance(value, list):
            raise self._mistyped(name, "an array", value)
        return tuple(Fields(self._object(name, at, item), self.param(f"{name}[{at}]")) for at, item in enumerate(value))

    def refuse(self, name: str, reason: str) -> Unsupported:
        """The error for an unsupported field."""
        return Unsupported(f"'{self.param(name)}' {reason}", param=self.param(name))

    def invalid(self, name: str, reason: str) -> InvalidValue:
        """The error for an invalid value."""
        return InvalidValue(f"'{self.param(name)}' {reason}", param=self.param(name))

    def _object(self, name: str, at: int, item: Any) -> dict[str, Any]:
        if not isinstance(item, dict):
            raise self._mistyped(f"{name}[{at}]", "an object", item)
        return item

    def _mistyped(self, name: str, expected: str, value: Any) -> InvalidType:
        return InvalidType(f"'{self.param(name)}' must be {expected}, not {_kind(value)}.", param=self.param(name))

    def _within(self, name: str, value: float, low: float, high: float) -> float:
        if not low <= value <= high:
            raise self.invalid(name, f"must be between {low} and {high}, not {value}.")
        return value


def is_deeper(value: Any, limit: int) -> bool:
    """Whether the nesting exceeds the limit. Iterative, so that deep nesting cannot exhaust the stack."""
    level = [value]
    for _ in range(limit):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


def _kind(value: Any) -> str:
    """The JSON type name of a Python value."""
    names = {bool: "a boolean", int: "an integer", float: "a number", str: "a string", list: "an array"}
    return names.get(type(value), "an object" if isinstance(value, dict) else "null")
