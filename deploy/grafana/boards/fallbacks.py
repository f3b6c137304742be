"""Why requests were served by another target: fallbacks, skipped targets, hedges and validation results."""

from typing import Final

from deploy.grafana.panels import Board, Section, lines, quantile, rate, share_of

FALLBACK: Final = "twolane_fallbacks_total"
HEDGES: Final = "twolane_hedges_total"
VALIDATED: Final = "twolane_validations_total"

_CHANGES: Final = Section(
    title="Fallbacks",
    panels=(
        lines(
            "Fallbacks by reason",
            "Fallbacks per second by the reason the target's response was not used.",
            "reqps",
            rate(FALLBACK, "reason"),
        ),
        lines("Fallbacks by direction", "From which target to which target.", "reqps", rate(FALLBACK, "from", "to")),
        lines(
            "Fallbacks per request",
            "Fallbacks divided by requests of the route. Above 100 % if requests fall back more than once.",
            "percentunit",
            share_of(FALLBACK, "twolane_requests_total", "route", where=""),
        ),
        lines(
            "Skipped targets",
            "Candidate targets that were not called: ejected, breaker open, overloaded or not eligible.",
            "reqps",
            rate("twolane_skips_total", "target", "reason"),
        ),
        lines(
            "Attempts by outcome",
            "All attempts: ok, cancelled or the failure reason.",
            "reqps",
            rate("twolane_attempts_total", "target", "outcome"),
        ),
        lines(
            "Response confidence",
            "Confidence reported by the worker, 5th and 50th percentile. Responses below `min_confidence` fall back.",
            "percentunit",
            quantile(0.05, "twolane_answer_confidence", "target"),
            quantile(0.5, "twolane_answer_confidence", "target"),
        ),
        lines(
            "Low-confidence fallbacks",
            "Responses below the route's `min_confidence`.",
            "reqps",
            rate(FALLBACK, "route", where='reason="low_confidence"'),
        ),
        lines(
            "Failed attempts by target",
            "Attempts that failed, by `error.type` of the trace.",
            "reqps",
            rate(
                "gen_ai_client_inference_duration_seconds_count",
                "gen_ai_request_model",
                "error_type",
                where='error_type!=""',
            ),
        ),
    ),
)

_CHECKS: Final = Section(
    title="Validation",
    panels=(
        lines(
            "Validations by result",
            "Validated responses: valid, repaired or invalid.",
            "reqps",
            rate(VALIDATED, "target", "result"),
        ),
        lines(
            "Invalid responses by keyword",
            "JSON Schema keyword that the response violated. Response content is not recorded.",
            "reqps",
            rate(VALIDATED, "target", "keyword", where='result="invalid"'),
        ),
        lines(
            "Repaired responses",
            "Responses whose unclosed JSON was completed, on routes that allow repair.",
            "reqps",
            rate(VALIDATED, "route", "target", where='result="repaired"'),
        ),
        lines(
            "Invalid share",
            "Invalid share of the validated responses of a target.",
            "percentunit",
            share_of(VALIDATED, VALIDATED, "target", where='result="invalid"'),
        ),
    ),
)

_EXTRA: Final = Section(
    title="Hedges and shadows",
    panels=(
        lines(
            "Hedges",
            "Hedged attempts: won if they answered first, otherwise lost.",
            "reqps",
            rate(HEDGES, "route", "result"),
        ),
        lines(
            "Hedges won",
            "Share of hedges that answered first. Near 0 %: delay too short; near 100 %: first target too slow.",
            "percentunit",
            share_of(HEDGES, HEDGES, "route", where='result="won"'),
        ),
        lines(
            "Shadows",
            "Shadow responses compared with the served response: same, different or failed.",
            "reqps",
            rate("twolane_shadows_total", "target", "result"),
        ),
    ),
)

FALLBACKS: Final = Board(
    uid="twolane-fallbacks",
    title="Twolane / Fallbacks",
    description="Fallbacks, skipped targets, validation results, hedges and shadows.",
    jobs_of="twolane_policy_info",
    sections=(_CHANGES, _CHECKS, _EXTRA),
)
