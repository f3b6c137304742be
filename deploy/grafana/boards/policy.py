"""What the gateways are told to do, whether they could do it, and what it costs."""

from typing import Final

from deploy.grafana.panels import (
    HERE,
    Board,
    Colour,
    Query,
    Section,
    gauge,
    lines,
    number,
    rate,
    rate_of,
    share_of,
    states,
    words,
)

REQUESTS: Final = "twolane_requests_total"

_POLICY: Final = Section(
    title="Policy",
    panels=(
        lines(
            "Policies in use",
            "Gateways by the hash of the policy they run. Two for long: somebody did not reload.",
            "short",
            gauge("twolane_policy_info", "hash"),
        ),
        states(
            "Policy and file",
            "Stale: the file on the disk does not load, and the last good policy goes on.",
            gauge("twolane_policy_current", "instance", how="min"),
            words=words(stale=Colour.BAD, current=Colour.GOOD),
        ),
        lines(
            "Reloads",
            "Readings of the policy file: changed, unchanged or refused.",
            "ops",
            rate("twolane_policy_reloads_total", "result"),
        ),
        lines(
            "Age of the policy",
            "Since the running policy was loaded, per gateway.",
            "s",
            Query(
                expr=f"time() - max by (instance) (twolane_policy_loaded_timestamp_seconds{{{HERE}}})",
                legend="{{instance}}",
            ),
        ),
        lines(
            "Versions",
            "Gateways by the version of the program.",
            "short",
            gauge("twolane_build_info", "version"),
        ),
        states(
            "Shared state",
            "Whether the last exchange with the other gateways, through Redis, worked.",
            gauge("twolane_store_up", "instance", how="min"),
            words=words(lost=Colour.BAD, up=Colour.GOOD),
        ),
    ),
)

_ERRORS: Final = Section(
    title="Errors",
    panels=(
        lines(
            "Errors by route and task",
            "Requests that nobody could answer.",
            "reqps",
            rate(REQUESTS, "route", "task", where='outcome="error"'),
        ),
        lines(
            "Share failed by route",
            "Of all that ended, clients that hung up included in the whole.",
            "percentunit",
            share_of(REQUESTS, REQUESTS, "route", where='outcome="error"'),
        ),
        lines(
            "Decision lines lost",
            "The disk was slower than the requests, or full.",
            "ops",
            rate("twolane_decisions_dropped_total", "instance"),
        ),
        lines(
            "Decisions not noted",
            "Mistakes of ours that cost a figure, a line or a span, and no request. 0 while there are none.",
            "ops",
            Query(
                expr=f"{rate_of('twolane_observer_faults_total', 'observer')} or 0 * {rate_of(REQUESTS)}",
                legend="{{observer}}",
            ),
        ),
    ),
)

_COST: Final = Section(
    title="Cost",
    panels=(
        number(
            "Spend in the shown time",
            "Of all targets whose price is known, over the range on the screen.",
            "currencyUSD",
            f"sum(increase(twolane_cost_dollars_total{{{HERE}}}[$__range]))",
        ),
        lines(
            "Spend per hour",
            "At the present rate, by target, where its price is known; attempts that were thrown away included.",
            "currencyUSD",
            Query(expr=f"3600 * {rate_of('twolane_cost_dollars_total', 'target')}", legend="{{target}}"),
        ),
        lines(
            "Tokens by target",
            "Read and written, per second.",
            "ops",
            rate("gen_ai_client_token_usage_sum", "gen_ai_request_model", "gen_ai_token_type"),
        ),
    ),
)

POLICY: Final = Board(
    uid="twolane-policy",
    title="Twolane / Policy and cost",
    description="What the gateways are told to do, whether they could, and what it costs.",
    jobs_of="twolane_policy_info",
    sections=(_POLICY, _ERRORS, _COST),
)
