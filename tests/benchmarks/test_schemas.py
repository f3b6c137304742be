"""The schema benchmark counts correctly and detects disagreements."""

from typing import Any

import pytest

from benchmarks.schemas import Tally, validate_row

ROW = {
    "id": "one",
    "schema": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]},
    "tests": [{"valid": True, "data": {"n": 1}}, {"valid": False, "data": {"n": "x", "m": 1}}],
}


def test_a_row_is_judged_by_all_three() -> None:
    tally = Tally()
    validate_row(ROW, tally)
    assert (tally.schemas, tally.instances, tally.invalid, tally.found_early) == (1, 2, 1, 1)
    assert (tally.refused, tally.disagreements, tally.unsound) == ({}, [], [])


def test_a_refused_schema_is_counted_by_its_cause() -> None:
    tally = Tally()
    validate_row({"schema": {"$ref": "http://elsewhere/"}, "tests": []}, tally)
    assert list(tally.refused.values()) == [1]


def test_who_disagrees_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def accepts_nothing(*_: Any) -> Any:
        return lambda *_: type("Reference", (), {"is_valid": lambda *_: False})()

    monkeypatch.setattr("benchmarks.schemas.validator_for", accepts_nothing)
    tally = Tally()
    validate_row(ROW, tally)
    assert tally.disagreements == ["one"]
    assert not tally.is_good
