"""Typed access to the members of an untrusted JSON object, with errors that name the full path."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Problem(StrEnum):
    """What is wrong with a field; both programs have an error of their own for each."""

    VALUE = "value"
    TYPE = "type"
    MISSING = "missing"
    UNSUPPORTED = "unsupported"


class DecisionError(ValueError):
    """A request that is invalid; `param` is the path of the field."""

    def __init__(self, message: str, *, param: str, problem: Problem = Problem.VALUE) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.problem = problem


def at(path: str, index: int) -> str:
    """The path of an entry of an array."""
    return f"{path}[{index}]"


@dataclass(frozen=True, slots=True)
class Members:
    """A JSON object and its path. A null counts as absent."""

    values: Mapping[str, Any]
    path: str

    @classmethod
    def of(cls, given: Any, path: str) -> "Members":
        """Raises DecisionError unless it is an object."""
        if not isinstance(given, dict):
            raise DecisionError(f"{path!r} must be an object.", param=path, problem=Problem.TYPE)
        return cls(given, path)

    def param(self, name: str) -> str:
        """The full path of a member."""
        return f"{self.path}.{name}" if self.path else name

    def allow_only(self, known: Set[str]) -> None:
        """Raises DecisionError for the first member that is not known."""
        for name in self.values:
            if name not in known:
                param = self.param(name)
                raise DecisionError(f"Unrecognized field: {param!r}.", param=param, problem=Problem.UNSUPPORTED)

    def required(self, name: str) -> Any:
        """The value. Raises DecisionError if there is none."""
        value = self.values.get(name)
        if value is None:
            param = self.param(name)
            raise DecisionError(f"Missing required field: {param!r}.", param=param, problem=Problem.MISSING)
        return value

    def text(self, name: str, *, required: bool = False, nullable: bool = True) -> Any:
        """A string; None if it is absent and not required."""
        value = self.required(name) if required else self.values.get(name)
        if isinstance(value, str) or (value is None and nullable):
            return value
        raise self.mistyped(name, "a string")

    def one_of(self, name: str, allowed: Sequence[str], *, required: bool = False) -> Any:
        """One of the allowed strings; None if it is absent and not required."""
        value = self.text(name, required=required)
        if value is not None and value not in allowed:
            listed = ", ".join(f"'{each}'" for each in allowed)
            raise DecisionError(f"{self.param(name)!r} must be one of {listed}.", param=self.param(name))
        return value

    def fraction(self, name: str) -> float | None:
        """A number from 0 to 1; None if absent."""
        value = self.values.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.mistyped(name, "a number")
        if not 0 <= value <= 1:
            raise DecisionError(f"{self.param(name)!r} must be between 0 and 1.", param=self.param(name))
        return float(value)

    def object(self, name: str) -> "Members | None":
        """A nested object; None if absent."""
        value = self.values.get(name)
        return None if value is None else Members.of(value, self.param(name))

    def mistyped(self, name: str, expected: str) -> DecisionError:
        """The error for a value of another type."""
        param = self.param(name)
        return DecisionError(f"{param!r} must be {expected}.", param=param, problem=Problem.TYPE)
