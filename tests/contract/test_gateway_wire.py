"""The gateway's interface for applications, dashboards and log readers: enum values, headers, metrics and codes, by
name."""

import re
from typing import Any

import pytest

from gateway import enums, errors
from gateway.settings import Settings
from gateway.telemetry import metric_names as names
from gateway.web import headers
from tests.gateway.serving import fake_server, real_gateway

pytestmark = pytest.mark.anyio

CLOSED_SETS = {
    enums.Task: "edit autocomplete structured extraction reasoning chat agent code summarize translate",
    enums.Reason: "invalid_output p95_breach deadline hedge upstream_error upstream_auth overloaded not_resident"
    " circuit_open unsupported context_length_exceeded low_confidence refused",
    enums.LaneState: "serving probing ejected",
    enums.BreakerState: "closed open half_open",
    enums.Outcome: "ok error client_gone",
    enums.AttemptOutcome: "ok incomplete cancelled",
    enums.SchemaCheck: "valid repaired truncated",
    enums.Capability: "chat completions suffix prediction json_schema json_object regex choice template grammar"
    " tools tool_choice seed temperature top_p top_k min_p presence_penalty frequency_penalty repetition_penalty"
    " reasoning_effort logprobs prompt_logprobs logit_bias stop n stream images embeddings decisions responses",
    enums.Grade: "none best_effort guaranteed warm_start anchored",
    enums.Buffer: "full first_bytes none",
    enums.OnLowConfidence: "error serve_surest",
}
HEADERS = (
    "x-request-id request-id x-twolane-task x-twolane-confidence x-twolane-route x-twolane-target x-twolane-attempts"
    " x-twolane-fallback x-twolane-low-confidence x-twolane-ignored x-twolane-answered-by x-twolane-policy"
    " x-twolane-schema server-timing traceresponse retry-after x-should-retry x-ratelimit- x-twolane-token-count"
    " x-twolane-gateway"
)
METRICS = (
    "gen_ai_client_inference_duration_seconds gen_ai_client_inference_time_to_first_chunk_seconds"
    " gen_ai_client_inference_usage_input_tokens_total gen_ai_client_inference_usage_output_tokens_total"
    " gen_ai_client_embeddings_duration_seconds gen_ai_client_embeddings_operation_input_tokens"
    " twolane_key_requests_total twolane_key_tokens_total twolane_key_cost_dollars_total"
    " twolane_key_rate_limited_total twolane_target_responses_total"
    " twolane_requests_total twolane_request_duration_seconds"
    " twolane_time_to_first_byte_seconds twolane_fallbacks_total twolane_skips_total twolane_validations_total"
    " twolane_lane_state twolane_lane_p95_seconds twolane_lane_budget_seconds twolane_breaker_state twolane_in_flight"
    " twolane_overhead_seconds twolane_policy_info twolane_policy_reloads_total twolane_hedges_total twolane_store_up"
    " twolane_shadows_total twolane_cost_dollars_total twolane_attempts_total"
    " twolane_answer_confidence twolane_lane_latency_seconds twolane_lane_first_token_seconds"
    " twolane_lane_first_token_budget_seconds twolane_target_residency twolane_target_predicted_wait_seconds"
    " twolane_policy_loaded_timestamp_seconds twolane_policy_current twolane_build_info"
    " twolane_decisions_dropped_total twolane_slo_events_total twolane_observer_faults_total"
    " twolane_listener_refusals_total twolane_bytes_in_flight"
    " twolane_ignored_parameters_total twolane_requests_waiting twolane_event_loop_lag_seconds"
    " twolane_queue_wait_seconds twolane_shed_requests_total twolane_http_responses_total"
)
CODES = (
    "overloaded not_resident invalid_output no_route deadline_exceeded no_private_target no_target_in_location"
    " model_not_found"
    " rate_limit_exceeded insufficient_quota context_length_exceeded draining invalid_api_key"
)
POLICY = """
version: 1
targets:
  first: {kind: openai, engine: openai, url: "%s", model: m, location: in_cluster}
  second: {kind: openai, engine: openai, url: "%s", model: m, location: external}
routes:
  - {name: default, use: first, fall_back: second, slo: {p95_ms: 500}, validate: {schema: request}}
"""


@pytest.mark.parametrize("words", CLOSED_SETS)
def test_closed_sets_hold_exactly_the_contracts_words(words: Any) -> None:
    assert {word.value for word in words} == set(CLOSED_SETS[words].split())


def test_header_names_are_the_contracts() -> None:
    written = {value.decode() for value in vars(headers).values() if isinstance(value, bytes)}
    assert written == set(HEADERS.split())


def test_metric_names_are_the_contracts() -> None:
    written = {
        value for value in vars(names).values() if isinstance(value, str) and re.match(r"(twolane|gen_ai)_\w+$", value)
    }
    assert written == set(METRICS.split())


def test_error_codes_on_the_wire_include_the_contracts() -> None:
    known = {kind.code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)}
    assert set(CODES.split()) <= known


def test_ports_are_the_contracts() -> None:
    assert (Settings().port, Settings().admin_port) == (8080, 8090)


async def test_a_fallback_is_told_in_headers_and_counted_under_the_contracts_labels(tmp_path: Any) -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object", "required": ["n"]}}}
    body = {"model": "auto", "messages": [{"role": "user", "content": "hi"}], "response_format": schema}
    async with fake_server() as server, real_gateway(tmp_path, POLICY % (server.url, server.url)) as gateway:
        status, told, error = await gateway.ask(body)
        page = await gateway.metrics()
    assert (status, error["error"]["code"]) == (502, "invalid_output")
    assert told["x-twolane-attempts"] == "first=invalid_output,second=invalid_output"
    labels = {
        "twolane_requests_total": "error_source outcome route status_class target task",
        "twolane_fallbacks_total": "from reason route to",
        "twolane_validations_total": "keyword result route target",
        "twolane_lane_state": "route target",
        "twolane_lane_budget_seconds": "route target",
        "twolane_breaker_state": "target",
        "twolane_in_flight": "target",
        "twolane_policy_info": "hash",
    }
    for name, expected in labels.items():
        found = re.search(rf"^{name}\{{(.*?)\}} ", page, re.MULTILINE)
        assert found, name
        assert sorted(re.findall(r'(\w+)="', found[1])) == expected.split(), name


async def test_values_of_requests_never_become_labels(tmp_path: Any) -> None:
    """Cardinality is bounded by the policy."""
    async with fake_server() as server, real_gateway(tmp_path, POLICY % (server.url, server.url)) as gateway:
        await gateway.ask({"model": "STRANGE", "messages": [{"role": "user", "content": "STRANGE"}]})
        await gateway.ask({"model": "auto", "messages": [{"role": "user", "content": "x"}], "user": "STRANGE"})
        assert "STRANGE" not in await gateway.metrics()
