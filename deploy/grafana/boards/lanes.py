"""The first page to look at: what each lane carries, how long it takes, and whether it keeps its promise."""

from typing import Final

from deploy.grafana.panels import (
    HERE,
    YES_OR_NO,
    Board,
    Colour,
    Query,
    Section,
    gauge,
    lines,
    number,
    quantile,
    rate,
    rate_of,
    share_of,
    states,
    words,
)

REQUESTS: Final = "twolane_requests_total"
SECONDS: Final = "twolane_request_duration_seconds"
BUDGET: Final = Query(
    expr=f"max by (route, target) (twolane_lane_budget_seconds{{{HERE}}})", legend="budget {{route}} {{target}}"
)


def _burn(window: str) -> Query:
    """Recorded, so that the page and the alert speak of one figure."""
    return Query(
        expr=f'max by (route, target) (lane:twolane_burn:rate{window}{{job=~"$job"}})',
        legend=f"{window} {{{{route}}}} {{{{target}}}}",
    )


_GLANCE: Final = Section(
    title="At a glance",
    panels=(
        number("Requests", "Requests ended per second, all outcomes.", "reqps", rate_of(REQUESTS)),
        number(
            "Failed",
            "Share of requests that got an error from us. Clients that hung up are not counted.",
            "percentunit",
            share_of(REQUESTS, REQUESTS, where='outcome="error"').expr,
        ),
        number(
            "Changed target",
            "Changes of target per request. One request can change more than once.",
            "percentunit",
            share_of("twolane_fallbacks_total", REQUESTS, where="").expr,
        ),
        number(
            "Lanes ejected",
            "Lanes out of service for their p95, over all gateways shown.",
            "short",
            f"sum(twolane_lane_state{{{HERE}}} == bool 2)",
        ),
    ),
)

_TRAFFIC: Final = Section(
    title="Who carries what",
    panels=(
        lines(
            "Requests by route and target",
            "Who answered, per second. A route whose target changes here has fallen back.",
            "reqps",
            rate(REQUESTS, "route", "target"),
        ),
        lines(
            "Requests by task",
            "What requests wanted done, as classified.",
            "reqps",
            rate(REQUESTS, "task"),
        ),
        lines("Requests by outcome", "ok, error or client_gone.", "reqps", rate(REQUESTS, "outcome")),
        lines(
            "Predicted wait of targets",
            "What workers say a request sent now would wait, as the gateways hear it.",
            "s",
            gauge("twolane_target_predicted_wait_seconds", "target", how="max"),
        ),
        states(
            "Residency of targets",
            "Where a target's weights are, as the gateways hear it.",
            gauge("twolane_target_residency", "target", "state", how="max"),
            words=YES_OR_NO,
        ),
        lines(
            "In flight",
            "Attempts under way at each target, over the gateways shown.",
            "short",
            gauge("twolane_in_flight", "target"),
        ),
    ),
)

_LATENCY: Final = Section(
    title="How long it takes",
    panels=(
        lines(
            "p95 against budget",
            "p95 of good answers as clients felt them, and what each lane promises. Interpolated within buckets.",
            "s",
            quantile(0.95, SECONDS, "route", "target"),
            BUDGET,
        ),
        lines(
            "p50 and p99",
            "The usual request and the unlucky one, per route and target.",
            "s",
            quantile(0.5, SECONDS, "route", "target"),
            quantile(0.99, SECONDS, "route", "target"),
        ),
        lines(
            "First byte",
            "Until the first byte left us. With `buffer: full` that is the whole answer.",
            "s",
            quantile(0.95, "twolane_time_to_first_byte_seconds", "route", "target"),
        ),
        lines(
            "First token in a lane",
            "p95 of streams, from the call to the first word, where the policy promises one; with that promise.",
            "s",
            quantile(0.95, "twolane_lane_first_token_seconds", "route", "target"),
            gauge("twolane_lane_first_token_budget_seconds", "route", "target", how="max"),
        ),
        lines(
            "First chunk of attempts",
            "Until a target said its first word, attempts that were thrown away included.",
            "s",
            quantile(0.95, "gen_ai_client_operation_time_to_first_chunk_seconds", "gen_ai_request_model"),
        ),
    ),
)

_PROMISES: Final = Section(
    title="Promises",
    panels=(
        states(
            "Lane state",
            "Benched lanes carry probes only; probing ones a growing share. The worst of the gateways shown.",
            gauge("twolane_lane_state", "route", "target", how="max"),
            words=words(serving=Colour.GOOD, probing=Colour.SOSO, ejected=Colour.BAD),
        ),
        states(
            "Breaker",
            "Open after repeated faults: the target is not called until a trial succeeds.",
            gauge("twolane_breaker_state", "target", how="max"),
            words=words(closed=Colour.GOOD, half_open=Colour.SOSO, open=Colour.BAD),
        ),
        lines(
            "p95 as the guard sees it",
            "The window that ejections are decided by, of attempts and not of requests, against the budget.",
            "s",
            Query(
                expr=f"max by (route, target) (twolane_lane_p95_seconds{{{HERE}}})", legend="p95 {{route}} {{target}}"
            ),
            BUDGET,
        ),
        lines(
            "Latency as the guard counts it",
            "p95 and median of whole answers and of attempts that outlasted the budget, per lane.",
            "s",
            quantile(0.95, "twolane_lane_latency_seconds", "route", "target"),
            quantile(0.5, "twolane_lane_latency_seconds", "route", "target"),
        ),
        lines(
            "Promises by result",
            "Attempts that kept the budget, were over it, or failed.",
            "reqps",
            rate("twolane_slo_events_total", "route", "target", "result"),
        ),
        lines(
            "Burn of the error budget",
            "1: one attempt in twenty over budget or failed, just what a p95 allows. Alerts page at 14.4 and 6.\n"
            "Recorded by deploy/prometheus/rules/burn.yml.",
            "short",
            _burn("5m"),
            _burn("1h"),
        ),
    ),
)

LANES: Final = Board(
    uid="twolane-lanes",
    title="Twolane / Lanes",
    description="What each lane carries, how long it takes, and whether it keeps its promise.",
    jobs_of="twolane_policy_info",
    sections=(_GLANCE, _TRAFFIC, _LATENCY, _PROMISES),
)
