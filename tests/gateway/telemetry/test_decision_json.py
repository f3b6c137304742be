"""The JSON format of decisions, key by key."""

from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.decision import AttemptRecord
from gateway.enums import AttemptOutcome, ErrorSource, Outcome, Reason, Task
from gateway.telemetry.decision_json import DecisionLines, document_of, line_of
from gateway.types import Classification, Usage


def test_the_format_is_as_documented(decision: Any) -> None:
    assert orjson.loads(orjson.dumps(document_of(decision()))) == {
        "time": "2026-01-01T00:00:00.000Z",
        "id": "req_1",
        "trace": None,
        "policy": "abcdef012345",
        "principal": "anna",
        "task": "edit",
        "confidence": 0.97,
        "evidence": "prediction",
        "route": "edits",
        "private": False,
        "locations": None,
        "stream": True,
        "path": "/v1/chat/completions",
        "input_tokens": 120,
        "output_tokens": 40,
        "schema": "sha256:00",
        "attempts": [
            {
                "target": "fast",
                "started_ms": 0.4,
                "first_byte_ms": 31.0,
                "ended_ms": 58.2,
                "outcome": "invalid_output",
                "detail": "required at #/properties/name",
            },
            {
                "target": "careful",
                "started_ms": 58.3,
                "first_byte_ms": None,
                "ended_ms": 58.3,
                "outcome": "circuit_open",
                "detail": "",
            },
            {
                "target": "quality",
                "started_ms": 58.4,
                "first_byte_ms": 100.0,
                "ended_ms": 200.0,
                "outcome": "ok",
                "detail": "",
            },
        ],
        "target": "quality",
        "outcome": "ok",
        "status": 200,
        "error_source": None,
        "fallback": "circuit_open",
        "total_ms": 212.0,
        "cost": 0.0,
    }


def test_attempts_at_pools_name_the_server(decision: Any) -> None:
    first, *others = decision().attempts
    marked = document_of(decision(attempts=(replace(first, url="10.0.0.7:8001"), *others)))["attempts"]
    assert [attempt.get("url") for attempt in marked] == ["10.0.0.7:8001", None, None]


def test_a_decision_names_the_locations_to_which_it_was_limited_and_those_of_its_attempts(decision: Any) -> None:
    first, *others = decision().attempts
    limited = decision(locations=frozenset({"on-prem", "eu"}), attempts=(replace(first, location="eu"), *others))
    document = orjson.loads(orjson.dumps(document_of(limited)))
    assert document["locations"] == ["eu", "on-prem"]
    assert [attempt.get("location") for attempt in document["attempts"]] == ["eu", None, None]


def test_a_hedge_is_marked_as_one(decision: Any) -> None:
    first, *others = decision().attempts
    marked = document_of(decision(attempts=(replace(first, hedge=True), *others)))["attempts"]
    assert [attempt.get("hedge") for attempt in marked] == [True, None, None]


def test_the_load_that_moved_thresholds_is_written_only_where_it_did(decision: Any) -> None:
    assert "load" not in document_of(decision())
    assert document_of(decision(usage=Usage(output_tokens=3, load=0.51239)))["load"] == 0.5124


PLAIN = st.builds(
    AttemptRecord,
    target=st.sampled_from(["fast", "quality"]),
    started_ms=st.floats(0, 1e6),
    ended_ms=st.floats(0, 1e6),
    first_byte_ms=st.none() | st.floats(0, 1e6),
    outcome=st.sampled_from([AttemptOutcome.OK, Reason.DEADLINE]),
    status=st.sampled_from([None, 200, 500]),
    url=st.sampled_from([None, "a:80"]),
    detail=st.sampled_from(["", "HTTP 500"]),
    queued_ms=st.sampled_from([None, 3.0]),
    ignored=st.sampled_from([(), ("seed",)]),
)
CHANGES = st.fixed_dictionaries(
    {
        "attempts": st.lists(PLAIN, min_size=1, max_size=2).map(tuple),
        "query_id": st.text(max_size=8),
        "time_s": st.floats(0, 4e9),
        "usage": st.sampled_from([None, Usage(input_tokens=3, output_tokens=4, cost=0.5), Usage(load=0.5)]),
        "target": st.sampled_from([None, "fast"]),
        "stream": st.booleans(),
        "cost": st.floats(0, 100),
        "low_confidence": st.sampled_from([None, 0.25]),
    }
)


@given(rows=st.lists(CHANGES, max_size=8))
def test_lines_are_the_documents_whatever_earlier_ones_had_in_common(decision: Any, rows: list[dict[str, Any]]) -> None:
    lines = DecisionLines("gateway-7")
    for changes in rows:
        made = decision(**changes)
        assert lines.render([made])[0] == line_of(document_of(made, "gateway-7"))


# What decisions may have in common, with another value of each.
ATTEMPT = AttemptRecord(target="fast", started_ms=1.0, ended_ms=2.0, outcome=AttemptOutcome.OK, url="a:80", status=200)
SHARED: dict[str, Any] = {
    "policy": "other",
    "principal": "bob",
    "classification": Classification(task=Task.CODE, confidence=0.5, evidence="words: a"),
    "route": "other",
    "private": True,
    "locations": frozenset({"eu"}),
    "stream": False,
    "api_path": "/v1/other",
    "schema": "sha256:other",
    "target": "other",
    "outcome": Outcome.ERROR,
    "status": 599,
    "error_source": ErrorSource.GATEWAY,
}
SHARED_OF_ATTEMPT: dict[str, Any] = {
    "target": "other",
    "url": "b:81",
    "location": "eu",
    "outcome": Reason.OVERLOADED,
    "detail": "HTTP 599",
    "status": 599,
    "hedge": True,
}


@pytest.mark.parametrize("name", SHARED)
def test_a_line_never_has_a_field_of_an_earlier_decision(decision: Any, name: str) -> None:
    check_lines(plain := decision(attempts=(ATTEMPT,)), replace(plain, **{name: SHARED[name]}))


@pytest.mark.parametrize("name", SHARED_OF_ATTEMPT)
def test_a_line_never_has_a_field_of_an_earlier_attempt(decision: Any, name: str) -> None:
    other = replace(ATTEMPT, **{name: SHARED_OF_ATTEMPT[name]})
    check_lines(decision(attempts=(ATTEMPT,)), decision(attempts=(other,)))


def check_lines(first: Any, second: Any) -> None:
    lines, expected = DecisionLines(None), [line_of(document_of(each)) for each in (first, second)]
    assert expected[0] != expected[1]
    assert [lines.render([each])[0] for each in (first, second)] == expected
