"""Reads the confidence gates of routes and targets, and names targets that have none or whose confidence cannot be
known."""

from collections.abc import Iterator, Sequence
from typing import Final

from gateway.enums import OnLowConfidence
from gateway.policy_files.section import Section, suggestion
from gateway.routing.gates import Gate, is_diffusion, is_gateable, minimum_in, reports_confidence
from gateway.routing.policy import Policy, Route
from gateway.types import Target

_UNKNOWN: Final = "it reports neither a confidence nor log-probabilities, so `min_confidence` has no effect"


def read_gate(entry: Section, lanes: Sequence[Target]) -> Gate | None:
    """`min_confidence` of a route, one for the route or one for each named target, and what happens where no answer
    reaches it. `lanes` are the targets of the route."""
    at_targets: dict[str, float] = {}
    minimum: float | None = None
    if isinstance(entry.node.get("min_confidence"), dict):
        section, names = entry.section("min_confidence"), [target.name for target in lanes]
        assert section is not None
        for name in map(str, section.node):
            if name not in names:
                raise section.error(f"not a target of this route: {name!r}{suggestion(name, names)}", name)
            at_targets[name] = section.number(name, minimum=0, maximum=1)
    else:
        minimum = entry.number("min_confidence", None, minimum=0, maximum=1)
    has_minimum = minimum is not None or bool(at_targets)
    is_gated = has_minimum or any(target.min_confidence is not None for target in lanes)
    otherwise = _otherwise(entry, is_gated=is_gated)
    if not has_minimum and not entry.has("low_confidence"):
        return None
    return Gate(minimum=minimum, at_targets=tuple(at_targets.items()), otherwise=otherwise)


def read_target_gate(entry: Section) -> tuple[float | None, bool]:
    """`min_confidence` of a target, and whether requests that name the target receive an answer below it."""
    minimum: float | None = entry.number("min_confidence", None, minimum=0, maximum=1)
    return minimum, _otherwise(entry, is_gated=minimum is not None) is OnLowConfidence.SERVE_SUREST


def _otherwise(entry: Section, *, is_gated: bool) -> OnLowConfidence:
    otherwise: OnLowConfidence = entry.choice("low_confidence", OnLowConfidence, OnLowConfidence.ERROR)
    if entry.has("low_confidence") and not is_gated:
        raise entry.error("requires `min_confidence`", "low_confidence")
    return otherwise


def gate_problems(policy: Policy) -> Iterator[str]:
    """One line for each target whose answers are served whatever their confidence: a diffusion engine for which a route
    has no minimum, or a target where the gate has no effect on texts because their confidence is never known."""
    for target in policy.targets.values():
        if target.min_confidence is not None and not reports_confidence(target):
            yield f"target {target.name!r} has no gate: {_UNKNOWN}{_but(target)}"
    for rule in policy.rules:
        yield from _route_problems(policy, rule.route)


def _route_problems(policy: Policy, route: Route) -> Iterator[str]:
    firsts = _firsts(route)
    for name in dict.fromkeys((*firsts, *route.fall_back)):
        target = policy.targets[name]
        if minimum_in(route.gate, target, is_first=name in firsts) is None:
            if is_diffusion(target):
                where = "" if route.gate is None else f" for target {name!r}"
                served = f"doubtful answers of target {name!r} are served"
                yield f"route {route.name!r} has no `min_confidence`{where}: {served}"
        elif target.min_confidence is None and not reports_confidence(target):
            yield f"route {route.name!r} has no gate at target {name!r}: {_UNKNOWN} there{_but(target)}"


def _but(target: Target) -> str:
    return " except on decisions" if is_gateable(target) else ""


def _firsts(route: Route) -> tuple[str, ...]:
    """The targets that requests are sent to first: one, or those of a traffic split."""
    return tuple(name for name, _ in route.shares) or (route.use,)
