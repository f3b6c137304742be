"""Decisions for tests of observers."""

from collections.abc import Callable
from typing import Any

import pytest

from gateway.decision import AttemptRecord, Decision
from gateway.enums import AttemptOutcome, Reason, SchemaCheck, Task
from gateway.types import Classification, Usage


@pytest.fixture(scope="session")
def decision() -> Callable[..., Decision]:
    """A decision with two fallbacks, one without a call; override fields as needed."""

    def build(**changes: Any) -> Decision:
        usage = Usage(input_tokens=120, output_tokens=40)
        plain: dict[str, Any] = {
            "time_s": 1767225600.0,
            "query_id": "req_1",
            "policy": "abcdef012345",
            "principal": "anna",
            "classification": Classification(task=Task.EDIT, confidence=0.97, evidence="prediction"),
            "route": "edits",
            "private": False,
            "stream": True,
            "schema": "sha256:00",
            "attempts": (
                AttemptRecord(
                    target="fast",
                    started_ms=0.4,
                    first_byte_ms=31.0,
                    ended_ms=58.2,
                    outcome=Reason.INVALID_OUTPUT,
                    detail="required at #/properties/name",
                ),
                AttemptRecord(
                    target="careful", started_ms=58.3, ended_ms=58.3, outcome=Reason.CIRCUIT_OPEN, skipped=True
                ),
                AttemptRecord(
                    target="quality",
                    started_ms=58.4,
                    first_byte_ms=100.0,
                    ended_ms=200.0,
                    outcome=AttemptOutcome.OK,
                    usage=usage,
                ),
            ),
            "target": "quality",
            "schema_check": SchemaCheck.VALID,
            "usage": usage,
            "first_byte_ms": 201.0,
            "total_ms": 212.0,
            "overhead_ms": 0.3,
        }
        return Decision(**{**plain, **changes})

    return build
