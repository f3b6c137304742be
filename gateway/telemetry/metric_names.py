"""Every metric name of the gateway. Label values come from policies, keys files and closed enums, never from requests.

Dashboards, alerts and documents use these names: change them together.
"""

from http import HTTPStatus
from typing import Final

REQUESTS: Final = "twolane_requests_total"
HTTP_RESPONSES: Final = "twolane_http_responses_total"
REQUEST_SECONDS: Final = "twolane_request_duration_seconds"
FIRST_BYTE_SECONDS: Final = "twolane_time_to_first_byte_seconds"
ATTEMPTS: Final = "twolane_attempts_total"
TARGET_RESPONSES: Final = "twolane_target_responses_total"
FALLBACKS: Final = "twolane_fallbacks_total"
SKIPS: Final = "twolane_skips_total"
IGNORED: Final = "twolane_ignored_parameters_total"
HEDGES: Final = "twolane_hedges_total"
SHADOWS: Final = "twolane_shadows_total"
VALIDATIONS: Final = "twolane_validations_total"
SLO_EVENTS: Final = "twolane_slo_events_total"
CONFIDENCE: Final = "twolane_answer_confidence"
OVERHEAD_SECONDS: Final = "twolane_overhead_seconds"
COST: Final = "twolane_cost_dollars_total"
OBSERVER_FAULTS: Final = "twolane_observer_faults_total"
DECISIONS_DROPPED: Final = "twolane_decisions_dropped_total"
LISTENER_REFUSALS: Final = "twolane_listener_refusals_total"
BYTES_IN_FLIGHT: Final = "twolane_bytes_in_flight"

KEY_REQUESTS: Final = "twolane_key_requests_total"
KEY_TOKENS: Final = "twolane_key_tokens_total"
KEY_COST: Final = "twolane_key_cost_dollars_total"
KEY_RATE_LIMITED: Final = "twolane_key_rate_limited_total"

LANE_SECONDS: Final = "twolane_lane_latency_seconds"
LANE_FIRST_TOKEN_SECONDS: Final = "twolane_lane_first_token_seconds"  # noqa: S105 - a metric
LANE_STATE: Final = "twolane_lane_state"
LANE_P95_SECONDS: Final = "twolane_lane_p95_seconds"
LANE_BUDGET_SECONDS: Final = "twolane_lane_budget_seconds"
LANE_FIRST_TOKEN_BUDGET: Final = "twolane_lane_first_token_budget_seconds"  # noqa: S105 - a metric
BREAKER_STATE: Final = "twolane_breaker_state"
WAITING: Final = "twolane_requests_waiting"
QUEUE_WAIT_SECONDS: Final = "twolane_queue_wait_seconds"
IN_FLIGHT: Final = "twolane_in_flight"
TARGET_RESIDENCY: Final = "twolane_target_residency"
TARGET_WAIT_SECONDS: Final = "twolane_target_predicted_wait_seconds"

POLICY_INFO: Final = "twolane_policy_info"
POLICY_RELOADS: Final = "twolane_policy_reloads_total"
POLICY_LOADED: Final = "twolane_policy_loaded_timestamp_seconds"
POLICY_CURRENT: Final = "twolane_policy_current"
STORE_UP: Final = "twolane_store_up"
LOOP_LAG_SECONDS: Final = "twolane_event_loop_lag_seconds"
SHED: Final = "twolane_shed_requests_total"
BUILD_INFO: Final = "twolane_build_info"

# OpenTelemetry's conventions for clients of generative models (`semantic_conventions`), one sample per attempt.
INFERENCE_SECONDS: Final = "gen_ai_client_inference_duration_seconds"
FIRST_CHUNK_SECONDS: Final = "gen_ai_client_inference_time_to_first_chunk_seconds"
INPUT_TOKENS: Final = "gen_ai_client_inference_usage_input_tokens_total"
OUTPUT_TOKENS: Final = "gen_ai_client_inference_usage_output_tokens_total"
EMBEDDINGS_SECONDS: Final = "gen_ai_client_embeddings_duration_seconds"
EMBEDDINGS_TOKENS: Final = "gen_ai_client_embeddings_operation_input_tokens"

# Neighbours are at most a factor of 2 apart, as in the conventions; the objectives of the policy are added.
SECONDS_BUCKETS: Final = (
    *(0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8),
    *(1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 20.0, 35.0, 60.0, 120.0),
)
OVERHEAD_BUCKETS: Final = (0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.5)
LAG_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
CONFIDENCE_BUCKETS: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 1.0)
TOKEN_BUCKETS: Final = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536)

# Values of the label `keyword`: keywords of JSON Schema that can fail, and the gateway's own checks.
KEYWORDS: Final = frozenset(
    """additionalItems additionalProperties allOf anyOf const contains contentEncoding contentMediaType dependencies
    dependentRequired dependentSchemas enum exclusiveMaximum exclusiveMinimum falseSchema format if items maxContains
    maxItems maxLength maxProperties maximum minContains minItems minLength minProperties minimum multipleOf not oneOf
    pattern patternProperties prefixItems propertyNames required type unevaluatedItems unevaluatedProperties uniqueItems
    choice choices cost json name regex""".split()
)
OTHER: Final = "other"
NONE: Final = "none"
MAX_KEYS: Final = 500  # names of API keys that are labels; those that come later share the label `other`

# Values of the label `status` of targets: statuses that are registered, or that proxies and providers invented.
STATUSES: Final = frozenset(status.value for status in HTTPStatus) | {499, *range(520, 531)}
