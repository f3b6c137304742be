"""A compiled policy: targets, and ordered routes with precomputed plans. Immutable.

`policy_files` parses and validates policy files. `content_hash` identifies the content, ignoring comments.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import accumulate, takewhile
from pathlib import Path
from typing import Final

from gateway.enums import Kind, OnLowConfidence, Task
from gateway.policy_types import DEFAULT_TOTAL_MS, READ_ALONG, Checks, Hedge, Limit, Slo
from gateway.routing.conditions import When
from gateway.routing.gates import Gate, is_gateable, minimum_in
from gateway.routing.model_patterns import ModelPattern, split_patterns
from gateway.types import Candidate, Plan, Shadow, Target
from twolane.process.locations import IN_CLUSTER

AUTO: Final = "auto"
DIRECT: Final = "direct"  # the route of requests whose `model` is a target
HASH_DIGITS: Final = 12  # of the content hash, as shown in headers and metrics
PRIVATE_LOCATIONS: Final = frozenset({IN_CLUSTER})  # of a policy that names none


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A route as written in the policy: its first target, its fallbacks, and the checks on responses.

    With `shares` (a traffic split, for example a canary), the first target is drawn from them, weighted by share.
    """

    name: str
    when: When
    use: str
    shares: tuple[tuple[str, float], ...] = ()
    fall_back: tuple[str, ...] = ()
    slo: Slo | None = None
    gate: Gate | None = None
    deadline_ms: float | None = None
    total_ms: float = DEFAULT_TOTAL_MS
    attempt_ms: float | None = None
    hedge: Hedge | None = None
    shadow: tuple[str, float] | None = None  # a target, and the share of requests that is copied to it
    checks: Checks | None = READ_ALONG  # None: nothing is checked
    private: bool = False
    locations: frozenset[str] | None = None  # of its targets; None: any
    decoded: Mapping[str, Target] = field(default_factory=dict)  # targets in another decoding mode, for those in `use`


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficSplit:
    """One entry of a traffic split: the plans for random samples below `until`.

    `private` is the plan for private requests; it may have no candidates.
    """

    open: Plan
    private: Plan
    until: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A compiled route: its traffic splits in order, usually one. `until` of the last is 1."""

    route: Route
    splits: tuple[TrafficSplit, ...]

    @property
    def open(self) -> Plan:
        """The first split's plan for requests that are not private."""
        return self.splits[0].open

    def pick(self, sample: float) -> TrafficSplit:
        """The split for a random sample, uniform in [0, 1)."""
        return next((split for split in self.splits if sample < split.until), self.splits[-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A whole policy, created by `compile_policy`."""

    content_hash: str
    targets: Mapping[str, Target]
    rules: tuple[Rule, ...]
    direct: Mapping[str, Rule]
    aliases: frozenset[str] = field(default_factory=frozenset)
    alias_patterns: tuple[ModelPattern, ...] = ()  # names of targets take precedence
    limits: tuple[Limit, ...] = ()
    limit_by_key: Mapping[str, Limit] = field(default_factory=dict)
    general_limit: Limit | None = None
    private_locations: frozenset[str] = PRIVATE_LOCATIONS
    weights: Path | None = None  # of the classifier; None: the shipped ones
    # The routes of a task: those that may match, in order, and the first of the others, which matches in any case.
    rules_of: Mapping[Task, tuple[tuple[Rule, ...], Rule]] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rules_of", {task: _rules_of(self.rules, task) for task in Task if self.rules})

    def limit_of(self, key: str | None) -> Limit | None:
        """The limit of a key (None: no key): the first that names it, otherwise the general one."""
        return self.limit_by_key.get(key or "", self.general_limit)

    def is_routed(self, model: str) -> bool:
        """Whether requests for a model that is no target take a route: it is an alias, or matches one."""
        return model in self.aliases or any(pattern.matches(model) for pattern in self.alias_patterns)

    @property
    def unpriced(self) -> tuple[str, ...]:
        """The targets outside the cluster whose cost is not known, if a limit counts dollars: `kind: litellm` has a
        price list."""
        if all(limit.dollars_per_day is None for limit in self.limits):
            return ()
        outside = (target for target in self.targets.values() if target.location != IN_CLUSTER)
        return tuple(target.name for target in outside if target.price is None and target.kind is not Kind.LITELLM)

    @property
    def version(self) -> str:
        """The first digits of the content hash, as shown in headers, logs and metrics."""
        return self.content_hash[:HASH_DIGITS]

    @property
    def endpoints(self) -> tuple[Target, ...]:
        """Every target that can be called: the endpoints of targets that have several, otherwise the target."""
        return tuple(endpoint for target in self.targets.values() for endpoint in target.endpoints or (target,))

    def with_current_endpoints(self, candidate: Candidate) -> Candidate:
        """The candidate of an earlier version of the policy at the endpoints that its target has now. A target that has
        changed otherwise, or that has no endpoints now, is left as it was when the request began."""
        target = self.targets.get(candidate.target.name)
        if target is None or not target.endpoints or target.endpoints == candidate.target.endpoints:
            return candidate
        renewed = replace(candidate.target, url=target.url, path=target.path, endpoints=target.endpoints)
        return _with_endpoints(replace(candidate, target=renewed)) if renewed == target else candidate

    @property
    def lanes(self) -> tuple[Candidate, ...]:
        """Every candidate of every route, in the policy's order."""
        plans = (split.open for rule in self.rules for split in rule.splits)
        lanes = {candidate.lane: candidate for plan in plans for candidate in plan.candidates}
        return tuple(lanes.values())


def compile_policy(
    *,
    content_hash: str,
    targets: Mapping[str, Target],
    target_slos: Mapping[str, Slo],
    routes: tuple[Route, ...],
    aliases: frozenset[str] = frozenset(),
    private_locations: frozenset[str] = PRIVATE_LOCATIONS,
) -> Policy:
    """Precompute the plans of all routes. The parts must be consistent; the loader validates them.

    `target_slos` are the objectives of targets used as fallbacks, or in routes without an objective of their own.
    """
    decoded = {target.name: (name, target) for route in routes for name, target in route.decoded.items()}
    all_targets = {**targets, **{name: target for name, (_, target) in decoded.items()}}
    inherited = {name: target_slos[worker] for name, (worker, _) in decoded.items() if worker in target_slos}
    all_slos = {**inherited, **target_slos}
    names, patterns = split_patterns(aliases)
    compiling = _Compiling(content_hash[:HASH_DIGITS], all_targets, all_slos, private_locations)
    rules = tuple(_rule(compiling, route) for route in routes)
    direct = {name: _rule(compiling, _direct_route(target)) for name, target in all_targets.items()}
    return Policy(
        content_hash=content_hash,
        targets=all_targets,
        rules=rules,
        direct=direct,
        aliases=names | {AUTO},
        alias_patterns=patterns,
        private_locations=private_locations,
    )


def with_limits(policy: Policy, limits: tuple[Limit, ...]) -> Policy:
    """The policy with limits for API keys."""
    return replace(
        policy,
        limits=limits,
        limit_by_key={key: limit for limit in reversed(limits) for key in limit.keys or ()},
        general_limit=next((limit for limit in limits if limit.keys is None), None),
    )


def narrowed(plan: Plan, allowed: frozenset[str]) -> Plan:
    """The plan without what is outside these locations, its shadow included. A target without a location is outside
    all of them."""
    known, shadow = plan.locations, plan.shadow
    return replace(
        plan,
        candidates=tuple(each for each in plan.candidates if each.target.location in allowed),
        shadow=shadow if shadow is not None and shadow.candidate.target.location in allowed else None,
        locations=allowed if known is None else known & allowed,
    )


def _rules_of(rules: tuple[Rule, ...], task: Task) -> tuple[tuple[Rule, ...], Rule]:
    possible = [each for each in rules if (tasks := each.route.when.tasks) is None or task in tasks]
    # The loader guarantees that the last rule matches everything.
    certain = next((each for each in possible if each.route.when.is_about_task_only), rules[-1])
    return tuple(takewhile(lambda each: each is not certain, possible)), certain


@dataclass(frozen=True, slots=True)
class _Compiling:
    """What all routes of a policy have in common."""

    version: str
    targets: Mapping[str, Target]
    target_slos: Mapping[str, Slo]
    private_locations: frozenset[str]


def _direct_route(target: Target) -> Route:
    """The route of requests that name a target: no fallback, so only the target's own gate holds a stream back."""
    otherwise = OnLowConfidence.SERVE_SUREST if target.serves_surest else OnLowConfidence.ERROR
    gate = None if target.min_confidence is None else Gate(minimum=target.min_confidence, otherwise=otherwise)
    return Route(name=DIRECT, when=When(), use=target.name, gate=gate)


def _rule(compiling: _Compiling, route: Route) -> Rule:
    shares = route.shares or ((route.use, 1.0),)
    total = sum(share for _, share in shares)
    untils = accumulate(share / total for _, share in shares)
    targets, slos = compiling.targets, compiling.target_slos
    shadow = _shadow(route, targets)
    splits = []
    for (first, _), until in zip(shares, untils, strict=True):
        chosen = _candidate(route, targets[first], slos, is_first=True)
        names = [name for name in route.fall_back if name != chosen.target.name]
        fallbacks = (_candidate(route, targets[name], slos, is_first=False) for name in names)
        splits.append(_split(compiling, route, _plan(compiling.version, route, (chosen, *fallbacks), shadow), until))
    return Rule(route=route, splits=tuple(splits))


def _split(compiling: _Compiling, route: Route, plan: Plan, until: float) -> TrafficSplit:
    """Requests that are not limited take a precomputed plan as it is."""
    plan = plan if route.locations is None else narrowed(plan, route.locations)
    inside = narrowed(plan, compiling.private_locations)
    private = replace(inside, private=True, locations=plan.locations)
    return TrafficSplit(open=private if route.private else plan, private=private, until=until)


def _shadow(route: Route, targets: Mapping[str, Target]) -> Shadow | None:
    """The shadow candidate. It has no objective and no minimum confidence: its response is compared as it is."""
    if route.shadow is None:
        return None
    name, share = route.shadow
    candidate = Candidate(route=route.name, target=targets[name])
    return Shadow(candidate=_with_endpoints(candidate), share=share)


def _candidate(route: Route, target: Target, target_slos: Mapping[str, Slo], *, is_first: bool) -> Candidate:
    """A lane has one SLO guard, so its objective is the same as a first choice and as a fallback of the route."""
    own = target_slos.get(target.name)
    firsts = dict(route.shares) or {route.use}
    candidate = Candidate(
        route=route.name,
        target=route.decoded.get(target.name, target) if is_first else target,
        slo=(route.slo or own) if target.name in firsts else own,
        min_confidence=_min_confidence(route, target, is_first=target.name in firsts),
        hedge=route.hedge if is_first else None,
    )
    return _with_endpoints(candidate)


def _min_confidence(route: Route, target: Target, *, is_first: bool) -> float | None:
    """The minimum confidence of a candidate; None also where its confidence is never known."""
    return minimum_in(route.gate, target, is_first=is_first) if is_gateable(target) else None


def _with_endpoints(candidate: Candidate) -> Candidate:
    endpoints = candidate.target.endpoints
    return replace(candidate, per_endpoint=tuple(replace(candidate, target=endpoint) for endpoint in endpoints))


def _plan(version: str, route: Route, candidates: tuple[Candidate, ...], shadow: Shadow | None) -> Plan:
    return Plan(
        policy=version,
        route=route.name,
        candidates=candidates,
        deadline_ms=route.deadline_ms,
        total_ms=route.total_ms,
        attempt_ms=route.attempt_ms,
        shadow=shadow,
        checks=route.checks,
        serves_surest=route.gate is not None and route.gate.otherwise is OnLowConfidence.SERVE_SUREST,
    )
