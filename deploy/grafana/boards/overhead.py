"""What the gateway itself adds to a request."""

from typing import Final

from deploy.grafana.panels import HERE, Board, Query, Section, lines, mean, number, quantile, rate_of

OVERHEAD_SECONDS: Final = "twolane_overhead_seconds"

_OWN_TIME: Final = Section(
    title="Our own time",
    panels=(
        number("Mean", "Our own time per request.", "s", mean(OVERHEAD_SECONDS).expr),
        number("p99", "One request in a hundred takes longer.", "s", quantile(0.99, OVERHEAD_SECONDS).expr),
        number("Requests", "Requests ended per second.", "reqps", rate_of("twolane_requests_total")),
        number("Gateways", "That answered the last scrape.", "short", f"sum(up{{{HERE}}})"),
        lines(
            "Overhead",
            "Total without waiting for targets: parsing, classifying, choosing, validating, writing.",
            "s",
            quantile(0.5, OVERHEAD_SECONDS),
            quantile(0.95, OVERHEAD_SECONDS),
            quantile(0.99, OVERHEAD_SECONDS),
        ),
        lines(
            "Overhead per gateway",
            "Mean. One that stands out shares its core with somebody.",
            "s",
            mean(OVERHEAD_SECONDS, "instance"),
        ),
        lines(
            "Share of the request",
            "Our own time over the time of good answers.",
            "percentunit",
            Query(
                expr=f"({rate_of(f'{OVERHEAD_SECONDS}_sum')} / {rate_of('twolane_request_duration_seconds_sum')}) >= 0",
                legend="share",
            ),
        ),
        lines(
            "Scrape",
            "How long Prometheus waits for a gateway's metrics.",
            "s",
            Query(expr=f"max by (instance) (scrape_duration_seconds{{{HERE}}})", legend="{{instance}}"),
        ),
    ),
)

OVERHEAD: Final = Board(
    uid="twolane-overhead",
    title="Twolane / Gateway overhead",
    description="What the gateway itself adds to a request.",
    jobs_of="twolane_policy_info",
    sections=(_OWN_TIME,),
)
