"""Why a request went where it went: changes of target, passed-over targets, hedges, and what validation found."""

from typing import Final

from deploy.grafana.panels import Board, Section, lines, quantile, rate, share_of

FALLBACK: Final = "twolane_fallbacks_total"
HEDGES: Final = "twolane_hedges_total"
VALIDATED: Final = "twolane_validations_total"

_CHANGES: Final = Section(
    title="Changes of target",
    panels=(
        lines("Fallbacks by reason", "Why the answer of a target was not taken.", "reqps", rate(FALLBACK, "reason")),
        lines("Fallbacks from -> to", "Which target passed on to which.", "reqps", rate(FALLBACK, "from", "to")),
        lines(
            "Changes per request",
            "Share of a route's requests that changed target; over 1 where they change more than once.",
            "percentunit",
            share_of(FALLBACK, "twolane_requests_total", "route", where=""),
        ),
        lines(
            "Passed over uncalled",
            "Targets that were next but not asked: ejected, breaker open, busy, not able.",
            "reqps",
            rate("twolane_skips_total", "target", "reason"),
        ),
        lines(
            "Attempts by outcome",
            "Every call: ok, cancelled, or why it was no answer.",
            "reqps",
            rate("twolane_attempts_total", "target", "outcome"),
        ),
        lines(
            "Confidence of answers",
            "The worker's own, at the 5th and 50th percentile. `min_confidence` cuts from below.",
            "percentunit",
            quantile(0.05, "twolane_answer_confidence", "target"),
            quantile(0.5, "twolane_answer_confidence", "target"),
        ),
        lines(
            "Low confidence",
            "Answers of the worker that it was not sure enough of, by route.",
            "reqps",
            rate(FALLBACK, "route", where='reason="low_confidence"'),
        ),
        lines(
            "Failed attempts by target",
            "Attempts that were no answer, by the reason that the trace carries as error.type.",
            "reqps",
            rate(
                "gen_ai_client_operation_duration_seconds_count",
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
        lines("Checks by result", "valid, repaired or invalid.", "reqps", rate(VALIDATED, "target", "result")),
        lines(
            "Invalid by keyword",
            "The keyword of the schema that failed. Nothing of any answer is kept.",
            "reqps",
            rate(VALIDATED, "target", "keyword", where='result="invalid"'),
        ),
        lines(
            "Repaired",
            "Answers whose unclosed syntax was closed, as the route allows.",
            "reqps",
            rate(VALIDATED, "route", "target", where='result="repaired"'),
        ),
        lines(
            "Share invalid",
            "Of the answers of a target that were checked.",
            "percentunit",
            share_of(VALIDATED, VALIDATED, "target", where='result="invalid"'),
        ),
    ),
)

_EXTRA: Final = Section(
    title="Extra attempts",
    panels=(
        lines(
            "Hedges",
            "Second attempts: won, or lost to the first.",
            "reqps",
            rate(HEDGES, "route", "result"),
        ),
        lines(
            "Hedges won",
            "Share of hedges that answered. Near 0 the delay is too short, near 1 the first target is too slow.",
            "percentunit",
            share_of(HEDGES, HEDGES, "route", where='result="won"'),
        ),
        lines(
            "Shadows",
            "Answers compared with the one that was served: same, different or failed.",
            "reqps",
            rate("twolane_shadows_total", "target", "result"),
        ),
    ),
)

FALLBACKS: Final = Board(
    uid="twolane-fallbacks",
    title="Twolane / Fallbacks",
    description="Why requests went where they went.",
    jobs_of="twolane_policy_info",
    sections=(_CHANGES, _CHECKS, _EXTRA),
)
