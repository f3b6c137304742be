"""Reads the confidence gate of a route, and names targets that have none or whose confidence cannot be known."""

from collections.abc import Iterator, Sequence

from gateway.enums import OnLowConfidence
from gateway.policy_files.section import Section, suggestion
from gateway.routing.gates import Gate, is_diffusion, is_gateable, reports_confidence
from gateway.routing.policy import Policy, Route


def read_gate(entry: Section, names: Sequence[str]) -> Gate | None:
    """`min_confidence`, one for the route or one for each named target, and what happens where no answer reaches it.
    `names` are the targets of the route."""
    at_targets: dict[str, float] = {}
    minimum: float | None = None
    if isinstance(entry.node.get("min_confidence"), dict):
        section = entry.section("min_confidence")
        assert section is not None
        for name in map(str, section.node):
            if name not in names:
                raise section.error(f"not a target of this route: {name!r}{suggestion(name, names)}", name)
            at_targets[name] = section.number(name, minimum=0, maximum=1)
    else:
        minimum = entry.number("min_confidence", None, minimum=0, maximum=1)
    otherwise = entry.choice("low_confidence", OnLowConfidence, OnLowConfidence.ERROR)
    if minimum is None and not at_targets:
        if entry.has("low_confidence"):
            raise entry.error("requires `min_confidence`", "low_confidence")
        return None
    return Gate(minimum=minimum, at_targets=tuple(at_targets.items()), otherwise=otherwise)


def gate_problems(policy: Policy) -> Iterator[str]:
    """One line for each target whose answers are served whatever their confidence: a diffusion engine that a route
    without a gate tries first, or a target where the gate has no effect on texts because their confidence is never
    known."""
    for rule in policy.rules:
        route = rule.route
        firsts = _firsts(route)
        if route.gate is None:
            for name in filter(lambda name: is_diffusion(policy.targets[name]), firsts):
                yield f"route {route.name!r} has no `min_confidence`: doubtful answers of target {name!r} are served"
            continue
        for name in dict.fromkeys((*firsts, *route.fall_back)):
            target = policy.targets[name]
            if route.gate.minimum_at(target, is_first=name in firsts) is not None and not reports_confidence(target):
                but = " except on decisions" if is_gateable(target) else ""
                yield (
                    f"route {route.name!r} has no gate at target {name!r}: it reports neither a confidence nor"
                    f" log-probabilities, so `min_confidence` has no effect there{but}"
                )


def _firsts(route: Route) -> tuple[str, ...]:
    """The targets that requests are sent to first: one, or those of a traffic split."""
    return tuple(name for name, _ in route.shares) or (route.use,)
