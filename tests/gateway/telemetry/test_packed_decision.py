"""Decisions survive being packed."""

from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio

from gateway.decision import AttemptRecord, Decision
from gateway.enums import ErrorSource, Outcome, SchemaCheck, Task
from gateway.telemetry import recent_decisions
from gateway.telemetry.packed_decision import pack, unpack
from gateway.telemetry.recent_decisions import RecentDecisions
from gateway.types import Classification, Usage
from twolane.process.trace_context import Trace
from twolane.process.tracing.tracer import Tracer

FINITE = st.floats(allow_nan=False)
USAGES = st.none() | st.builds(Usage, cost=st.none() | FINITE, confidence=st.none() | FINITE)


@st.composite
def attempts(draw: st.DrawFn) -> AttemptRecord:
    record = draw(st.builds(AttemptRecord, usage=USAGES, started_ms=FINITE, ended_ms=FINITE))
    if record.usage is None:
        record.estimate = draw(USAGES)
    return record


DECISIONS = st.builds(
    Decision,
    classification=st.builds(Classification, confidence=FINITE),
    attempts=st.lists(attempts(), max_size=3).map(tuple),
    usage=USAGES,
    outcome=st.sampled_from(Outcome),
    error_source=st.none() | st.sampled_from(ErrorSource),
    schema_check=st.none() | st.sampled_from(SchemaCheck),
    locations=st.none() | st.frozensets(st.text(max_size=4), max_size=3),
    timings_ms=st.dictionaries(st.text(max_size=4), FINITE, max_size=3),
    answered_by=st.lists(st.tuples(st.text(max_size=4), st.lists(st.integers(0, 9)).map(tuple)), max_size=2).map(tuple),
    trace=st.none() | st.builds(Trace, parent_id=st.integers(0, (1 << 64) - 1), state=st.text(max_size=4)),
)


@given(DECISIONS)
def test_an_unpacked_decision_is_the_packed_one(made: Decision) -> None:
    packed = pack(made)
    assert packed is not None
    assert unpack(packed) == made
    assert [type(each.outcome) for each in unpack(packed).attempts] == [type(each.outcome) for each in made.attempts]


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_decision_of_a_new_trace_is_unpacked_with_its_ids(decision: Any, share: float) -> None:
    tracer = Tracer(ParentBasedTraceIdRatio(share), Mock(), Resource.get_empty())
    for _ in range(200):
        made = replace(decision(), trace=(trace := tracer.begin(None)))
        assert trace.is_recorded == bool(share)
        assert unpack(pack(made) or b"") == made
        assert made.trace is trace
        assert trace.traceparent == f"00-{trace.hex_id}-{trace.span_id:016x}-0{int(share)}"


def test_a_decision_that_cannot_be_packed_is_kept_as_it_is(decision: Any) -> None:
    made = replace(decision(), usage=Usage(input_tokens=1 << 80))
    assert pack(made) is None
    recent = RecentDecisions(50)
    for _ in range(40):
        recent.decided_all([made])
    assert recent.latest(50) == [made] * 40


def test_as_many_decisions_are_kept_as_the_capacity_says_whether_packed_or_not(decision: Any) -> None:
    recent = RecentDecisions(20)
    made = [decision(query_id=f"req_{number}", classification=_classified(number)) for number in range(100)]
    for count, each in enumerate(made, 1):
        recent.decided_all([each])
        assert recent.latest(1000) == made[max(0, count - 20) : count][::-1]
        assert recent.get(f"req_{count - 21}") is None
        assert recent.get(f"req_{max(0, count - 20)}") == made[max(0, count - 20)]


def test_a_decision_is_found_without_unpacking_the_others(decision: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    recent = RecentDecisions(640)
    for number in range(640):
        recent.decided_all([decision(query_id=f"req_{number:03d}", target="t")])
    unpacked: list[bytes] = []
    monkeypatch.setattr(recent_decisions, "unpack", lambda packed: (unpacked.append(packed), unpack(packed))[1])
    assert recent.get("req_064") == decision(query_id="req_064", target="t")
    assert len(unpacked) == 1
    assert recent.get("ok") is recent.get("t") is recent.get("req_06") is None
    assert len(unpacked) == 1


def _classified(number: int) -> Classification:
    return Classification(task=Task.EDIT, confidence=number / 100, evidence="words: a, b", probabilities=(0.5, 0.5))
