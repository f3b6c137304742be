"""A decision as metrics."""

from dataclasses import replace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.decisions import Attempt
from gateway.telemetry.metrics import Metrics
from gateway.words import AttemptOutcome, Outcome, Reason


def samples(metrics: Metrics) -> dict[str, float]:
    """Samples by name and labels, buckets left out."""
    page = metrics.render().decode()
    found = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
    return {
        ",".join([sample.name, *(f"{key}={sample.labels[key]}" for key in sorted(sample.labels))]): sample.value
        for sample in found
        if not sample.name.endswith("_bucket")
    }


def test_one_decision_is_counted_everywhere_it_says_something(decision: Any) -> None:
    metrics = Metrics()
    metrics.decided(decision())
    told = samples(metrics)
    assert told["twolane_requests_total,outcome=ok,route=edits,target=quality,task=edit"] == 1
    assert told["twolane_request_duration_seconds_sum,route=edits,target=quality"] == 0.212
    assert told["twolane_time_to_first_byte_seconds_sum,route=edits,target=quality"] == 0.201
    assert told["twolane_fallbacks_total,from=fast,reason=invalid_output,route=edits,to=careful"] == 1
    assert told["twolane_fallbacks_total,from=careful,reason=circuit_open,route=edits,to=quality"] == 1
    assert told["twolane_skips_total,reason=circuit_open,route=edits,target=careful"] == 1
    assert told["twolane_validations_total,keyword=required,result=invalid,route=edits,target=fast"] == 1
    assert told["twolane_validations_total,keyword=,result=valid,route=edits,target=quality"] == 1
    assert told["twolane_overhead_seconds_sum"] == 0.0003
    attempt = "gen_ai_operation_name=chat,gen_ai_request_model=quality"
    assert told[f"gen_ai_client_operation_duration_seconds_count,error_type=,{attempt}"] == 1
    assert told[f"gen_ai_client_token_usage_sum,{attempt},gen_ai_token_type=output"] == 40
    assert not [name for name in told if "careful" in name and name.startswith("gen_ai")]


def test_only_good_answers_are_timed(decision: Any) -> None:
    """Quick errors would make a slow target look quick."""
    metrics = Metrics()
    metrics.decided(decision(outcome=Outcome.ERROR, target=None, first_byte_ms=None))
    told = samples(metrics)
    assert told["twolane_requests_total,outcome=error,route=edits,target=none,task=edit"] == 1
    assert not [name for name in told if name.startswith("twolane_request_duration_seconds_count")]


def test_two_gateways_in_one_process_do_not_mix(decision: Any) -> None:
    first, second = Metrics(), Metrics()
    first.decided(decision())
    assert "twolane_requests_total,outcome=ok,route=edits,target=quality,task=edit" not in samples(second)


@pytest.mark.parametrize(
    ("outcome", "elapsed_ms", "result"),
    [
        (AttemptOutcome.OK, 90.0, "kept"),
        (AttemptOutcome.OK, 110.0, "over"),
        (Reason.INVALID_OUTPUT, 90.0, "kept"),
        (Reason.HEDGE, 110.0, "over"),
        (Reason.HEDGE, 90.0, None),
        (AttemptOutcome.CANCELLED, 90.0, None),
        (Reason.UPSTREAM_ERROR, 1.0, "failed"),
        (Reason.OVERLOADED, 110.0, "failed"),
        (Reason.REFUSED, 110.0, None),
    ],
)
def test_a_lanes_promise_is_kept_missed_or_not_touched(
    decision: Any, outcome: Reason | AttemptOutcome, elapsed_ms: float, result: str | None
) -> None:
    attempt = Attempt(target="fast", started_ms=5.0, ended_ms=5.0 + elapsed_ms, outcome=outcome, budget_ms=100.0)
    metrics = Metrics()
    metrics.decided(decision(attempts=(attempt, replace(attempt, budget_ms=None), replace(attempt, skipped=True))))
    told = {name: count for name, count in samples(metrics).items() if name.startswith("twolane_lane_promises")}
    assert told == ({f"twolane_lane_promises_total,result={result},route=edits,target=fast": 1} if result else {})


def test_a_refused_policy_shows_until_the_next_that_loads() -> None:
    metrics = Metrics()
    seen = []
    for result in ("refused", "changed"):
        metrics.reloaded(result)
        seen.append(samples(metrics)["twolane_policy_current"])
    assert seen == [0, 1]


def test_lines_that_the_log_dropped_are_told_where_there_is_a_log() -> None:
    metrics = Metrics()
    assert "twolane_decisions_dropped_total" not in samples(metrics)
    metrics.watch_log(lambda: 3)
    assert samples(metrics)["twolane_decisions_dropped_total"] == 3
