"""Metrics of decisions."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from gateway.decision import AttemptRecord
from gateway.enums import AttemptOutcome, ErrorSource, Outcome, Reason, SloOutcome
from gateway.policy_files.load import load
from gateway.routing.policy import Policy
from gateway.telemetry.metrics import Metrics

SERVED = "target=quality,task=edit"


def samples(metrics: Metrics) -> dict[str, float]:
    """Samples by name and labels, without buckets."""
    metrics.gauges.refresh()
    page = metrics.render()[0].decode()
    found = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
    return {
        ",".join([sample.name, *(f"{key}={sample.labels[key]}" for key in sorted(sample.labels))]): sample.value
        for sample in found
        if not sample.name.endswith("_bucket")
    }


def test_a_decision_updates_all_its_metrics(decision: Any) -> None:
    metrics = Metrics()
    metrics.decided_all([decision()])
    found = samples(metrics)
    assert found[f"twolane_requests_total,error_source=,outcome=ok,route=edits,status_class=2xx,{SERVED}"] == 1
    assert found["twolane_request_duration_seconds_sum,route=edits,target=quality"] == 0.212
    assert found["twolane_time_to_first_byte_seconds_sum,route=edits,target=quality"] == 0.201
    assert found["twolane_fallbacks_total,from=fast,reason=invalid_output,route=edits,to=careful"] == 1
    assert found["twolane_fallbacks_total,from=careful,reason=circuit_open,route=edits,to=quality"] == 1
    assert found["twolane_skips_total,reason=circuit_open,route=edits,target=careful"] == 1
    assert found["twolane_validations_total,keyword=required,result=invalid,route=edits,target=fast"] == 1
    assert found["twolane_validations_total,keyword=,result=valid,route=edits,target=quality"] == 1
    assert found["twolane_overhead_seconds_sum"] == 0.0003
    attempt = "gen_ai_operation_name=chat,gen_ai_provider_name=other,gen_ai_request_model=quality"
    assert found[f"gen_ai_client_inference_duration_seconds_count,error_type=,{attempt}"] == 1
    for kind, tokens in (("input", 120), ("output", 40)):
        assert (
            found[f"gen_ai_client_inference_usage_{kind}_tokens_total,{attempt},gen_ai_token_modality=unknown"]
            == tokens
        )
    assert not [name for name in found if "careful" in name and name.startswith("gen_ai")]


@pytest.mark.parametrize(("source", "timed"), [("client", 0), ("target", 1), ("gateway", 1)])
def test_errors_are_timed_unless_the_client_caused_them(decision: Any, source: str, timed: int) -> None:
    """Requests that ended at their deadline must not vanish from the latency, nor invalid ones improve it."""
    metrics = Metrics()
    error = {"outcome": Outcome.ERROR, "target": None, "first_byte_ms": None, "error_source": ErrorSource(source)}
    metrics.decided_all([decision(**error, status=502)])
    found = samples(metrics)
    series = f"error_source={source},outcome=error,route=edits,status_class=5xx,target=none,task=edit"
    assert found[f"twolane_requests_total,{series}"] == 1
    assert found.get("twolane_request_duration_seconds_count,route=edits,target=none", 0) == timed


@pytest.mark.parametrize(("first_byte_ms", "timed"), [(None, 1), (20.0, 0)])
def test_the_patience_of_a_client_that_left_before_the_first_byte_is_a_latency(
    decision: Any, first_byte_ms: float | None, timed: int
) -> None:
    """In an outage most clients give up; one that leaves in the middle of an answer has seen enough of it."""
    metrics = Metrics()
    metrics.decided_all([decision(outcome=Outcome.CLIENT_GONE, status=None, first_byte_ms=first_byte_ms)])
    name = "twolane_request_duration_seconds_count,route=edits,target=quality"
    assert samples(metrics).get(name, 0) == timed


def test_the_first_chunk_is_timed_for_streams_alone(decision: Any) -> None:
    metrics = Metrics()
    *_, last = decision().attempts
    metrics.decided_all([decision(attempts=(last, replace(last, stream=True)))])
    found = samples(metrics)
    (count,) = [value for name, value in found.items() if "time_to_first_chunk_seconds_count" in name]
    assert count == 1


def test_embeddings_have_metrics_of_their_own(decision: Any) -> None:
    metrics = Metrics()
    metrics.decided_all([decision(api_path="/v1/embeddings")])
    found = samples(metrics)
    attempt = "gen_ai_operation_name=embeddings,gen_ai_provider_name=other,gen_ai_request_model=quality"
    assert found[f"gen_ai_client_embeddings_duration_seconds_count,error_type=,{attempt}"] == 1
    assert found[f"gen_ai_client_embeddings_operation_input_tokens_sum,{attempt}"] == 120
    assert not [name for name in found if name.startswith("gen_ai_client_inference")]


def test_the_provider_is_the_engine_of_the_target_also_after_it_has_left_the_policy(
    decision: Any, tmp_path: Path
) -> None:
    metrics = Metrics()
    metrics.set_policy(policy_of(tmp_path, "{p95_ms: 730}"), 0.0)
    metrics.set_policy(policy_of(tmp_path, "{p95_ms: 730}", fast="swift"), 0.0)
    metrics.decided_all([decision()])
    found = [name for name in samples(metrics) if name.startswith("gen_ai_client_inference_duration_seconds_count")]
    assert sorted(re.findall(r"provider_name=(\w+),gen_ai_request_model=(\w+)", " ".join(found))) == [
        ("openai", "fast"),
        ("openai", "quality"),
    ]


@pytest.mark.parametrize(
    ("status", "label"), [(200, "200"), (429, "429"), (529, "529"), (None, "none"), (299, "other"), (999, "other")]
)
def test_the_statuses_of_targets_are_counted_and_odd_ones_share_a_label(
    decision: Any, status: int | None, label: str
) -> None:
    metrics = Metrics()
    attempt = AttemptRecord(target="fast", started_ms=1, ended_ms=2, outcome=Reason.UPSTREAM_ERROR, status=status)
    metrics.decided_all([decision(attempts=(attempt, replace(attempt, skipped=True)))])
    found = {name: value for name, value in samples(metrics).items() if name.startswith("twolane_target_responses")}
    assert found == {f"twolane_target_responses_total,status={label},target=fast": 1}


def test_a_client_that_left_received_no_status(decision: Any) -> None:
    metrics = Metrics()
    metrics.decided_all([decision(outcome=Outcome.CLIENT_GONE, status=None)])
    assert samples(metrics)[
        f"twolane_requests_total,error_source=,outcome=client_gone,route=edits,status_class=,{SERVED}"
    ]


def test_a_hedge_is_no_fallback(decision: Any) -> None:
    metrics = Metrics()
    first, *_, last = decision().attempts
    metrics.decided_all([decision(attempts=(replace(first, outcome=Reason.HEDGE), last))])
    assert not [name for name in samples(metrics) if name.startswith("twolane_fallbacks_total,")]


def test_every_response_is_counted_by_its_status() -> None:
    metrics = Metrics()
    for status in (200, 401, 401):
        metrics.responded(status)
    assert samples(metrics)["twolane_http_responses_total,status=401"] == 2


def test_two_gateways_in_one_process_do_not_mix(decision: Any) -> None:
    first, second = Metrics(), Metrics()
    first.decided_all([decision()])
    assert f"twolane_requests_total,error_source=,outcome=ok,route=edits,status_class=2xx,{SERVED}" not in samples(
        second
    )


@pytest.mark.parametrize(
    ("outcome", "elapsed_ms", "result"),
    [
        (AttemptOutcome.OK, 90.0, "met"),
        (AttemptOutcome.OK, 110.0, "late"),
        (Reason.INVALID_OUTPUT, 90.0, "met"),
        (Reason.HEDGE, 110.0, "late"),
        (Reason.HEDGE, 90.0, None),
        (AttemptOutcome.CANCELLED, 90.0, None),
        (Reason.UPSTREAM_ERROR, 1.0, "failed"),
        (Reason.OVERLOADED, 110.0, "failed"),
        (Reason.REFUSED, 110.0, None),
    ],
)
def test_an_attempt_meets_or_misses_the_slo_or_does_not_count(
    decision: Any, outcome: Reason | AttemptOutcome, elapsed_ms: float, result: str | None
) -> None:
    attempt = AttemptRecord(target="fast", started_ms=5.0, ended_ms=5.0 + elapsed_ms, outcome=outcome, budget_ms=100.0)
    metrics = Metrics()
    metrics.decided_all(
        [decision(attempts=(attempt, replace(attempt, budget_ms=None), replace(attempt, skipped=True)))]
    )
    found = {name: count for name, count in samples(metrics).items() if name.startswith("twolane_slo_events")}
    lane = "twolane_slo_events_total,result={},route=edits,target=fast"
    assert found == ({lane.format(each): each == result for each in SloOutcome} if result else {})


def test_a_refused_policy_is_shown_until_a_valid_one_is_loaded() -> None:
    metrics = Metrics()
    seen = []
    for result in ("refused", "changed"):
        metrics.reloaded(result)
        seen.append(samples(metrics)["twolane_policy_current"])
    assert seen == [0, 1]


def test_dropped_log_lines_are_counted() -> None:
    metrics = Metrics()
    metrics.dropped(3)
    assert samples(metrics)["twolane_decisions_dropped_total"] == 3


def policy_of(tmp_path: Path, slo: str, *, fast: str = "fast") -> Policy:
    (tmp_path / "policy.yaml").write_text(
        f"""
