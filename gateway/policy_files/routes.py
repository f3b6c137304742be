"""The `routes` section of a policy: which requests go to which targets, and how responses are validated."""

from collections.abc import Mapping, Sequence
from typing import Final

from gateway.policy_files import renamed_keys
from gateway.policy_files.conditions import read_when
from gateway.policy_files.decoding import read_route_decoding
from gateway.policy_files.gates import read_gate
from gateway.policy_files.locations import check_locations, read_locations
from gateway.policy_files.objectives import check_name, read_hedge, read_slo
from gateway.policy_files.section import Section, suggestion
from gateway.policy_files.validation import read_checks
from gateway.policy_types import DEFAULT_TOTAL_MS, Hedge, Slo
from gateway.routing.gates import Gate
from gateway.routing.policy import DIRECT, Route
from gateway.types import Target

_MAX_MS: Final = 3_600_000

# Valid at the top level only; refused here instead of ignored.
_UNSUPPORTED: Final = {"limits": "limits per route (`limits` at the top level apply to API keys)"}


def read_routes(top: Section, targets: Mapping[str, Target], private_locations: frozenset[str]) -> tuple[Route, ...]:
    """All routes in order. Exactly the last one matches every request."""
    entries = top.sections("routes")
    routes: list[Route] = []
    for number, entry in enumerate(entries):
        route = _route(entry, targets, private_locations)
        if route.name in {earlier.name for earlier in routes}:
            raise entry.error(f"duplicate route name {route.name!r}", "name")
        is_last = number == len(entries) - 1
        if is_last and entry.has("when"):
            raise entry.error("the last route must match every request, so `when` is not allowed", "when")
        if not is_last and not entry.has("when"):
            raise entry.error(f"route {route.name!r} has no `when`, so the routes after it would never match")
        routes.append(route)
    return tuple(routes)


def _route(entry: Section, targets: Mapping[str, Target], private_locations: frozenset[str]) -> Route:
    entry.reject_renamed(renamed_keys.ROUTE)
    name = entry.string("name")
    check_name(entry, name, reserved=DIRECT, key="name")
    when = read_when(entry, private_locations)
    slo = read_slo(entry)
    shares = _use(entry, targets)
    used = tuple(name for name, _ in shares)
    decoded = read_route_decoding(entry, used, targets)
    fall_back = _fall_back(entry, targets, decoded)
    names = tuple(dict.fromkeys((*used, *fall_back)))
    lanes = [targets[name] for name in names]
    gate = read_gate(entry, lanes)
    deadline_ms = entry.number("deadline_ms", None, minimum=1, maximum=_MAX_MS)
    route = Route(
        name=name,
        when=when,
        use=shares[0][0],
        shares=shares if len(shares) > 1 else (),
        fall_back=fall_back,
        slo=slo,
        gate=gate,
        deadline_ms=deadline_ms,
        total_ms=_total_ms(entry, deadline_ms),
        attempt_ms=_attempt_ms(entry, deadline_ms, len(fall_back)),
        hedge=_hedge(entry, slo, lanes),
        shadow=_shadow(entry, targets),
        checks=read_checks(entry, needs_confidence=_has_gate(gate, lanes), can_fall_back=bool(fall_back)),
        private=entry.boolean("private", False),
        decoded=decoded,
        locations=read_locations(entry, "locations", None),
    )
    entry.reject_unsupported(_UNSUPPORTED)
    entry.close()
    check_locations(entry, route, targets, private_locations)
    return route


def _has_gate(gate: Gate | None, lanes: Sequence[Target]) -> bool:
    return gate is not None or any(target.min_confidence is not None for target in lanes)


def _use(entry: Section, targets: Mapping[str, Target]) -> tuple[tuple[str, float], ...]:
    """The primary target, or several targets that split the traffic by weight."""
    if not isinstance(entry.node.get("use"), dict):
        name = entry.string("use")
        _check_target(entry, name, targets)
        return ((name, 1.0),)
    section = entry.section("use")
    assert section is not None
    for name in section.node:
        _check_target(section, str(name), targets, key=str(name))
    shares = tuple((str(name), section.number(name, minimum=0, maximum=1e6)) for name in section.node)
    if not sum(share for _, share in shares) > 0:
        raise entry.error("at least one share must be greater than 0", "use")
    return shares


def _check_target(section: Section, name: str, targets: Mapping[str, Target], *, key: str = "use") -> None:
    if name not in targets:
        raise section.error(f"unknown target {name!r}{suggestion(name, targets)}", key)


def _fall_back(entry: Section, targets: Mapping[str, Target], decoded: Mapping[str, Target]) -> tuple[str, ...]:
    names: tuple[str, ...] = entry.strings("fall_back", ())
    used = entry.node["use"]
    only = None if isinstance(used, dict) else decoded[used].name if used in decoded else used
    for number, name in enumerate(names):
        if name not in targets:
            raise entry.error(f"unknown target {name!r}{suggestion(name, targets)}", "fall_back", number)
        # With shares, one target may fall back to another; in another decoding mode, to itself.
        if name == only:
            raise entry.error(f"target {name!r} cannot fall back to itself", "fall_back", number)
    return names


def _total_ms(entry: Section, deadline_ms: float | None) -> float:
    """The time limit of a stream as a whole, which includes the time to its first byte."""
    total_ms: float = entry.number("total_ms", max(DEFAULT_TOTAL_MS, deadline_ms or 0), minimum=1, maximum=_MAX_MS)
    if deadline_ms is not None and total_ms < deadline_ms:
        raise entry.error(f"must not be below deadline_ms ({deadline_ms:g})", "total_ms")
    return total_ms


def _attempt_ms(entry: Section, deadline_ms: float | None, fallbacks: int) -> float | None:
    """The time limit of all attempts but the last; together they must leave time for the last one."""
    attempt_ms: float | None = entry.number("attempt_ms", None, minimum=1, maximum=_MAX_MS)
    if attempt_ms is None:
        return None
    if deadline_ms is None or not fallbacks:
        raise entry.error("requires `deadline_ms` and `fall_back`", "attempt_ms")
    if attempt_ms * fallbacks >= deadline_ms:
        raise entry.error(
            f"{fallbacks} x {attempt_ms:g} ms uses up deadline_ms before the last fallback is tried", "attempt_ms"
        )
    return attempt_ms


def _hedge(entry: Section, slo: Slo | None, targets: Sequence[Target]) -> Hedge | None:
    """A hedge needs a target at another URL: the same server would be just as slow."""
    hedge = read_hedge(entry, slo)
    if hedge is not None and all(target.url == targets[0].url for target in targets[1:]):
        raise entry.error("requires a `fall_back` target with a different URL", "hedge")
    return hedge


def _shadow(entry: Section, targets: Mapping[str, Target]) -> tuple[str, float] | None:
    shadow = entry.section("shadow")
    if shadow is None:
        return None
    name = shadow.string("target")
    _check_target(shadow, name, targets, key="target")
    share = shadow.number("share", minimum=0, maximum=1)
    shadow.close()
    return name, share
