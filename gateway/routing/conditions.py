"""The conditions of a route: does it take this request?

Pure functions of the request, its task and the wall clock, which comes with the call. Knows no route and no target.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, tzinfo
from operator import ge, gt, le, lt
from typing import Final

from gateway.enums import Task
from gateway.types import Classification, Query

COMPARISONS: Final[dict[str, Callable[[float, float], bool]]] = {">=": ge, ">": gt, "<=": le, "<": lt}
DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A bound on a number; `sign` is one of COMPARISONS."""

    sign: str
    number: float

    def holds(self, value: float) -> bool:
        """Is the value on the right side?"""
        return COMPARISONS[self.sign](value, self.number)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hours:
    """A part of the week in one time zone. From `start` up to but not `end`, in minutes after midnight; a window whose
    end is not behind its start runs over midnight and belongs to the day that it began on."""

    zone: tzinfo
    days: frozenset[int] = frozenset(range(7))  # 0 is Monday
    start: int = 0
    end: int = 24 * 60

    def holds(self, wall_s: float) -> bool:
        """Is it that time? `wall_s`: seconds since the epoch."""
        local = datetime.fromtimestamp(wall_s, self.zone)
        minute, day = 60 * local.hour + local.minute, local.weekday()
        if self.start < self.end:
            return day in self.days and self.start <= minute < self.end
        return (day in self.days and minute >= self.start) or ((day - 1) % 7 in self.days and minute < self.end)


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a request header must be: one of `values`, or there at all (or not there) if they are None."""

    name: bytes  # in lower case
    values: frozenset[bytes] | None = None
    present: bool = True

    def holds(self, query: Query) -> bool:
        """Compares whole values, blanks around them aside."""
        value = query.headers.get(self.name)
        if self.values is None:
            return (value is not None) is self.present
        return value is not None and value.strip() in self.values


@dataclass(frozen=True, slots=True, kw_only=True)
class When:
    """All that are given must hold; None, or empty, is not asked."""

    tasks: frozenset[Task] | None = None
    confidence: Comparison | None = None
    models: frozenset[str] | None = None
    keys: frozenset[str] | None = None  # names of API keys
    stream: bool | None = None
    schema: bool | None = None
    tools: bool | None = None
    images: bool | None = None
    private: bool | None = None
    prompt_chars: Comparison | None = None
    headers: tuple[Header, ...] = ()
    hours: tuple[Hours, ...] = ()  # one of them must hold

    def matches(self, query: Query, classification: Classification, wall_s: float) -> bool:
        """Does the route take the request at this time?"""
        if self.tasks is not None and classification.task not in self.tasks:
            return False
        if self.confidence is not None and not self.confidence.holds(classification.confidence):
            return False
        return self._matches_who(query) and self._matches_what(query) and self._matches_when(wall_s)

    def _matches_who(self, query: Query) -> bool:
        return (
            (self.models is None or query.model in self.models)
            and (self.keys is None or query.principal in self.keys)
            and all(header.holds(query) for header in self.headers)
        )

    def _matches_what(self, query: Query) -> bool:
        return (
            (self.stream is None or query.stream is self.stream)
            and (self.schema is None or (query.expectation is not None) is self.schema)
            and (self.tools is None or query.has_tools is self.tools)
            and (self.images is None or query.has_images is self.images)
            and (self.private is None or query.private is self.private)
            and (self.prompt_chars is None or self.prompt_chars.holds(query.prompt_chars))
        )

    def _matches_when(self, wall_s: float) -> bool:
        return not self.hours or any(hours.holds(wall_s) for hours in self.hours)
