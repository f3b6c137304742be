"""Decisions that are counted in one step count as those that are counted one by one."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.decision import AttemptRecord, Decision
from gateway.enums import AttemptOutcome, ErrorSource, Outcome, Reason, SchemaCheck, Task
from gateway.routing.policy import Policy
from gateway.telemetry import common_decisions
from gateway.telemetry.common_decisions import CommonDecisions
from gateway.telemetry.metrics import Metrics
from gateway.types import Classification, Usage
from tests.gateway.telemetry.test_metrics import policy_of

TIMES = st.floats(0, 1e6)
TOKENS = st.none() | st.integers(0, 1000)
USAGES = st.none() | st.builds(
    Usage,
    input_tokens=TOKENS,
    output_tokens=TOKENS,
    cost=st.sampled_from([None, 0.25]),
    confidence=st.sampled_from([None, 0.5]),
)
ATTEMPTS = st.builds(
    AttemptRecord,
    target=st.sampled_from(["fast", "quality"]),
    started_ms=TIMES,
    ended_ms=TIMES,
    outcome=st.sampled_from([AttemptOutcome.OK, AttemptOutcome.OK, Reason.LOW_CONFIDENCE]),
    first_byte_ms=st.none() | TIMES,
    first_token_ms=st.none() | TIMES,
    stream=st.booleans(),
    status=st.sampled_from([None, 200, 299]),
    skipped=st.sampled_from([False, False, True]),
    hedge=st.booleans(),
    usage=USAGES,
    estimate=st.none() | st.builds(Usage, input_tokens=TOKENS, output_tokens=TOKENS, cost=st.just(0.5)),
    budget_ms=st.sampled_from([None, 5e5]),
    queued_ms=st.sampled_from([None, None, 3.0]),
    ignored=st.sampled_from([(), ("seed",), ("seed", "top_k")]),
)
DECISIONS = st.builds(
    Decision,
    principal=st.sampled_from([None, "anna"]),
    classification=st.builds(Classification, task=st.sampled_from([Task.EDIT, Task.CHAT]), confidence=st.just(1.0)),
    route=st.sampled_from(["edits", ""]),
    attempts=st.lists(ATTEMPTS, min_size=1, max_size=2).map(tuple),
    target=st.sampled_from([None, "fast"]),
    outcome=st.sampled_from([Outcome.OK, Outcome.OK, Outcome.ERROR]),
    status=st.sampled_from([200, 429]),
    schema_check=st.none() | st.sampled_from(SchemaCheck),
    first_byte_ms=st.none() | TIMES,
    total_ms=TIMES,
    overhead_ms=TIMES,
    api_path=st.sampled_from(["/v1/chat/completions", "/v1/embeddings", "/v1/completions"]),
)


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    return policy_of(tmp_path_factory.mktemp("policy"), "{p95_ms: 730, first_token_p95_ms: 37}")


def page_of(decisions: list[Decision], policy: Policy) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    metrics = Metrics()
    metrics.set_policy(policy, 0.0)
    metrics.decided_all(decisions)
    metrics.flush()
    found = [sample for family in metrics.registry.collect() for sample in family.samples]
    return {(each.name, frozenset(each.labels.items())): each.value for each in found}


@settings(max_examples=20)
@given(decisions=st.lists(DECISIONS, max_size=6))
def test_the_page_is_that_of_counting_one_by_one(policy: Policy, decisions: list[Decision]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(common_decisions, "_MOST", 2)
        made = page_of(decisions, policy)
        patch.setattr(CommonDecisions, "take", lambda *_: False)
        expected = page_of(decisions, policy)
    assert made == pytest.approx(expected)


def test_most_decisions_are_counted_in_one_step(decision: Any) -> None:
    metrics = Metrics()
    [*_, served] = decision().attempts
    assert metrics._common.take(decision(attempts=(served,)))
    assert not metrics._common.take(decision())


# What labels depend on, with another value of each.
OF_DECISION: dict[str, Any] = {
    "route": "other",
    "classification": Classification(task=Task.CODE, confidence=0.5, evidence="words"),
    "target": "other",
    "principal": "bob",
    "api_path": "/v1/completions",
    "status": 302,
    "error_source": ErrorSource.TARGET,
    "schema_check": SchemaCheck.REPAIRED,
}
OF_ATTEMPT: dict[str, Any] = {
    "target": "other",
    "status": 201,
    "stream": True,
    "ignored": ("seed",),
    "hedge": True,
    "skipped": True,
    "budget_ms": 1e-3,
    "usage": None,
}


@pytest.mark.parametrize("name", [*OF_DECISION, *(f"attempt {name}" for name in OF_ATTEMPT)])
def test_decisions_with_other_labels_count_apart(
    decision: Any, policy: Policy, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = replace(decision().attempts[-1], target="fast", status=200, budget_ms=730.0, first_token_ms=60.0)
    first = decision(attempts=(served,))
    of_attempt = name.removeprefix("attempt ")
    if of_attempt == name:
        second = replace(first, **{name: OF_DECISION[name]})
    else:
        second = replace(first, attempts=(replace(served, **{of_attempt: OF_ATTEMPT[of_attempt]}),))
    made = page_of([first, second], policy)
    monkeypatch.setattr(CommonDecisions, "take", lambda *_: False)
    assert made == page_of([first, second], policy)
    assert made != page_of([first, first], policy)
