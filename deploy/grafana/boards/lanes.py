"""The first dashboard to look at: traffic, latency and SLO of each lane."""

from typing import Final

from deploy.grafana.panels import (
    ANY,
    ERRORS,
    HERE,
    SHARE,
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
OBJECTIVE: Final = Query(
    expr=f"max by (route, target) (twolane_lane_budget_seconds{{{HERE}}})", legend="objective {{route}} {{target}}"
)


def _burn(window: str) -> Query:
    """A recorded series, so that dashboard and alert use the same figure."""
    return Query(
        expr=f'max by (route, target) (lane:twolane_burn:rate{window}{{job=~"$job"}})',
        legend=f"{window} {{{{route}}}} {{{{target}}}}",
    )


_GLANCE: Final = Section(
    title="Overview",
    panels=(
        number("Requests", "Completed requests per second, all outcomes.", "reqps", rate_of(REQUESTS)),
        number(
            "Error rate",
            "Share of requests with an error that clients did not cause. Client disconnects are not counted.",
            "percentunit",
            share_of(REQUESTS, REQUESTS, where='outcome="error", error_source!="client"').expr,
            thresholds=ERRORS,
        ),
        number(
            "Fallbacks per request",
            "A request can fall back more than once.",
            "percentunit",
            share_of("twolane_fallbacks_total", REQUESTS, where="").expr,
            thresholds=SHARE,
        ),
        number(
            "Ejected lanes",
            "Lanes ejected for missing their objective, summed over the selected gateways.",
            "short",
            f"sum(twolane_lane_state{{{HERE}}} == bool 2)",
            thresholds=ANY,
        ),
    ),
)

_TRAFFIC: Final = Section(
    title="Traffic per lane",
    panels=(
        lines(
            "Requests by route and target",
            "Requests per second by serving target. If a route's target changes, the route has fallen back.",
            "reqps",
            rate(REQUESTS, "route", "target"),
        ),
        lines(
            "Requests by task",
            "Requests per second by classified task.",
            "reqps",
            rate(REQUESTS, "task"),
        ),
        lines(
            "Requests by outcome",
            "Requests per second by outcome: ok, error or client_gone.",
            "reqps",
            rate(REQUESTS, "outcome"),
        ),
        lines(
            "Predicted wait by target",
            "Queue wait that the workers predict for a new request, as last reported to the gateways.",
            "s",
            gauge("twolane_target_predicted_wait_seconds", "target", how="max"),
        ),
        states(
            "Model state by target",
            "Lifecycle state of the target's weights, as last reported to the gateways.",
            gauge("twolane_target_residency", "target", "state", how="max"),
            words=YES_OR_NO,
        ),
        lines(
            "Attempts in flight",
            "Attempts in progress by target, summed over the selected gateways.",
            "short",
            gauge("twolane_in_flight", "target"),
        ),
    ),
)

_LATENCY: Final = Section(
    title="Latency",
    panels=(
        lines(
            "p95 against objective",
            "p95 of successful requests as seen by clients, and the lane's objective. Interpolated within buckets.",
            "s",
            quantile(0.95, SECONDS, "route", "target"),
            OBJECTIVE,
        ),
        lines(
            "p50 and p99",
            "Median and 99th percentile of request duration, by route and target.",
            "s",
            quantile(0.5, SECONDS, "route", "target"),
            quantile(0.99, SECONDS, "route", "target"),
        ),
        lines(
            "Time to first byte",
            "p95 until the gateway sends the first byte. With `buffer: full` this is the whole response.",
            "s",
            quantile(0.95, "twolane_time_to_first_byte_seconds", "route", "target"),
        ),
        lines(
            "Time to first token",
            "p95 of streams in lanes with a first-token objective, and that objective.",
            "s",
            quantile(0.95, "twolane_lane_first_token_seconds", "route", "target"),
            gauge("twolane_lane_first_token_budget_seconds", "route", "target", how="max"),
        ),
        lines(
            "Time to first chunk",
            "p95 until the first chunk of each streamed attempt, discarded attempts included.",
            "s",
            quantile(0.95, "gen_ai_client_inference_time_to_first_chunk_seconds", "gen_ai_request_model"),
        ),
    ),
)

_SLO: Final = Section(
    title="SLO events",
    panels=(
        states(
            "Lane state",
            "Ejected lanes receive only probes, probing lanes a growing share. Worst state of the selected gateways.",
            gauge("twolane_lane_state", "route", "target", how="max"),
            words=words(serving=Colour.GOOD, probing=Colour.SOSO, ejected=Colour.BAD),
        ),
        states(
            "Breaker state",
            "Open after repeated failures: the target is not called until a trial request succeeds.",
            gauge("twolane_breaker_state", "target", how="max"),
            words=words(closed=Colour.GOOD, half_open=Colour.SOSO, open=Colour.BAD),
        ),
        lines(
            "Lane p95",
            "p95 of attempts in the SLO guard's window, which decides ejections, and the objective.",
            "s",
            Query(
                expr=f"max by (route, target) (twolane_lane_p95_seconds{{{HERE}}})", legend="p95 {{route}} {{target}}"
            ),
            OBJECTIVE,
        ),
        lines(
            "Attempt latency",
            "p95 and median of completed attempts and of attempts that exceeded the objective.",
            "s",
            quantile(0.95, "twolane_lane_latency_seconds", "route", "target"),
            quantile(0.5, "twolane_lane_latency_seconds", "route", "target"),
        ),
        lines(
            "SLO events by result",
            "Attempts that met the objective, exceeded it (late) or failed.",
            "reqps",
            rate("twolane_slo_events_total", "route", "target", "result"),
        ),
        lines(
            "Error-budget burn rate",
            "1: one attempt in twenty is late or failed, exactly what a p95 allows. Alerts page at 14.4 and 6.\n"
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
    description="Traffic, latency and SLO of each lane.",
    jobs_of="twolane_policy_info",
    sections=(_GLANCE, _TRAFFIC, _LATENCY, _SLO),
)
