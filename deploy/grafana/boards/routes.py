"""The first page of an incident: what clients feel, why, and which lane. Every panel answers its title's question."""

from typing import Final

from deploy.grafana.panels import (
    ANY,
    ERRORS,
    HERE,
    SHARE,
    Board,
    Colour,
    Query,
    Section,
    Threshold,
    Variable,
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
FALLBACKS: Final = "twolane_fallbacks_total"
ON_ROUTE: Final = 'route=~"$route"'
ON_LANE: Final = f'{ON_ROUTE}, target=~"$target"'
ON_TARGET: Final = 'target=~"$target"'
OF_KEY: Final = 'key=~"$key"'
BY_KEY: Final = "twolane_key_requests_total"
FAILED: Final = f'{ON_ROUTE}, outcome="error"'
OURS: Final = f'{FAILED}, error_source!="client"'
_SERIES: Final = 8  # more cannot be told apart
_BUDGET: Final = (Threshold(at=0.8, colour=Colour.SOSO), Threshold(at=1.0, colour=Colour.BAD))

# The tightest objective of a route's lanes: what clients of the route are promised.
_PROMISED: Final = f"min by (route) (twolane_lane_budget_seconds{{{HERE}, {ON_ROUTE}}})"


def _felt(share: float) -> Query:
    """A quantile of what clients of a route feel, whichever target answers."""
    found = quantile(share, SECONDS, "route", where=ON_ROUTE)
    return Query(expr=found.expr, legend=f"p{share * 100:g} {{{{route}}}}")


def _most(query: Query) -> Query:
    return Query(expr=f"topk({_SERIES}, {query.expr})", legend=query.legend)


_BUDGET_LINE: Final = Query(expr=_PROMISED, legend="budget {{route}}")

_FELT: Final = Section(
    title="What do clients feel?",
    panels=(
        number(
            "How many requests fail through our fault?",
            "Share of requests with an error that a target or the gateway caused. Errors of clients are not counted.",
            "percentunit",
            share_of(REQUESTS, REQUESTS, where=OURS, within=ON_ROUTE).expr,
            thresholds=ERRORS,
        ),
        number(
            "How many requests fall back?",
            "Fallbacks divided by requests. Hedges are not counted.",
            "percentunit",
            share_of(FALLBACKS, REQUESTS, where=ON_ROUTE, within=ON_ROUTE).expr,
            thresholds=SHARE,
        ),
        number(
            "How many lanes are not serving?",
            "Lanes that are ejected or probing at a gateway or more.",
            "short",
            f"count(max by (route, target) (twolane_lane_state{{{HERE}, {ON_LANE}}}) > 0) "
            f"or 0 * count(twolane_policy_info{{{HERE}}})",
            thresholds=ANY,
        ),
        number(
            "How many breakers are open?",
            "Targets that a gateway or more does not call, because their last calls failed.",
            "short",
            f'count(max by (target) (twolane_breaker_state{{{HERE}, target=~"$target"}}) == 2) '
            f"or 0 * count(twolane_policy_info{{{HERE}}})",
            thresholds=ANY,
        ),
        lines(
            "How slow is a route for its clients, against its budget?",
            "p95 of requests that were answered or failed through our fault, and the route's tightest objective.",
            "s",
            _felt(0.95),
            _BUDGET_LINE,
        ),
        lines(
            "How much of its budget does a route use?",
            "p95 divided by the tightest objective. Above 100 %, clients of the route wait longer than they should.",
            "percentunit",
            Query(expr=f"({_felt(0.95).expr}) / on (route) {_PROMISED}", legend="{{route}}"),
            thresholds=_BUDGET,
        ),
        lines(
            "How slow are typical answers, and the slowest?",
            "Median and 99th percentile by route.",
            "s",
            _felt(0.5),
            _felt(0.99),
        ),
        lines(
            "Who causes errors?",
            "Errors per second by cause: the client itself, a target, or the gateway.",
            "reqps",
            Query(
                expr=f"{rate_of(REQUESTS, 'error_source', 'route', where=FAILED)} or 0 * {rate_of(REQUESTS)}",
                legend="{{error_source}} {{route}}",
            ),
        ),
    ),
)

_WHY: Final = Section(
    title="Why?",
    panels=(
        lines(
            "Why did responses change target?",
            "Fallbacks by route and reason, divided by all requests of the route; the most frequent ones.",
            "percentunit",
            _most(
                Query(
                    expr=f"({rate_of(FALLBACKS, 'route', 'reason', where=ON_ROUTE)} "
                    f"/ on (route) group_left () {rate_of(REQUESTS, 'route', where=ON_ROUTE)}) >= 0",
                    legend="{{route}} {{reason}}",
                )
            ),
            thresholds=SHARE,
        ),
        lines(
            "Which target answers?",
            "Requests per second by route and serving target. If it changes, the route has fallen back.",
            "reqps",
            _most(rate(REQUESTS, "route", "target", where=ON_LANE)),
        ),
        lines(
            "Why do attempts fail?",
            "Attempts per second that failed, by target and reason; the most frequent ones.",
            "reqps",
            _most(rate("twolane_attempts_total", "target", "outcome", where=f'{ON_LANE}, outcome!="ok"')),
        ),
        lines(
            "Which HTTP status do targets return?",
            "Calls per second by target and status; none: no response, for example a refused connection or a timeout.",
            "reqps",
            _most(rate("twolane_target_responses_total", "target", "status", where=ON_TARGET)),
        ),
        lines(
            "Which lanes use up their error budget?",
            "1: one attempt in twenty is late or failed, exactly what a p95 allows. Alerts page at 14.4 and 6.",
            "short",
            Query(
                expr=f'max by (route, target) (lane:twolane_burn:rate5m{{job=~"$job", {ON_LANE}}})',
                legend="{{route}} {{target}}",
            ),
            thresholds=(Threshold(at=1, colour=Colour.SOSO), Threshold(at=14.4, colour=Colour.BAD)),
        ),
    ),
)

_HEALTH: Final = Section(
    title="Are lanes and breakers healthy?",
    panels=(
        states(
            "Which lanes serve?",
            "Ejected lanes receive only probes, probing lanes a growing share. Worst state of the selected gateways.",
            gauge("twolane_lane_state", "route", "target", how="max", where=ON_LANE),
            words=words(serving=Colour.GOOD, probing=Colour.SOSO, ejected=Colour.BAD),
        ),
        states(
            "Which breakers are closed?",
            "Open after repeated failures: the target is not called until a trial request succeeds.",
            gauge("twolane_breaker_state", "target", how="max", where=ON_TARGET),
            words=words(closed=Colour.GOOD, half_open=Colour.SOSO, open=Colour.BAD),
        ),
    ),
)

_TENANTS: Final = Section(
    title="Which tenants are concerned?",
    panels=(
        lines(
            "Who sends requests?",
            "Requests per second by name of the API key; none: no key is required.",
            "reqps",
            _most(rate(BY_KEY, "key", where=OF_KEY)),
        ),
        lines(
            "Whose requests fail through our fault?",
            "Share of a key's requests with an error that a target or the gateway caused.",
            "percentunit",
            _most(
                share_of(
                    BY_KEY, BY_KEY, "key", where=f'{OF_KEY}, outcome="error", error_source!="client"', within=OF_KEY
                )
            ),
            thresholds=ERRORS,
        ),
        lines(
            "Who is over a limit?",
            "Requests per second that were refused with 429 for a limit of the key. It is the tenant's concern.",
            "reqps",
            _most(rate("twolane_key_rate_limited_total", "key", where=OF_KEY)),
        ),
        lines(
            "Who uses tokens?",
            "Input and output tokens per second by API key, discarded attempts included.",
            "short",
            _most(rate("twolane_key_tokens_total", "key", "type", where=OF_KEY)),
        ),
        lines(
            "Who spends money?",
            "Dollars per hour at the current rate by API key, as far as prices are known.",
            "currencyUSD",
            _most(
                Query(expr=f"3600 * {rate_of('twolane_key_cost_dollars_total', 'key', where=OF_KEY)}", legend="{{key}}")
            ),
        ),
    ),
)

ROUTES: Final = Board(
    uid="twolane-routes",
    title="Twolane / Routes",
    description="What clients of each route feel, why, and which lane is the cause.",
    jobs_of="twolane_policy_info",
    variables=(
        Variable(name="route", query=f'label_values({REQUESTS}{{job=~"$job"}}, route)'),
        Variable(name="target", query='label_values(twolane_breaker_state{job=~"$job"}, target)'),
        Variable(name="key", query=f'label_values({BY_KEY}{{job=~"$job"}}, key)', label="Tenant (API key)"),
    ),
    sections=(_FELT, _WHY, _HEALTH, _TENANTS),
)
