"""The `when` section of a route: parses its conditions.

`gateway.routing.conditions` evaluates them.
"""

import re
from datetime import UTC, tzinfo
from enum import StrEnum
from typing import Final, TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from gateway.enums import Task
from gateway.policy_files.locations import read_locations
from gateway.policy_files.section import Section
from gateway.routing.conditions import COMPARISONS, DAYS, Comparison, Header, Hours, LimitedTo, When
from gateway.routing.model_patterns import split_patterns

_COMPARISON: Final = re.compile(r"(>=|<=|>|<)\s*(\d+(?:\.\d*)?|\.\d+)")
_CLOCK: Final = re.compile(r"([01]\d|2[0-3]):([0-5]\d)|24:00")
_HEADER: Final = re.compile(r"[a-z0-9][a-z0-9_-]*")
_CREDENTIAL_HEADERS: Final = ("authorization", "cookie", "proxy-authorization", "x-api-key")
_MAX_CHARS: Final = 1 << 30

Item = TypeVar("Item")
Day = StrEnum("Day", {day.upper(): day for day in DAYS})  # type: ignore[misc]


def read_when(entry: Section, private_locations: frozenset[str]) -> When:
    """The conditions of a route; one without conditions matches every request."""
    when = entry.section("when")
    if when is None:
        return When()
    models = _set(when.strings("model", None))
    names, patterns = split_patterns(models or frozenset())
    conditions = When(
        tasks=_set(when.choices("task", Task, None)),
        confidence=_comparison(when, "confidence", ">= 0.6", maximum=1),
        confidence_of=_set(when.choices("confidence_of", Task, None)),
        models=None if models is None else names,
        model_patterns=patterns,
        keys=_set(when.strings("key", None)),
        stream=when.boolean("stream", None),
        schema=when.boolean("schema", None),
        tools=when.boolean("tools", None),
        images=when.boolean("images", None),
        private=when.boolean("private", None),
        prompt_chars=_comparison(when, "prompt_chars", "> 8000", maximum=_MAX_CHARS),
        further=(*_headers(when), *_locations(when, private_locations)),
        hours=_hours(when),
    )
    when.close()
    return conditions


def _set(items: tuple[Item, ...] | None) -> frozenset[Item] | None:
    return None if items is None else frozenset(items)


def _comparison(when: Section, key: str, example: str, *, maximum: float) -> Comparison | None:
    text = when.string(key, None)
    if text is None:
        return None
    match = _COMPARISON.fullmatch(text.strip())
    if match is None or float(match[2]) > maximum:
        signs = ", ".join(COMPARISONS)
        raise when.error(
            f'expected a comparison with a number up to {maximum:g}, such as "{example}"; operators: {signs}', key
        )
    return Comparison(sign=match[1], number=float(match[2]))


def _headers(when: Section) -> tuple[Header, ...]:
    """Header names with the accepted values; `true` requires the header to be present, `false` to be absent."""
    section = when.section("header")
    return () if section is None else tuple(_header(section, name) for name in section.node)


def _locations(when: Section, private_locations: frozenset[str]) -> tuple[LimitedTo, ...]:
    locations = read_locations(when, "locations", None)
    return () if locations is None else (LimitedTo(locations=locations, private_locations=private_locations),)


def _header(section: Section, name: object) -> Header:
    if not isinstance(name, str) or not _HEADER.fullmatch(name):
        raise section.error("a header name consists of lower-case letters, digits, - and _", str(name))
    if name in _CREDENTIAL_HEADERS:
        raise section.error("credentials cannot be matched; use `key` to match an API key by name", name)
    if isinstance(section.node[name], bool):
        return Header(name=name.encode(), present=section.boolean(name))
    return Header(name=name.encode(), values=frozenset(value.encode() for value in section.strings(name)))


def _hours(when: Section) -> tuple[Hours, ...]:
    """One time window or a list of them."""
    if not when.has("time"):
        return ()
    windows = when.sections("time") if isinstance(when.node["time"], list) else [when.section("time")]
    return tuple(_window(window) for window in windows if window is not None)


def _window(window: Section) -> Hours:
    days = window.choices("days", Day, tuple(Day))
    hours = Hours(
        zone=_zone(window),
        days=frozenset(DAYS.index(day) for day in days),
        start=_minutes(window, "from", "00:00"),
        end=_minutes(window, "to", "24:00"),
    )
    window.close()
    if hours.start == hours.end:
        raise window.error("`from` and `to` must differ", "from" if window.has("from") else "to")
    return hours


def _minutes(window: Section, key: str, default: str) -> int:
    text = window.string(key, default)
    if not _CLOCK.fullmatch(text):
        raise window.error('expected a time of day in quotes, such as "08:30"', key)
    hours, minutes = text.split(":")
    return 60 * int(hours) + int(minutes)


def _zone(window: Section) -> tzinfo:
    name = window.string("zone", "UTC")
    if name == "UTC":  # works without an installed time zone database
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, OSError, ValueError) as error:  # unknown or malformed name
        raise window.error(
            f"unknown time zone {name!r}; expected an IANA name such as 'Europe/Berlin'", "zone"
        ) from error
