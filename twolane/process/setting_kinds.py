"""Kinds of setting values: how the text of a flag or variable is parsed, and its name in `--help`."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://(\[[0-9a-f:]+\]|[a-z0-9._-]+)(:\d{1,5})?")
_LABEL: Final = re.compile(r"[A-Za-z0-9._:@-]{1,253}")
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


def number(metavar: str, low: float, high: float) -> Kind:
    """A number from `low` to `high`."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise ValueError(f"{text!r} is not a number") from None
        if not low <= value <= high:
            raise ValueError(f"{text} is not between {low:g} and {high:g}")
        return value

    return Kind(metavar=metavar, parse=parse)


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


def label(metavar: str) -> Kind:
    """A name that can stand in a header: letters, digits, `.`, `_`, `:`, `@` and `-`."""

    def parse(given: str) -> str:
        if not _LABEL.fullmatch(given):
            raise ValueError(f"{given!r} is not a name of 1 to 253 letters, digits and . _ : @ -")
        return given

    return Kind(metavar=metavar, parse=parse)


def path(metavar: str = "FILE") -> Kind:
    """A file or folder, which need not exist."""
    return Kind(metavar=metavar, parse=lambda given: Path(_not_blank(given)))


def url_template(field: str) -> Kind:
    """An http or https URL that contains `{field}`."""

    def parse(given: str) -> str:
        if not given.startswith(("http://", "https://")) or f"{{{field}}}" not in given:
            raise ValueError(f"{given!r} is not an http or https URL that contains {{{field}}}")
        return given

    return Kind(metavar="URL", parse=parse)


def names(metavar: str) -> Kind:
    """Names separated by commas; none if empty."""
    return Kind(metavar=f"{metavar},…", parse=_split)


def origins() -> Kind:
    """Origins of web pages separated by commas, or `*` for any; none if empty."""

    def parse(given: str) -> tuple[str, ...]:
        found = tuple(each.lower() for each in _split(given))
        for each in found:
            if each != "*" and not _ORIGIN.fullmatch(each):
                raise ValueError(f"{each!r} is neither * nor an origin such as https://app.example.com")
        return found

    return Kind(metavar="ORIGIN,…", parse=parse)


def one_of(*words: str) -> Kind:
    """One of a few words."""

    def parse(given: str) -> str:
        if given not in words:
            raise ValueError(f"{given!r} is not one of {', '.join(words)}")
        return given

    return Kind(metavar="{" + ",".join(words) + "}", parse=parse)


def _split(given: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in given.split(",") if part.strip())


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
