"""Time the gateway itself adds to a request."""

from typing import Final

from deploy.grafana.panels import HERE, Board, Query, Section, gauge, lines, mean, number, quantile, rate, rate_of

OVERHEAD_SECONDS: Final = "twolane_overhead_seconds"


def or_zero(query: Query) -> Query:
    """The query, or 0 where it has no data."""
    return Query(expr=f"{query.expr} or 0 * {rate_of('twolane_requests_total')}", legend=query.legend)


_OVERHEAD: Final = Section(
    title="Gateway overhead",
    panels=(
        number(
            "Mean overhead", "Gateway time per request, without waiting for targets.", "s", mean(OVERHEAD_SECONDS).expr
        ),
        number(
            "p99 overhead", "99th percentile of gateway time per request.", "s", quantile(0.99, OVERHEAD_SECONDS).expr
        ),
        number("Requests", "Completed requests per second.", "reqps", rate_of("twolane_requests_total")),
        number("Gateways", "Gateways that answered the last scrape.", "short", f"sum(up{{{HERE}}})"),
        lines(
            "Overhead percentiles",
            "Parsing, classification, routing, validation and writing, without waiting for targets.",
            "s",
            quantile(0.5, OVERHEAD_SECONDS),
            quantile(0.95, OVERHEAD_SECONDS),
            quantile(0.99, OVERHEAD_SECONDS),
        ),
        lines(
            "Overhead per gateway",
            "Mean. An outlier probably shares its CPU core with another process.",
            "s",
            mean(OVERHEAD_SECONDS, "instance"),
        ),
        lines(
            "Overhead share",
            "Gateway time divided by the duration of successful requests.",
            "percentunit",
            Query(
                expr=f"({rate_of(f'{OVERHEAD_SECONDS}_sum')} / {rate_of('twolane_request_duration_seconds_sum')}) >= 0",
                legend="share",
            ),
        ),
        lines(
            "Scrape duration",
            "Time Prometheus waits for a gateway's metrics.",
            "s",
            Query(expr=f"max by (instance) (scrape_duration_seconds{{{HERE}}})", legend="{{instance}}"),
        ),
    ),
)

_LOAD: Final = Section(
    title="Load",
    panels=(
        lines(
            "Requests waiting",
            "Requests that wait for a slot of a full target.",
            "short",
            or_zero(gauge("twolane_requests_waiting", "target")),
        ),
        lines(
            "Waits for a slot",
            "Waits that ended, by target and result.",
            "ops",
            or_zero(rate("twolane_queue_wait_seconds_count", "target", "result")),
        ),
        lines(
            "Event loop lag",
            "99th percentile of the longest lag in each tenth of a second.",
            "s",
            quantile(0.99, "twolane_event_loop_lag_seconds"),
        ),
        lines(
            "Refused by the gateway itself",
            "Requests refused because the gateway was overloaded, and by its listener.",
            "ops",
            Query(expr=or_zero(rate("twolane_shed_requests_total")).expr, legend="overloaded"),
            or_zero(rate("twolane_listener_refusals_total", "reason")),
        ),
        lines(
            "Bytes in flight",
            "Request bodies and buffered answers held in memory, by gateway.",
            "bytes",
            gauge("twolane_bytes_in_flight", "instance"),
        ),
    ),
)

OVERHEAD: Final = Board(
    uid="twolane-overhead",
    title="Twolane / Gateway overhead",
    description="Time the gateway itself adds to a request.",
    jobs_of="twolane_policy_info",
    sections=(_OVERHEAD, _LOAD),
)
