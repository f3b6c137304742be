"""Suggests SLOs, hedges and deadlines from the latency histograms of a decision log.

The result is the same policy with other numbers, and it is checked to load.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from math import ceil, floor, log10
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from gateway.enums import AttemptOutcome, Outcome, Reason
from gateway.policy_files.load import parse
from gateway.reliability.window import bucket_of, quantile
from gateway.routing.policy import Policy, Rule
from gateway.simulation.traffic import LoggedRequest

MIN_RESPONSES: Final = 100  # of a lane; with fewer, p95 depends on a handful of outliers
MARGIN: Final = 1.25  # an objective equal to the p95 would be exceeded in every second window
DEADLINE_FACTOR: Final = 2.0  # a deadline is meant for failures, not for slow successes
_ANSWERED: Final = frozenset(
    {AttemptOutcome.OK, AttemptOutcome.INCOMPLETE, Reason.INVALID_OUTPUT, Reason.LOW_CONFIDENCE}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """Times for one route, in ms, from the latencies of `responses` responses of its primary target.

    None: too few streams for a first-token objective, or no target at another URL for a hedge.
    """

    route: str
    target: str
    responses: int
    p95_ms: float
    slo_p95_ms: int
    deadline_ms: int
    hedge_after_ms: int | None = None
    slo_first_token_p95_ms: int | None = None


def suggest(log: Iterable[LoggedRequest], policy: Policy) -> tuple[Suggestion, ...]:
    """One suggestion per route with enough responses in the log."""
    by_route: defaultdict[str, list[LoggedRequest]] = defaultdict(list)
    for line in log:
        by_route[line.route].append(line)
    found = (_suggestion(rule, by_route[rule.route.name]) for rule in policy.rules)
    return tuple(each for each in found if each is not None)


def _suggestion(rule: Rule, log: Sequence[LoggedRequest]) -> Suggestion | None:
    primaries = {choice.open.candidates[0].target.name for choice in rule.splits if choice.open.candidates}
    calls = [
        (line, attempt)
        for line in log
        for attempt in line.attempts
        if attempt.target in primaries and attempt.outcome in _ANSWERED and attempt.was_called
    ]
    p95_ms = _quantile((attempt.elapsed_ms for _, attempt in calls), 0.95)
    slow_ms = _quantile((line.total_ms for line in log if line.outcome is Outcome.OK), 0.99)
    if len(calls) < MIN_RESPONSES or p95_ms is None or slow_ms is None:
        return None
    with_first_byte = [
        attempt.first_byte_ms - attempt.started_ms
        for line, attempt in calls
        if line.stream and attempt.first_byte_ms is not None
    ]
    first_ms = _quantile(with_first_byte, 0.95) if len(with_first_byte) >= MIN_RESPONSES else None
    budget_ms = rounded(MARGIN * p95_ms)
    return Suggestion(
        route=rule.route.name,
        target=", ".join(sorted(primaries)),
        responses=len(calls),
        p95_ms=p95_ms,
        slo_p95_ms=budget_ms,
        # Dean and Barroso, The Tail at Scale: hedging the slowest 5 % adds 5 % load.
        hedge_after_ms=rounded(p95_ms) if _has_rival(rule) else None,
        deadline_ms=rounded(DEADLINE_FACTOR * max(slow_ms, 2 * budget_ms)),
        slo_first_token_p95_ms=None if first_ms is None else rounded(MARGIN * first_ms),
    )


def _has_rival(rule: Rule) -> bool:
    urls = {endpoint.target.url for each in rule.open.candidates for endpoint in each.endpoints}
    return bool(rule.route.fall_back) and len(urls) > 1


def rounded(value_ms: float) -> int:
    """Rounded up to two significant digits."""
    step = 10.0 ** (floor(log10(max(value_ms, 1.0))) - 1)
    return max(1, ceil(ceil(round(value_ms / step, 6)) * step))


def render(text: str, environment: Mapping[str, str], suggestions: Iterable[Suggestion], *, file: str) -> str:
    """The policy with these times, its comments kept, and one summary line per route on top. Raises PolicyError."""
    yaml = YAML(typ="rt")
    yaml.width, yaml.preserve_quotes = 120, True
    yaml.indent(mapping=2, sequence=4, offset=2)
    document = yaml.load(text)
    routes = {str(entry["name"]): entry for entry in document["routes"]}
    stream = StringIO()
    for each in suggestions:
        _put(routes[each.route], each)
        suggested = f"p95 of {each.responses} responses of {each.target} is {each.p95_ms:.0f} ms"
        stream.write(f"# {each.route}: {suggested}\n")
    yaml.dump(document, stream)
    parse(stream.getvalue(), environment, file=file)
    return stream.getvalue()


def _put(entry: CommentedMap, suggested: Suggestion) -> None:
    slo = _within(entry, "slo")
    slo["p95_ms"] = suggested.slo_p95_ms
    if suggested.slo_first_token_p95_ms is not None:
        slo["first_token_p95_ms"] = suggested.slo_first_token_p95_ms
    if "deadline_ms" not in entry:
        entry.insert(len(entry) - 1, "deadline_ms", None)
    entry["deadline_ms"] = suggested.deadline_ms
    if "attempt_ms" in entry:  # the attempts together must leave time for the last one
        others = entry["fall_back"]
        tries = 2 if isinstance(others, str) else len(others) + 1
        entry["attempt_ms"] = min(entry["attempt_ms"], suggested.deadline_ms // tries)
    if suggested.hedge_after_ms is not None:
        hedge = _within(entry, "hedge")
        hedge.pop("after", None)
        hedge["after_ms"] = suggested.hedge_after_ms


def _within(entry: CommentedMap, key: str) -> Any:
    """The section with this name; a new one is inserted before the last key, because the next route's comment hangs
    on that key."""
    if key not in entry:
        section = CommentedMap()
        section.fa.set_flow_style()
        entry.insert(len(entry) - 1, key, section)
    return entry[key]


def _quantile(values_ms: Iterable[float], share: float) -> float | None:
    """From the guard's own histogram: accurate to 2 %."""
    buckets: defaultdict[int, int] = defaultdict(int)
    for value in values_ms:
        buckets[bucket_of(value)] += 1
    return quantile(buckets, share)
