"""The `when` of a route: conditions as they are written in a policy file.

Knows their words; what they mean is `core.conditions`.
"""

import re
from datetime import UTC, tzinfo
from enum import StrEnum
from typing import Final, TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from gateway.enums import Task
from gateway.policy_files.section import Section
from gateway.routing.conditions import COMPARISONS, DAYS, Comparison, Header, Hours, When

_COMPARISON: Final = re.compile(r"(>=|<=|>|<)\s*(\d+(?:\.\d*)?|\.\d+)")
_CLOCK: Final = re.compile(r"([01]\d|2[0-3]):([0-5]\d)|24:00")
_HEADER: Final = re.compile(r"[a-z0-9][a-z0-9_-]*")
_SECRET: Final = ("authorization", "cookie", "proxy-authorization", "x-api-key")
_MOST_CHARS: Final = 1 << 30

Item = TypeVar("Item")
Day = StrEnum("Day", {day.upper(): day for day in DAYS})  # type: ignore[misc]


def read_when(entry: Section) -> When:
    """The conditions of a route; without any it takes everything."""
    when = entry.section("when")
    if when is None:
        return When()
    conditions = When(
        tasks=_set(when.words("task", Task, None)),
        confidence=_comparison(when, "confidence", ">= 0.6", most=1),
        models=_set(when.names("model", None)),
        keys=_set(when.names("key", None)),
        stream=when.flag("stream", None),
        schema=when.flag("schema", None),
        tools=when.flag("tools", None),
        images=when.flag("images", None),
        private=when.flag("private", None),
        prompt_chars=_comparison(when, "prompt_chars", "> 8000", most=_MOST_CHARS),
        headers=_headers(when),
        hours=_hours(when),
    )
    when.close()
    return conditions


def _set(items: tuple[Item, ...] | None) -> frozenset[Item] | None:
    return None if items is None else frozenset(items)


def _comparison(when: Section, key: str, such: str, *, most: float) -> Comparison | None:
    text = when.text(key, None)
    if text is None:
        return None
    match = _COMPARISON.fullmatch(text.strip())
    if match is None or float(match[2]) > most:
        signs = ", ".join(COMPARISONS)
        raise when.fault(f'expected a comparison with a number up to {most:g}, such as "{such}" ({signs})', key)
    return Comparison(sign=match[1], number=float(match[2]))


def _headers(when: Section) -> tuple[Header, ...]:
    """Names with their values; `true` asks that a header is there, `false` that it is not."""
    section = when.section("header")
    return () if section is None else tuple(_header(section, name) for name in section.node)


def _header(section: Section, name: object) -> Header:
    if not isinstance(name, str) or not _HEADER.fullmatch(name):
        raise section.fault("a header's name is lower-case letters, digits and -", str(name))
    if name in _SECRET:
        raise section.fault("a credential decides nothing but who is asking: see `key`", name)
    if isinstance(section.node[name], bool):
        return Header(name=name.encode(), present=section.flag(name))
    return Header(name=name.encode(), values=frozenset(value.encode() for value in section.names(name)))


def _hours(when: Section) -> tuple[Hours, ...]:
    """One window, or a list of them."""
    if not when.has("time"):
        return ()
    windows = when.items("time") if isinstance(when.node["time"], list) else [when.section("time")]
    return tuple(_window(window) for window in windows if window is not None)


def _window(window: Section) -> Hours:
    days = window.words("days", Day, tuple(Day))
    hours = Hours(
        zone=_zone(window),
        days=frozenset(DAYS.index(day) for day in days),
        start=_minutes(window, "from", "00:00"),
        end=_minutes(window, "to", "24:00"),
    )
    window.close()
    if hours.start == hours.end:
        raise window.fault("the window is empty", "from" if window.has("from") else "to")
    return hours


def _minutes(window: Section, key: str, default: str) -> int:
    text = window.text(key, default)
    if not _CLOCK.fullmatch(text):
        raise window.fault('expected a time of day such as "08:30", in quotes', key)
    hours, minutes = text.split(":")
    return 60 * int(hours) + int(minutes)


def _zone(window: Section) -> tzinfo:
    name = window.text("zone", "UTC")
    if name == "UTC":  # known even where no time zones are installed
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, OSError, ValueError) as wrong:  # unknown, or no name at all
        raise window.fault(f"no time zone called {name!r} is known here", "zone") from wrong
