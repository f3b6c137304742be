"""Conditions of a route: pure predicates over the request, its classification and the wall-clock time."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, tzinfo
from operator import ge, gt, le, lt
from typing import Final

from gateway.enums import Task
from gateway.routing.model_patterns import ModelPattern
from gateway.types import Classification, Query

COMPARISONS: Final[dict[str, Callable[[float, float], bool]]] = {">=": ge, ">": gt, "<=": le, "<": lt}
DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A bound on a number; `sign` is a key of COMPARISONS."""

    sign: str
    number: float

    def holds(self, value: float) -> bool:
        """Whether the value satisfies the bound."""
        return COMPARISONS[self.sign](value, self.number)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hours:
    """A weekly time window in one time zone, from `start` to `end` (exclusive), in minutes after midnight. One with
    `end` <= `start` crosses midnight and belongs to the day on which it starts."""

    zone: tzinfo
    days: frozenset[int] = frozenset(range(7))  # 0 is Monday
    start: int = 0
    end: int = 24 * 60

    def holds(self, wall_s: float) -> bool:
        """Whether the time is in the window; `wall_s` is in seconds since the epoch."""
        local = datetime.fromtimestamp(wall_s, self.zone)
        minute, day = 60 * local.hour + local.minute, local.weekday()
        if self.start < self.end:
            return day in self.days and self.start <= minute < self.end
        return (day in self.days and minute >= self.start) or ((day - 1) % 7 in self.days and minute < self.end)


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """A condition on a request header: its value is one of `values`, or, if they are None, it is present or absent."""

    name: bytes  # in lower case
    values: frozenset[bytes] | None = None
    present: bool = True

    def holds(self, query: Query) -> bool:
        """Whether the condition holds. Values are compared without surrounding white space."""
        value = query.headers.get(self.name)
        if self.values is None:
            return (value is not None) is self.present
        return value is not None and value.strip() in self.values


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitedTo:
    """A condition on the limits of the request to locations: it may be sent to none but these. For private requests,
    the policy's private locations are such a limit."""

    locations: frozenset[str]
    private_locations: frozenset[str]

    def holds(self, query: Query) -> bool:
        """Whether the condition holds."""
        limits = [limit.allowed for limit in query.locations]
        if query.private:
            limits.append(self.private_locations)
        return bool(limits) and frozenset.intersection(*limits) <= self.locations


@dataclass(frozen=True, slots=True, kw_only=True)
class When:
    """The conjunction of all given conditions; a condition that is None or empty is not checked."""

    tasks: frozenset[Task] | None = None
    confidence: Comparison | None = None
    confidence_of: frozenset[Task] | None = None  # whose probability `confidence` bounds; None: the classified task
    models: frozenset[str] | None = None
    model_patterns: tuple[ModelPattern, ...] = ()  # beside `models`
    keys: frozenset[str] | None = None  # names of API keys
    stream: bool | None = None
    schema: bool | None = None
    tools: bool | None = None
    images: bool | None = None
    private: bool | None = None
    prompt_chars: Comparison | None = None
    further: tuple[Header | LimitedTo, ...] = ()  # that few routes have
    hours: tuple[Hours, ...] = ()  # at least one must hold

    @property
    def is_about_task_only(self) -> bool:
        """Whether the task alone decides whether the route matches."""
        return self == When(tasks=self.tasks)

    def matches(self, query: Query, classification: Classification, wall_s: float) -> bool:
        """Whether the route matches the request at this time."""
        if self.tasks is not None and classification.task not in self.tasks:
            return False
        if self.confidence is not None and not self.confidence.holds(self._confidence(classification)):
            return False
        return self._matches_who(query) and self._matches_what(query) and self._matches_when(wall_s)

    def _confidence(self, classification: Classification) -> float:
        of = self.confidence_of
        return classification.confidence if of is None else classification.confidence_of(of)

    def _matches_who(self, query: Query) -> bool:
        return (
            (self.models is None or self.allows_model(query.model))
            and (self.keys is None or query.principal in self.keys)
            and all(condition.holds(query) for condition in self.further)
        )

    def allows_model(self, model: str) -> bool:
        """Whether the conditions on the model hold for this name."""
        return self.models is None or model in self.models or self._matches_pattern(model)

    def _matches_pattern(self, model: str) -> bool:
        return any(pattern.matches(model) for pattern in self.model_patterns)

    def _matches_what(self, query: Query) -> bool:
        return (
            (self.stream is None or query.stream is self.stream)
            and (self.schema is None or (query.output_format is not None) is self.schema)
            and (self.tools is None or query.has_tools is self.tools)
            and (self.images is None or query.has_images is self.images)
            and (self.private is None or query.private is self.private)
            and (self.prompt_chars is None or self.prompt_chars.holds(query.prompt_chars))
        )

    def _matches_when(self, wall_s: float) -> bool:
        return not self.hours or any(hours.holds(wall_s) for hours in self.hours)
