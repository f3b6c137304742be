"""Every metric name of the gateway, with its labels. Label values come from policies and closed sets only."""

from typing import Final

REQUESTS: Final = "twolane_requests_total"
REQUEST_SECONDS: Final = "twolane_request_duration_seconds"
FIRST_BYTE_SECONDS: Final = "twolane_time_to_first_byte_seconds"
FALLBACKS: Final = "twolane_fallbacks_total"
SKIPS: Final = "twolane_skips_total"
HEDGES: Final = "twolane_hedges_total"
SHADOWS: Final = "twolane_shadows_total"
VALIDATIONS: Final = "twolane_validations_total"
PROMISES: Final = "twolane_lane_promises_total"
OVERHEAD_SECONDS: Final = "twolane_overhead_seconds"
POLICY_RELOADS: Final = "twolane_policy_reloads_total"
POLICY_CURRENT: Final = "twolane_policy_current"
DECISIONS_DROPPED: Final = "twolane_decisions_dropped_total"

LANE_STATE: Final = "twolane_lane_state"
LANE_P95_SECONDS: Final = "twolane_lane_p95_seconds"
LANE_BUDGET_SECONDS: Final = "twolane_lane_budget_seconds"
BREAKER_STATE: Final = "twolane_breaker_state"
IN_FLIGHT: Final = "twolane_in_flight"
POLICY_INFO: Final = "twolane_policy_info"
COST: Final = "twolane_cost_dollars_total"
STORE_UP: Final = "twolane_store_up"

# OpenTelemetry's conventions for clients of generative models, one sample per attempt.
OPERATION_SECONDS: Final = "gen_ai_client_operation_duration_seconds"
FIRST_CHUNK_SECONDS: Final = "gen_ai_client_operation_time_to_first_chunk_seconds"
TOKEN_USAGE: Final = "gen_ai_client_token_usage"  # noqa: S105 - tokens of a vocabulary

SECONDS_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 1.5, 2, 3, 5, 8, 13, 21, 34, 60, 120)
OVERHEAD_BUCKETS: Final = (0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.5)
TOKEN_BUCKETS: Final = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536)
