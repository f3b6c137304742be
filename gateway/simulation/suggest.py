"""From a decision log to the times that a policy could promise: budgets, hedges, deadlines, by the log's histograms.

Knows the routes of the policy by name. What it writes is that policy with other numbers, and loads.
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
from gateway.simulation.traffic import Logged

LEAST: Final = 100  # answers of a lane; of fewer, the slowest twentieth is a handful of accidents
MARGIN: Final = 1.25  # a budget at the p95 itself would be broken by every second window
PATIENCE: Final = 2.0  # a deadline is for what has gone wrong, not for the slowest that are well
_ANSWERED: Final = frozenset({AttemptOutcome.OK, Reason.INVALID_OUTPUT, Reason.LOW_CONFIDENCE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """Times for one route, in ms, from so many `answers` of whom it asks first.

    None: too few streams to tell their first words; nobody behind another url to hedge with.
    """

    route: str
    target: str
    answers: int
    p95_ms: float
    slo_p95_ms: int
    deadline_ms: int
    hedge_after_ms: int | None = None
    slo_first_token_p95_ms: int | None = None


def suggest(log: Iterable[Logged], policy: Policy) -> tuple[Suggestion, ...]:
    """One for each route of the policy for which the log has answers enough."""
    by_route: defaultdict[str, list[Logged]] = defaultdict(list)
    for line in log:
        by_route[line.route].append(line)
    found = (_suggestion(rule, by_route[rule.route.name]) for rule in policy.rules)
    return tuple(each for each in found if each is not None)


def _suggestion(rule: Rule, log: Sequence[Logged]) -> Suggestion | None:
    firsts = {split.open.candidates[0].target.name for split in rule.splits if split.open.candidates}
    calls = [
        (line, attempt)
        for line in log
        for attempt in line.attempts
        if attempt.target in firsts and attempt.outcome in _ANSWERED and attempt.was_called
    ]
    p95_ms = _quantile((attempt.elapsed_ms for _, attempt in calls), 0.95)
    slow_ms = _quantile((line.total_ms for line in log if line.outcome is Outcome.OK), 0.99)
    if len(calls) < LEAST or p95_ms is None or slow_ms is None:
        return None
    begun = [
        attempt.first_byte_ms - attempt.started_ms
        for line, attempt in calls
        if line.stream and attempt.first_byte_ms is not None
    ]
    first_ms = _quantile(begun, 0.95) if len(begun) >= LEAST else None
    budget_ms = rounded(MARGIN * p95_ms)
    return Suggestion(
        route=rule.route.name,
        target=", ".join(sorted(firsts)),
        answers=len(calls),
        p95_ms=p95_ms,
        slo_p95_ms=budget_ms,
        # Dean and Barroso, The Tail at Scale: a second one beside the slowest twentieth costs a twentieth more.
        hedge_after_ms=rounded(p95_ms) if _has_rival(rule) else None,
        deadline_ms=rounded(PATIENCE * max(slow_ms, 2 * budget_ms)),
        slo_first_token_p95_ms=None if first_ms is None else rounded(MARGIN * first_ms),
    )


def _has_rival(rule: Rule) -> bool:
    urls = {place.target.url for each in rule.open.candidates for place in each.endpoints}
    return bool(rule.route.fall_back) and len(urls) > 1


def rounded(value_ms: float) -> int:
    """Upwards to two digits: more would claim to know more."""
    step = 10.0 ** (floor(log10(max(value_ms, 1.0))) - 1)
    return max(1, ceil(ceil(round(value_ms / step, 6)) * step))


def written(text: str, environment: Mapping[str, str], suggestions: Iterable[Suggestion], *, file: str) -> str:
    """The policy with these times, its comments kept, a line for each on top. Raises PolicyError if that is none."""
    yaml = YAML(typ="rt")
    yaml.width, yaml.preserve_quotes = 120, True
    yaml.indent(mapping=2, sequence=4, offset=2)
    document = yaml.load(text)
    routes = {str(entry["name"]): entry for entry in document["routes"]}
    stream = StringIO()
    for each in suggestions:
        _put(routes[each.route], each)
        told = f"19 in 20 of {each.answers} answers of {each.target} took {each.p95_ms:.0f} ms or less"
        stream.write(f"# {each.route}: {told}\n")
    yaml.dump(document, stream)
    parse(stream.getvalue(), environment, file=file)
    return stream.getvalue()


def _put(entry: CommentedMap, told: Suggestion) -> None:
    slo = _within(entry, "slo")
    slo["p95_ms"] = told.slo_p95_ms
    if told.slo_first_token_p95_ms is not None:
        slo["first_token_p95_ms"] = told.slo_first_token_p95_ms
    if "deadline_ms" not in entry:
        entry.insert(len(entry) - 1, "deadline_ms", None)
    entry["deadline_ms"] = told.deadline_ms
    if "attempt_ms" in entry:  # together they must leave the last one time
        others = entry["fall_back"]
        tries = 2 if isinstance(others, str) else len(others) + 1
        entry["attempt_ms"] = min(entry["attempt_ms"], told.deadline_ms // tries)
    if told.hedge_after_ms is not None:
        hedge = _within(entry, "hedge")
        hedge.pop("after", None)
        hedge["after_ms"] = told.hedge_after_ms


def _within(entry: CommentedMap, key: str) -> Any:
    """The section of this name; a new one stands before the last key, behind which the next route's comment hangs."""
    if key not in entry:
        section = CommentedMap()
        section.fa.set_flow_style()
        entry.insert(len(entry) - 1, key, section)
    return entry[key]


def _quantile(values_ms: Iterable[float], share: float) -> float | None:
    """By the guard's own histogram: within 2 %."""
    buckets: defaultdict[int, int] = defaultdict(int)
    for value in values_ms:
        buckets[bucket_of(value)] += 1
    return quantile(buckets, share)
