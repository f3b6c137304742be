"""Route conditions: each alone, combined, and time windows in time zones."""

from collections.abc import Callable
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from gateway.enums import FormatKind, Task
from gateway.policy_types import LocationLimit
from gateway.routing.conditions import Comparison, Header, Hours, LimitedTo, When
from gateway.types import Classification, OutputFormat, Query

MakeQuery = Callable[..., Query]
EDIT = Classification(task=Task.EDIT, confidence=0.7, evidence="prediction")
TEAM = Header(name=b"x-team", values=frozenset({b"ads", b"search"}))
THERE, AWAY = Header(name=b"x-debug"), Header(name=b"x-debug", present=False)
EUROPE = LimitedTo(locations=frozenset({"eu", "on-prem"}), private_locations=frozenset({"on-prem"}))
WORKDAYS = frozenset(range(5))


def limit(*locations: str) -> LocationLimit:
    return LocationLimit("a test", frozenset(locations))


@pytest.mark.parametrize(
    ("when", "fields", "matches"),
    [
        (When(), {}, True),
        (When(tasks=frozenset({Task.EDIT})), {}, True),
        (When(tasks=frozenset({Task.CHAT})), {}, False),
        (When(confidence=Comparison(sign=">=", number=0.7)), {}, True),
        (When(confidence=Comparison(sign=">", number=0.7)), {}, False),
        (When(confidence=Comparison(sign="<=", number=0.7)), {}, True),
        (When(confidence=Comparison(sign="<", number=0.7)), {}, False),
        (When(models=frozenset({"auto"})), {}, True),
        (When(models=frozenset({"other"})), {}, False),
        (When(keys=frozenset({"ci"})), {"principal": "ci"}, True),
        (When(keys=frozenset({"ci"})), {}, False),
        (When(stream=True), {"stream": True}, True),
        (When(stream=True), {}, False),
        (When(stream=False), {}, True),
        (When(schema=True), {"output_format": OutputFormat(form=FormatKind.JSON_OBJECT)}, True),
        (When(schema=True), {}, False),
        (When(private=True), {"private": True}, True),
        (When(private=False), {"private": True}, False),
        (When(tasks=frozenset({Task.EDIT}), stream=True), {}, False),
        (When(tools=True), {"has_tools": True}, True),
        (When(images=False), {"has_images": True}, False),
        (When(prompt_chars=Comparison(sign=">", number=100)), {"prompt_chars": 101}, True),
        (When(prompt_chars=Comparison(sign=">", number=100)), {"prompt_chars": 100}, False),
        (When(further=(TEAM,)), {"headers": {b"x-team": b" ads "}}, True),
        (When(further=(TEAM,)), {"headers": {b"x-team": b"ads, search"}}, False),
        (When(further=(TEAM,)), {}, False),
        (When(further=(THERE,)), {"headers": {b"x-debug": b""}}, True),
        (When(further=(THERE,)), {}, False),
        (When(further=(AWAY,)), {}, True),
        (When(further=(AWAY,)), {"headers": {b"x-debug": b"1"}}, False),
        (When(further=(TEAM, THERE)), {"headers": {b"x-team": b"ads"}}, False),
        (When(further=(EUROPE,)), {}, False),
        (When(further=(EUROPE,)), {"locations": (limit("eu"),)}, True),
        (When(further=(EUROPE,)), {"locations": (limit("eu", "us"),)}, False),
        (When(further=(EUROPE,)), {"locations": (limit("eu", "us"), limit("eu", "on-prem"))}, True),
        (When(further=(EUROPE,)), {"private": True}, True),
        (
            When(further=(LimitedTo(locations=frozenset({"eu"}), private_locations=frozenset({"on-prem"})),)),
            {"private": True},
            False,
        ),
    ],
)
def test_a_route_matches_a_request_when_all_its_conditions_hold(
    query: MakeQuery, when: When, fields: dict[str, object], matches: bool
) -> None:
    assert when.matches(query(**fields), EDIT, 0.0) is matches


OFFICE = Hours(zone=ZoneInfo("Europe/Berlin"), days=WORKDAYS, start=8 * 60, end=18 * 60)
NIGHT = Hours(zone=UTC, days=frozenset({4}), start=22 * 60, end=6 * 60)  # the night that starts on Friday


@pytest.mark.parametrize(
    ("hours", "utc", "holds"),
    [
        (OFFICE, "2026-07-01T05:59", False),  # a Wednesday; Berlin is two hours ahead in summer
        (OFFICE, "2026-07-01T06:00", True),
        (OFFICE, "2026-01-07T06:30", False),  # and one in winter
        (OFFICE, "2026-01-07T16:59", True),
        (OFFICE, "2026-01-07T17:00", False),
        (OFFICE, "2026-07-04T10:00", False),  # a Saturday
        (NIGHT, "2026-07-03T21:59", False),
        (NIGHT, "2026-07-03T22:00", True),
        (NIGHT, "2026-07-04T05:59", True),
        (NIGHT, "2026-07-04T06:00", False),
        (NIGHT, "2026-07-03T05:00", False),  # Thursday's night
        (Hours(zone=UTC), "2026-07-04T00:00", True),
    ],
)
def test_a_time_window_is_evaluated_in_its_zone_and_on_the_day_it_starts(hours: Hours, utc: str, holds: bool) -> None:
    assert hours.holds(datetime.fromisoformat(utc).replace(tzinfo=UTC).timestamp()) is holds


def test_one_of_several_windows_is_enough(query: MakeQuery) -> None:
    saturday_s = datetime(2026, 7, 4, 3, tzinfo=UTC).timestamp()
    assert When(hours=(OFFICE, NIGHT)).matches(query(), EDIT, saturday_s)
    assert not When(hours=(OFFICE,)).matches(query(), EDIT, saturday_s)


def test_confidence_may_be_that_of_several_tasks_together(query: MakeQuery) -> None:
    """Between an edit and an extraction, a request surely belongs to the fast lane, which takes both."""
    found = [0.0] * len(Task)
    for task, probability in ((Task.EDIT, 0.45), (Task.EXTRACTION, 0.45), (Task.CHAT, 0.1)):
        found[list(Task).index(task)] = probability
    torn = Classification(task=Task.EDIT, confidence=0.45, evidence="words", probabilities=tuple(found))
    bound, both = Comparison(sign=">=", number=0.85), frozenset({Task.EDIT, Task.EXTRACTION})
    assert When(confidence=bound, confidence_of=both).matches(query(), torn, 0.0)
    assert not When(confidence=bound).matches(query(), torn, 0.0)
    assert not When(confidence=bound, confidence_of=frozenset({Task.EDIT, Task.CHAT})).matches(query(), torn, 0.0)


def test_without_probabilities_the_confidence_counts_if_the_task_is_named(query: MakeQuery) -> None:
    bound = Comparison(sign=">=", number=0.7)
    assert When(confidence=bound, confidence_of=frozenset({Task.EDIT, Task.CODE})).matches(query(), EDIT, 0.0)
    assert not When(confidence=bound, confidence_of=frozenset({Task.CODE})).matches(query(), EDIT, 0.0)
