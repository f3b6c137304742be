"""What a policy is, once compiled: targets, and routes in order, each with its plans ready. Immutable.

Knows no file format (that is `policy_files`) and no state. `content_hash` names the content, comments aside.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Final

from gateway.enums import Kind, Location
from gateway.policy_types import Checks, Hedge, Limit, Slo
from gateway.routing.conditions import When
from gateway.types import Candidate, Plan, Shadow, Target

AUTO: Final = "auto"
DIRECT: Final = "direct"  # the route of a request that names a target itself
HASH_DIGITS: Final = 12  # of the content hash, in headers and metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A rule as written: who is asked first, who next, and what the answer must pass.

    `use` is whom; with `shares`, one of those, each as often as its part of their sum says (a canary).
    """

    name: str
    when: When
    use: str
    shares: tuple[tuple[str, float], ...] = ()
    fall_back: tuple[str, ...] = ()
    slo: Slo | None = None
    min_confidence: float | None = None
    deadline_ms: float | None = None
    attempt_ms: float | None = None
    hedge: Hedge | None = None
    shadow: tuple[str, float] | None = None  # a target, and the share of requests that it gets as well
    checks: Checks | None = None
    private: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Who may be asked first, for draws below `until`.

    `private` is the plan for requests that must stay in the cluster: perhaps nobody can answer.
    """

    open: Plan
    private: Plan
    until: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A route compiled: its choices in order, usually one. `until` of the last is 1."""

    route: Route
    choices: tuple[Choice, ...]

    @property
    def open(self) -> Plan:
        """The first choice's plan."""
        return self.choices[0].open

    def drawn(self, sample: float) -> Choice:
        """The choice for a number that is uniform in [0, 1)."""
        return next((choice for choice in self.choices if sample < choice.until), self.choices[-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A whole policy; made by `compile_policy`."""

    content_hash: str
    targets: Mapping[str, Target]
    target_slos: Mapping[str, Slo]
    rules: tuple[Rule, ...]
    direct: Mapping[str, Rule]
    aliases: frozenset[str] = field(default_factory=frozenset)
    limits: tuple[Limit, ...] = ()

    def limit_of(self, key: str | None) -> Limit | None:
        """The one that holds for a key (None: a request without any): the first that names it, else the general one."""
        named = (limit for limit in self.limits if limit.keys is not None and key in limit.keys)
        return next(named, None) or next((limit for limit in self.limits if limit.keys is None), None)

    @property
    def version(self) -> str:
        """The first digits of the content hash: what headers, logs and metrics say."""
        return self.content_hash[:HASH_DIGITS]

    @property
    def places(self) -> tuple[Target, ...]:
        """Every target that can be called: of those with several servers, the servers."""
        return tuple(place for target in self.targets.values() for place in target.servers or (target,))

    @property
    def lanes(self) -> tuple[Candidate, ...]:
        """Every candidate of every route, in the policy's order: the lanes that can have a state."""
        plans = (choice.open for rule in self.rules for choice in rule.choices)
        lanes = {candidate.lane: candidate for plan in plans for candidate in plan.candidates}
        return tuple(lanes.values())


def compile_policy(
    *,
    content_hash: str,
    targets: Mapping[str, Target],
    target_slos: Mapping[str, Slo],
    routes: tuple[Route, ...],
    aliases: frozenset[str] = frozenset(),
    limits: tuple[Limit, ...] = (),
) -> Policy:
    """Build the plans ahead, so that choosing costs nothing. The parts must be consistent: the loader's job.

    `target_slos` is what a target promises where it is not a route's first choice, or the route promises nothing.
    """
    version = content_hash[:HASH_DIGITS]
    rules = tuple(_rule(version, route, targets, target_slos) for route in routes)
    direct = {name: _rule(version, _direct_route(name), targets, target_slos) for name in targets}
    return Policy(
        content_hash=content_hash,
        targets=targets,
        target_slos=target_slos,
        rules=rules,
        direct=direct,
        aliases=aliases | {AUTO},
        limits=limits,
    )


def _direct_route(target: str) -> Route:
    """No fallback: who names a target wants that one. The answer is still checked."""
    return Route(name=DIRECT, when=When(), use=target, checks=Checks())


def _rule(version: str, route: Route, targets: Mapping[str, Target], target_slos: Mapping[str, Slo]) -> Rule:
    shares = route.shares or ((route.use, 1.0),)
    total = sum(share for _, share in shares)
    untils = accumulate(share / total for _, share in shares)
    shadow = _shadow(route, targets)
    choices = []
    for (first, _), until in zip(shares, untils, strict=True):
        names = (first, *(name for name in route.fall_back if name != first))
        candidates = tuple(_candidate(route, targets[name], target_slos, hedges=name == first) for name in names)
        choices.append(_choice(version, route, candidates, shadow, until))
    return Rule(route=route, choices=tuple(choices))


def _choice(
    version: str, route: Route, candidates: tuple[Candidate, ...], shadow: Shadow | None, until: float
) -> Choice:
    inside = tuple(candidate for candidate in candidates if candidate.target.location is Location.IN_CLUSTER)
    open_plan = _plan(version, route, inside if route.private else candidates, private=route.private)
    private = _plan(version, route, inside, private=True)
    if shadow is None:
        return Choice(open=open_plan, private=private, until=until)
    may_see_private = shadow.candidate.target.location is Location.IN_CLUSTER
    return Choice(
        open=replace(open_plan, shadow=shadow if may_see_private or not open_plan.private else None),
        private=replace(private, shadow=shadow if may_see_private else None),
        until=until,
    )


def _shadow(route: Route, targets: Mapping[str, Target]) -> Shadow | None:
    """Nothing is asked of its answers, so that it is compared as it is."""
    if route.shadow is None:
        return None
    name, share = route.shadow
    candidate = Candidate(route=route.name, target=targets[name])
    servers = tuple(replace(candidate, target=server) for server in targets[name].servers)
    return Shadow(candidate=replace(candidate, servers=servers), share=share)


def _candidate(route: Route, target: Target, target_slos: Mapping[str, Slo], *, hedges: bool) -> Candidate:
    """A lane promises the same whether it is asked first or, in a shared route, next: it has one guard."""
    own = target_slos.get(target.name)
    firsts = dict(route.shares) or {route.use}
    candidate = Candidate(
        route=route.name,
        target=target,
        slo=(route.slo or own) if target.name in firsts else own,
        # Only our worker says how sure it is of an answer.
        min_confidence=route.min_confidence if target.kind is Kind.WORKER else None,
        hedge=route.hedge if hedges else None,
    )
    return replace(candidate, servers=tuple(replace(candidate, target=server) for server in target.servers))


def _plan(version: str, route: Route, candidates: tuple[Candidate, ...], *, private: bool) -> Plan:
    return Plan(
        policy=version,
        route=route.name,
        candidates=candidates,
        deadline_ms=route.deadline_ms,
        attempt_ms=route.attempt_ms,
        private=private,
        checks=route.checks,
    )