version: 1
targets:
  {fast}: {{kind: openai, engine: openai, url: "http://127.0.0.1:1", model: m, location: in_cluster}}
  quality: {{kind: openai, engine: openai, url: "http://127.0.0.1:2", model: m, location: external}}
routes:
  - {{name: edits, when: {{task: edit}}, use: {fast}, fall_back: quality, slo: {slo}}}
  - {{name: default, use: quality}}
"""
    )
    return load(tmp_path / "policy.yaml", {})


def bounds_of(metrics: Metrics, name: str) -> set[str]:
    metrics.gauges.refresh()
    return set(re.findall(rf'^{name}_bucket{{.*le="(.*?)".*}} ', metrics.render()[0].decode(), re.MULTILINE))


def test_slo_objectives_are_bucket_bounds_of_latency_histograms(decision: Any, tmp_path: Path) -> None:
    """Also after a reload, which resets the histograms only if a bound is new."""
    metrics = Metrics()
    metrics.set_policy(policy_of(tmp_path, "{p95_ms: 730, first_token_p95_ms: 37}"), 0.0)
    metrics.decided_all([decision()])
    for name in ("twolane_request_duration_seconds", "gen_ai_client_inference_duration_seconds"):
        assert {"0.73", "0.037", "1.0"} <= bounds_of(metrics, name)
    metrics.set_policy(policy_of(tmp_path, "{p95_ms: 730}"), 0.0)
    assert samples(metrics)["twolane_request_duration_seconds_count,route=edits,target=quality"] == 1
    metrics.set_policy(policy_of(tmp_path, "{p95_ms: 731}"), 0.0)
    metrics.decided_all([decision()])
    assert "0.731" in bounds_of(metrics, "twolane_request_duration_seconds")
    assert "0.73" not in bounds_of(metrics, "twolane_request_duration_seconds")
    found = samples(metrics)
    assert found["twolane_request_duration_seconds_count,route=edits,target=quality"] == 1
    assert found[f"twolane_requests_total,error_source=,outcome=ok,route=edits,status_class=2xx,{SERVED}"] == 2


def test_lane_latency_uses_the_numbers_of_the_guard(decision: Any, tmp_path: Path) -> None:
    metrics = Metrics()
    metrics.set_policy(policy_of(tmp_path, "{p95_ms: 100, first_token_p95_ms: 50}"), 0.0)
    good = AttemptRecord(
        target="fast", started_ms=5.0, ended_ms=45.0, outcome=AttemptOutcome.OK, budget_ms=100.0, stream=True,
        first_token_ms=15.0,
    )  # fmt: skip
    fault = replace(good, outcome=Reason.UPSTREAM_ERROR, first_token_ms=None)
    given_up = replace(good, outcome=AttemptOutcome.CANCELLED, first_token_ms=None, ended_ms=85.0)
    metrics.decided_all([decision(attempts=(good, fault, given_up, replace(good, target="quality", budget_ms=None)))])
    found = samples(metrics)
    assert found["twolane_lane_latency_seconds_count,route=edits,target=fast"] == 1
    assert found["twolane_lane_latency_seconds_sum,route=edits,target=fast"] == pytest.approx(0.04)
    assert found["twolane_lane_first_token_seconds_count,route=edits,target=fast"] == 2  # one arrived, one late
    assert found["twolane_lane_first_token_seconds_sum,route=edits,target=fast"] == pytest.approx(0.09)
    assert not [name for name in found if name.startswith("twolane_lane_") and "quality" in name]


@pytest.mark.parametrize(
    ("outcome", "result"),
    [(AttemptOutcome.OK, "won"), (Reason.HEDGE, "lost"), (Reason.UPSTREAM_ERROR, "failed")],
)
def test_a_hedge_wins_loses_or_fails(decision: Any, outcome: Reason | AttemptOutcome, result: str) -> None:
    metrics = Metrics()
    metrics.decided_all(
        [decision(attempts=(AttemptRecord(target="b", started_ms=1, ended_ms=2, outcome=outcome, hedge=True),))]
    )
    assert samples(metrics)[f"twolane_hedges_total,result={result},route=edits"] == 1


def test_text_from_schemas_and_targets_never_becomes_a_label(decision: Any) -> None:
    metrics = Metrics()
    for number in range(50):
        detail = f"x-secret-{number} at #/properties/{number}"
        bad = AttemptRecord(target="fast", started_ms=1, ended_ms=2, outcome=Reason.INVALID_OUTPUT, detail=detail)
        metrics.decided_all([decision(attempts=(bad,), query_id=f"req_{number}")])
    found = samples(metrics)
    assert found["twolane_validations_total,keyword=other,result=invalid,route=edits,target=fast"] == 50
    assert not [name for name in found if "secret" in name]


def test_openmetrics_is_served_on_request(decision: Any) -> None:
    metrics = Metrics()
    metrics.decided_all([decision()])
    page, content_type = metrics.render("application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert page.endswith(b"# EOF\n")
    families = {family.name for family in openmetrics_families(page.decode())}
    assert {"twolane_requests", "twolane_lane_latency_seconds"} <= families
    assert metrics.render("application/openmetrics-text;version=nonsense")[0] == page
    assert metrics.render("text/html")[1].startswith("text/plain; version=0.0.4")
