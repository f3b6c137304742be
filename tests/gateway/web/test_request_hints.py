"""Hints of a request: task, privacy, locations and deadline, in headers and in metadata."""

from typing import Any

import orjson
import pytest

from gateway.enums import Task
from gateway.errors import InvalidField
from gateway.policy_types import allowed_by
from gateway.web.parse_request import parse_chat, unique_headers
from tests.gateway.web.test_parse_request import USER, parse
from twolane.process.api_keys import Key


def test_task_privacy_and_deadline_come_from_headers_or_metadata() -> None:
    in_headers = parse(
        {b"x-twolane-task": b"edit", b"x-twolane-private": b"TRUE", b"x-twolane-deadline-ms": b"250"},
        diffusion={"deadline_ms": 900},
    )
    assert (in_headers.task_hint, in_headers.task_hint_from) == (Task.EDIT, "header")
    assert in_headers.private
    assert in_headers.deadline_ms == 250
    in_body = parse(metadata={"task": "code", "private": True}, diffusion={"deadline_ms": 900})
    assert (in_body.task_hint, in_body.task_hint_from) == (Task.CODE, "metadata")
    assert in_body.private
    assert in_body.deadline_ms == 900


@pytest.mark.parametrize(
    "name", [b"x-twolane-private", b"x-twolane-task", b"x-twolane-deadline-ms", b"x-twolane-locations"]
)
def test_a_repeated_twolane_header_with_different_values_is_refused(name: bytes) -> None:
    """Taking the last would let `private: true, false` out of the cluster."""
    with pytest.raises(InvalidField) as told:
        unique_headers([(name, b"1"), (b"accept", b"a"), (name, b"0")])
    assert told.value.param == name.decode()
    assert unique_headers([(name, b"1"), (b"accept", b"a"), (b"accept", b"b"), (name, b"1")])[name] == b"1"


def test_the_limits_to_locations_of_header_metadata_and_key_all_hold() -> None:
    headers = {b"x-twolane-locations": b" EU, us-east ,on-prem"}
    document = {"model": "auto", "messages": [USER], "metadata": {"TWOLANE_locations": "eu,on-prem", "team": "a"}}
    key = Key(name="ann", locations=frozenset({"eu"}))
    query = parse_chat(orjson.dumps(document), headers, now_s=0.0, key=key)
    assert [(limit.source, sorted(limit.allowed)) for limit in query.locations] == [
        ("x-twolane-locations", ["eu", "on-prem", "us-east"]),
        ("metadata.TWOLANE_locations", ["eu", "on-prem"]),
        ("the API key", ["eu"]),
    ]
    assert allowed_by(query.locations) == {"eu"}
    assert parse().locations == ()


def test_the_task_header_takes_precedence_over_metadata() -> None:
    assert parse({b"x-twolane-task": b"edit"}, metadata={"task": "code"}).task_hint is Task.EDIT


@pytest.mark.parametrize(
    ("headers", "body", "param"),
    [
        ({b"x-twolane-task": b"poetry"}, {}, "x-twolane-task"),
        ({}, {"metadata": {"twolane_task": ["edit"]}}, "metadata.twolane_task"),
        ({}, {"metadata": {"twolane_task": "checkout"}}, "metadata.twolane_task"),
        ({b"x-twolane-private": b"treu"}, {}, "x-twolane-private"),
        ({}, {"metadata": {"twolane_private": "maybe"}}, "metadata.twolane_private"),
        ({b"x-twolane-locations": b""}, {}, "x-twolane-locations"),
        ({b"x-twolane-locations": b"eu,"}, {}, "x-twolane-locations"),
        ({b"x-twolane-locations": b"eu; us"}, {}, "x-twolane-locations"),
        ({b"x-twolane-locations": "\u0130".encode()}, {}, "x-twolane-locations"),
        ({}, {"metadata": {"twolane_locations": ["eu"]}}, "metadata.twolane_locations"),
        ({}, {"metadata": {"Twolane_Locations": " "}}, "metadata.Twolane_Locations"),
        ({b"x-twolane-deadline-ms": b"soon"}, {}, "x-twolane-deadline-ms"),
        ({b"x-twolane-deadline-ms": b"-1"}, {}, "x-twolane-deadline-ms"),
        ({b"x-twolane-deadline-ms": b"nan"}, {}, "x-twolane-deadline-ms"),
        ({}, {"diffusion": {"deadline_ms": 0}}, "diffusion.deadline_ms"),
    ],
)
def test_an_invalid_hint_is_refused_by_name(headers: dict[bytes, bytes], body: dict[str, Any], param: str) -> None:
    """A typo must not send a private request out of the cluster."""
    with pytest.raises(InvalidField) as told:
        parse(headers, **body)
    assert told.value.param == param


@pytest.mark.parametrize("task", ["checkout", "", 5, None, ["edit"], {"name": "edit"}, "Edit"])
@pytest.mark.parametrize("private", ["n/a", "maybe", "", None, 7, [True], "unknown"])
def test_metadata_of_the_application_is_no_hint(task: Any, private: Any) -> None:
    query = parse(metadata={"task": task, "private": private, "team": "billing"})
    assert (query.task_hint, query.private) == (None, False)


@pytest.mark.parametrize("name", ["private", "twolane_private"])
@pytest.mark.parametrize("yes", [True, "true", "TRUE", " yes ", "1", 1, "on"])
def test_a_yes_in_metadata_makes_a_request_private(name: str, yes: Any) -> None:
    assert parse(metadata={name: yes}).private


@pytest.mark.parametrize(
    "body", [{"private": True, "twolane_private": False}, {"private": "n/a", "twolane_private": 1}]
)
def test_a_request_is_private_if_any_hint_says_so(body: dict[str, Any]) -> None:
    assert parse(metadata=body).private
    assert parse({b"x-twolane-private": b"no"}, metadata=body).private


def test_the_hint_with_the_prefix_takes_precedence() -> None:
    query = parse(metadata={"task": "code", "twolane_task": "edit"})
    assert (query.task_hint, query.task_hint_from) == (Task.EDIT, "metadata")
