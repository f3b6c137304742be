"""The JSON format of decisions, key by key."""

from dataclasses import replace
from typing import Any

import orjson

from gateway.telemetry.decision_json import document_of
from gateway.types import Usage


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
