"""The `routes` of a policy file: which requests go where, and what their answers must pass.

Knows the words of a route and of its conditions; names of targets are checked against those that exist.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from gateway.enums import Location
from gateway.policy_files.conditions import read_when
from gateway.policy_files.objectives import check_name, read_hedge, read_slo
from gateway.policy_files.section import Section, suggestion
from gateway.policy_files.validation import read_checks
from gateway.policy_types import Hedge, Slo
from gateway.routing.policy import DIRECT, Route
from gateway.types import Target

_LONGEST_MS: Final = 3_600_000

# Words that stand elsewhere. Here they are errors: a policy means what it says.
_LATER: Final = {
    "limits": "limiting a route (limits stand at the top, for keys)",
}


def read_routes(top: Section, targets: Mapping[str, Target]) -> tuple[Route, ...]:
    """All routes in order; exactly the last takes everything."""
    entries = top.items("routes")
    routes: list[Route] = []
    for number, entry in enumerate(entries):
        route = _route(entry, targets)
        if route.name in {earlier.name for earlier in routes}:
            raise entry.fault(f"a second route called {route.name!r}", "name")
        is_last = number == len(entries) - 1
        if is_last and entry.has("when"):
            raise entry.fault("the last route takes what no other took, so it has no `when`", "when")
        if not is_last and not entry.has("when"):
            raise entry.fault(f"without `when` route {route.name!r} takes everything, and those after it nothing")
        routes.append(route)
    return tuple(routes)


def _route(entry: Section, targets: Mapping[str, Target]) -> Route:
    name = entry.text("name")
    check_name(entry, name, reserved=DIRECT, key="name")
    when = read_when(entry)
    min_confidence = entry.number("min_confidence", None, least=0, most=1)
    slo = read_slo(entry)
    shares, fall_back = _use(entry, targets), _fall_back(entry, targets)
    lanes = [targets[name] for name in (*(name for name, _ in shares), *fall_back)]
    deadline_ms = entry.number("deadline_ms", None, least=1, most=_LONGEST_MS)
    route = Route(
        name=name,
        when=when,
        use=shares[0][0],
        shares=shares if len(shares) > 1 else (),
        fall_back=fall_back,
        slo=slo,
        min_confidence=min_confidence,
        deadline_ms=deadline_ms,
        attempt_ms=_attempt_ms(entry, deadline_ms, len(fall_back)),
        hedge=_hedge(entry, slo, lanes),
        shadow=_shadow(entry, targets),
        checks=read_checks(entry, wants_confidence=min_confidence is not None, can_fall_back=bool(fall_back)),
        private=entry.flag("private", False),
    )
    entry.refuse(_LATER)
    entry.close()
    _check_private(entry, route, targets)
    return route


def _use(entry: Section, targets: Mapping[str, Target]) -> tuple[tuple[str, float], ...]:
    """Who is asked first: a target, or several that share the requests, each with its part."""
    if not isinstance(entry.node.get("use"), dict):
        name = entry.text("use")
        _check_target(entry, name, targets)
        return ((name, 1.0),)
    section = entry.section("use")
    assert section is not None
    for name in section.node:
        _check_target(section, str(name), targets, key=str(name))
    shares = tuple((str(name), section.number(name, least=0, most=1e6)) for name in section.node)
    if not sum(share for _, share in shares) > 0:
        raise entry.fault("somebody must have a share", "use")
    return shares


def _check_target(section: Section, name: str, targets: Mapping[str, Target], *, key: str = "use") -> None:
    if name not in targets:
        raise section.fault(f"no target called {name!r}{suggestion(name, targets)}", key)


def _fall_back(entry: Section, targets: Mapping[str, Target]) -> tuple[str, ...]:
    names: tuple[str, ...] = entry.names("fall_back", ())
    for number, name in enumerate(names):
        if name not in targets:
            raise entry.fault(f"no target called {name!r}{suggestion(name, targets)}", "fall_back", number)
        if name == entry.node["use"]:  # where several share a route, one may fall back to another
            raise entry.fault(f"{name!r} cannot fall back to itself", "fall_back", number)
    return names


def _attempt_ms(entry: Section, deadline_ms: float | None, fallbacks: int) -> float | None:
    """What each attempt but the last may take: together they leave the last one time within the deadline."""
    attempt_ms: float | None = entry.number("attempt_ms", None, least=1, most=_LONGEST_MS)
    if attempt_ms is None:
        return None
    if deadline_ms is None or not fallbacks:
        raise entry.fault("needs a `deadline_ms` to be a part of, and a `fall_back` to leave time for", "attempt_ms")
    if attempt_ms * fallbacks >= deadline_ms:
        raise entry.fault(f"{fallbacks} x {attempt_ms:g} leaves the last attempt nothing of deadline_ms", "attempt_ms")
    return attempt_ms


def _hedge(entry: Section, slo: Slo | None, targets: Sequence[Target]) -> Hedge | None:
    """Only another server can overtake a slow one."""
    hedge = read_hedge(entry, slo)
    if hedge is not None and all(target.url == targets[0].url for target in targets[1:]):
        raise entry.fault("hedging needs a `fall_back` behind another url", "hedge")
    return hedge


def _shadow(entry: Section, targets: Mapping[str, Target]) -> tuple[str, float] | None:
    shadow = entry.section("shadow")
    if shadow is None:
        return None
    name = shadow.text("target")
    _check_target(shadow, name, targets, key="target")
    share = shadow.number("share", least=0, most=1)
    shadow.close()
    return name, share


def _check_private(entry: Section, route: Route, targets: Mapping[str, Target]) -> None:
    """A route that keeps requests in the cluster names only targets there: what could never be called is a mistake."""
    if not route.private:
        return
    for name in [name for name, _ in route.shares] or [route.use]:
        if targets[name].location is not Location.IN_CLUSTER:
            raise entry.fault(f"the route keeps requests in the cluster, and {name!r} is outside", "use")
    if route.shadow is not None and targets[route.shadow[0]].location is not Location.IN_CLUSTER:
        raise entry.fault(f"the route keeps requests in the cluster, and {route.shadow[0]!r} is outside", "shadow")
    for number, name in enumerate(route.fall_back):
        if targets[name].location is not Location.IN_CLUSTER:
            raise entry.fault(f"the route keeps requests in the cluster, and {name!r} is outside", "fall_back", number)
