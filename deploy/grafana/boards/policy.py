"""The policies in use, errors and cost."""

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


def _tokens(kind: str) -> Query:
    found = rate(f"gen_ai_client_inference_usage_{kind}_tokens_total", "gen_ai_request_model")
    return Query(expr=found.expr, legend=f"{kind} {found.legend}")


def _embeddings(counter: str, unit: str) -> Query:
    """0 without any: most gateways embed nothing."""
    found = rate(f"gen_ai_client_embeddings_{counter}", "gen_ai_request_model")
    return Query(expr=f"{found.expr} or 0 * {rate_of(REQUESTS)}", legend=f"{unit} {found.legend}")


_POLICY: Final = Section(
    title="Policy",
    panels=(
        lines(
            "Policies in use",
            "Gateways by policy hash. Two hashes for longer than a few seconds: a gateway failed to reload.",
            "short",
            gauge("twolane_policy_info", "hash"),
        ),
        states(
            "Policy file state",
            "Stale: the file on disk fails to load and the gateway keeps the last valid policy.",
            gauge("twolane_policy_current", "instance", how="min"),
            words=words(stale=Colour.BAD, current=Colour.GOOD),
        ),
        lines(
            "Reloads",
            "Reloads of the policy file: changed, unchanged or refused.",
            "ops",
            rate("twolane_policy_reloads_total", "result"),
        ),
        lines(
            "Policy age",
            "Time since the active policy was loaded, by gateway.",
            "s",
            Query(
                expr=f"time() - max by (instance) (twolane_policy_loaded_timestamp_seconds{{{HERE}}})",
                legend="{{instance}}",
            ),
        ),
        lines(
            "Versions",
            "Gateways by version.",
            "short",
            gauge("twolane_build_info", "version"),
        ),
        states(
            "Shared state",
            "Whether the last exchange with other replicas through Redis succeeded.",
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
            "Requests for which every candidate target failed.",
            "reqps",
            rate(REQUESTS, "route", "task", where='outcome="error"'),
        ),
        lines(
            "Error rate by route",
            "Share of completed requests. Client disconnects count as completed.",
            "percentunit",
            share_of(REQUESTS, REQUESTS, "route", where='outcome="error"'),
        ),
        lines(
            "Responses by status",
            "Responses of the public port by HTTP status: also those without a decision, such as 401.",
            "reqps",
            rate("twolane_http_responses_total", "status"),
        ),
        lines(
            "Dropped decision-log lines",
            "Lines dropped because the disk was full or too slow.",
            "ops",
            rate("twolane_decisions_dropped_total", "instance"),
        ),
        lines(
            "Observer faults",
            "Internal errors that lost a metric, a log line or a span. No request is affected.",
            "ops",
            Query(
                expr=f"{rate_of('twolane_observer_faults_total', 'observer')} or 0 * {rate_of(REQUESTS)}",
                legend="{{observer}}",
            ),
        ),
        lines(
            "Ignored parameters",
            "Calls from which a target's `ignore` left out a parameter, by target and parameter.",
            "ops",
            Query(
                expr=f"{rate_of('twolane_ignored_parameters_total', 'target', 'parameter')} or 0 * {rate_of(REQUESTS)}",
                legend="{{target}} {{parameter}}",
            ),
        ),
    ),
)

_COST: Final = Section(
    title="Cost",
    panels=(
        number(
            "Spend in time range",
            "All targets with a known price, over the dashboard's time range.",
            "currencyUSD",
            f"sum(increase(twolane_cost_dollars_total{{{HERE}}}[$__range]))",
        ),
        lines(
            "Spend per hour",
            "At the current rate, by target with a known price. Discarded attempts are included.",
            "currencyUSD",
            Query(expr=f"3600 * {rate_of('twolane_cost_dollars_total', 'target')}", legend="{{target}}"),
        ),
        lines(
            "Tokens by target",
            "Input and output tokens per second, as targets report them.",
            "ops",
            _tokens("input"),
            _tokens("output"),
        ),
        lines(
            "Embeddings by target",
            "Calls and input tokens per second.",
            "ops",
            _embeddings("duration_seconds_count", "calls"),
            _embeddings("operation_input_tokens_sum", "tokens"),
        ),
    ),
)

POLICY: Final = Board(
    uid="twolane-policy",
    title="Twolane / Policy and cost",
    description="Policies in use, errors and cost.",
    jobs_of="twolane_policy_info",
    sections=(_POLICY, _ERRORS, _COST),
)
