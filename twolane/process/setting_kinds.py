"""Kinds of setting values: how the text of a flag or variable is parsed, and its name in `--help`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

LONGEST_S: Final = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """`parse` raises ValueError with a message that describes the allowed values and does not repeat a secret."""

    metavar: str
    parse: Callable[[str], Any]


def whole(low: int, high: int) -> Kind:
    """A whole number from `low` to `high`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise ValueError(f"{text!r} is not a whole number") from None
        if not low <= value <= high:
            raise ValueError(f"{value} is not between {low} and {high}")
        return value

    return Kind(metavar="N", parse=parse)


def seconds(*, may_be_zero: bool = False) -> Kind:
    """A duration of at most an hour."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise ValueError(f"{text!r} is not a number of seconds") from None
        if not 0.0 <= value <= LONGEST_S or (value == 0.0 and not may_be_zero):
            raise ValueError(f"{text} is not between 0 and {LONGEST_S:g} seconds")
        return value

    return Kind(metavar="SECONDS", parse=parse)


def text(metavar: str = "TEXT") -> Kind:
    """Any text that is not blank."""
    return Kind(metavar=metavar, parse=_not_blank)


def path(metavar: str = "FILE") -> Kind:
    """A file or folder, which need not exist."""
    return Kind(metavar=metavar, parse=lambda given: Path(_not_blank(given)))


def one_of(*words: str) -> Kind:
    """One of a few words."""

    def parse(given: str) -> str:
        if given not in words:
            raise ValueError(f"{given!r} is not one of {', '.join(words)}")
        return given

    return Kind(metavar="{" + ",".join(words) + "}", parse=parse)


def _not_blank(given: str) -> str:
    if not given.strip():
        raise ValueError("must not be empty")
    return given


def _switch(given: str) -> bool:
    words = {"true": True, "1": True, "false": False, "0": False}
    if given.lower() not in words:
        raise ValueError(f"{given!r} is not one of true, false, 1, 0")
    return words[given.lower()]


SWITCH: Final = Kind(metavar="", parse=_switch)  # as a flag it takes no value; as a variable it is true or false
