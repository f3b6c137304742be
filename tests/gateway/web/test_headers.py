"""Response headers of a decision."""

from gateway.decision import AttemptRecord, Decision
from gateway.enums import AttemptOutcome, Reason, SchemaCheck, Task
from gateway.types import Classification
from gateway.web.headers import describe


def test_every_documented_header_is_written() -> None:
    decision = Decision(
        time_s=0,
        query_id="req_1",
        policy="abcdef012345",
        principal=None,
        classification=Classification(task=Task.EDIT, confidence=0.975, evidence="prediction"),
        route="edits",
        private=False,
        stream=False,
        attempts=(
            AttemptRecord(target="fast", started_ms=0, ended_ms=1, outcome=Reason.INVALID_OUTPUT),
            AttemptRecord(target="quality", started_ms=1, ended_ms=2, outcome=AttemptOutcome.OK),
        ),
        target="quality",
        schema_check=SchemaCheck.VALID,
        total_ms=12.34,
        timings_ms={"classify": 0.1, "upstream": 11.0},
    )
    assert dict(describe(decision)) == {
        b"x-request-id": b"req_1",
        b"x-twolane-task": b"edit",
        b"x-twolane-confidence": b"0.97",
        b"x-twolane-route": b"edits",
        b"x-twolane-target": b"quality",
        b"x-twolane-attempts": b"fast=invalid_output,quality=ok",
        b"x-twolane-fallback": b"invalid_output",
        b"x-twolane-policy": b"abcdef012345",
        b"x-twolane-schema": b"valid",
        b"server-timing": b"classify;dur=0.1, upstream;dur=11.0, total;dur=12.3",
    }


def test_headers_without_a_value_are_omitted() -> None:
    decision = Decision(
        time_s=0,
        query_id="req_1",
        policy="p",
        principal=None,
        classification=Classification(task=Task.CHAT, confidence=0.3, evidence="none"),
        route="",
        private=False,
        stream=False,
    )
    names = {name for name, _ in describe(decision)}
    assert not names & {b"x-twolane-target", b"x-twolane-fallback", b"x-twolane-schema", b"x-twolane-attempts"}
