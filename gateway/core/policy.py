"""What a policy is, once compiled: targets, and routes in order, each with its two plans ready. Immutable.

Knows no file format (that is `policy_files`) and no state. `content_hash` names the content, comments aside.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import ge, gt, le, lt
from typing import Final

from gateway.records import Candidate, Classification, Plan, Query, Target
from gateway.terms import Checks, Hedge, Slo
from gateway.words import Kind, Place, Task

AUTO: Final = "auto"
DIRECT: Final = "direct"  # the route of a request that names a target itself
HASH_DIGITS: Final = 12  # of the content hash, in headers and metrics

COMPARISONS: Final = {">=": ge, ">": gt, "<=": le, "<": lt}


@dataclass(frozen=True, slots=True, kw_only=True)
class When:
    """The conditions of a route: all that are given must hold; None is not asked."""

    tasks: frozenset[Task] | None = None
    confidence: tuple[str, float] | None = None  # one of COMPARISONS, and the number
    models: frozenset[str] | None = None
    keys: frozenset[str] | None = None  # names of API keys
    stream: bool | None = None
    schema: bool | None = None
    private: bool | None = None

    def matches(self, query: Query, classification: Classification) -> bool:
        """Does this route take the request?"""
        if self.tasks is not None and classification.task not in self.tasks:
            return False
        if self.confidence is not None:
            comparison, number = self.confidence
            if not COMPARISONS[comparison](classification.confidence, number):
                return False
        return self._matches_request(query)

    def _matches_request(self, query: Query) -> bool:
        return (
            (self.models is None or query.model in self.models)
            and (self.keys is None or query.principal in self.keys)
            and (self.stream is None or query.stream is self.stream)
            and (self.schema is None or (query.expectation is not None) is self.schema)
            and (self.private is None or query.private is self.private)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A rule as written: who is asked first, who next, and what the answer must pass."""

    name: str
    when: When
    use: str
    fall_back: tuple[str, ...] = ()
    slo: Slo | None = None
    min_confidence: float | None = None
    deadline_ms: float | None = None
    attempt_ms: float | None = None
    hedge: Hedge | None = None
    checks: Checks | None = None
    keep_in_cluster: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A route compiled. `private` is the plan for requests that must stay in the cluster: perhaps nobody can answer."""

    route: Route
    open: Plan
    private: Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A whole policy; made by `compile_policy`."""

    content_hash: str
    targets: Mapping[str, Target]
    target_slos: Mapping[str, Slo]
    rules: tuple[Rule, ...]
    direct: Mapping[str, Rule]
    aliases: frozenset[str] = field(default_factory=frozenset)

    @property
    def version(self) -> str:
        """The first digits of the content hash: what headers, logs and metrics say."""
        return self.content_hash[:HASH_DIGITS]

    @property
    def lanes(self) -> tuple[Candidate, ...]:
        """Every candidate of every route, in the policy's order: the lanes that can have a state."""
        return tuple(candidate for rule in self.rules for candidate in rule.open.candidates)


def compile_policy(
    *,
    content_hash: str,
    targets: Mapping[str, Target],
    target_slos: Mapping[str, Slo],
    routes: tuple[Route, ...],
    aliases: frozenset[str] = frozenset(),
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
    )


def _direct_route(target: str) -> Route:
    """No fallback: who names a target wants that one. The answer is still checked."""
    return Route(name=DIRECT, when=When(), use=target, checks=Checks())


def _rule(version: str, route: Route, targets: Mapping[str, Target], target_slos: Mapping[str, Slo]) -> Rule:
    candidates = tuple(_candidate(route, targets[name], target_slos) for name in (route.use, *route.fall_back))
    inside = tuple(candidate for candidate in candidates if candidate.target.place is Place.IN_CLUSTER)
    return Rule(
        route=route,
        open=_plan(version, route, inside if route.keep_in_cluster else candidates, private=route.keep_in_cluster),
        private=_plan(version, route, inside, private=True),
    )


def _candidate(route: Route, target: Target, target_slos: Mapping[str, Slo]) -> Candidate:
    own = target_slos.get(target.name)
    return Candidate(
        route=route.name,
        target=target,
        slo=(route.slo or own) if target.name == route.use else own,
        # Only our worker says how sure it is of an answer.
        min_confidence=route.min_confidence if target.kind is Kind.WORKER else None,
        hedge=route.hedge if target.name == route.use else None,
    )


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
