"""Reads the locations of targets and the limits to locations, and names those that no target has."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from gateway.policy_files.section import REQUIRED, Section, suggestion
from gateway.routing.conditions import LimitedTo
from gateway.routing.policy import PRIVATE_LOCATIONS, Policy, Route
from gateway.types import Target
from twolane.process.locations import EXPECTED, listed, location_of


def read_location(entry: Section) -> str | None:
    """Where a target runs; None if the policy does not say."""
    text = entry.string("location", None)
    return None if text is None else _label(entry, text, "location")


def read_locations(section: Section, key: str, default: Any = REQUIRED) -> Any:
    """One location or several, as a set."""
    labels = section.strings(key, default)
    if not section.has(key):
        return labels
    if not labels:
        raise section.error("expected at least one location", key)
    is_list = isinstance(section.node[key], list)
    return frozenset(_label(section, text, key, number if is_list else None) for number, text in enumerate(labels))


def read_private_locations(top: Section) -> frozenset[str]:
    """The locations that private requests may be sent to."""
    locations: frozenset[str] = read_locations(top, "private_locations", PRIVATE_LOCATIONS)
    return locations


def check_locations(
    entry: Section, route: Route, targets: Mapping[str, Target], private_locations: frozenset[str]
) -> None:
    """A route that is limited to some locations may name only targets there; any other could never be called."""
    limits = {} if route.locations is None else {"the route's locations": route.locations}
    limits |= {"the private locations": private_locations} if route.private else {}
    for name, locations in limits.items():
        for key, item, target in _named(route):
            location = targets[target].location
            if location not in locations:
                where = "has no location" if location is None else f"is in {location}"
                raise entry.error(f"target {target!r} {where}, outside {name}: {listed(locations)}", key, item)


def location_problems(policy: Policy) -> Iterator[str]:
    """One line for each location that a limit names and no target has, which is probably a typo, and for each server
    that has several."""
    yield from _contradictions(policy)
    known = {target.location for target in policy.targets.values() if target.location is not None}
    if policy.private_locations != PRIVATE_LOCATIONS:
        yield from _unknown("private_locations", policy.private_locations, known)
    for rule in policy.rules:
        route = rule.route
        yield from _unknown(f"locations of route {route.name!r}", route.locations or (), known)
        for condition in route.when.further:
            if isinstance(condition, LimitedTo):
                yield from _unknown(f"when.locations of route {route.name!r}", condition.locations, known)


def describe_locations(policy: Policy) -> Iterator[str]:
    """One line for each location, with its targets; private requests may be sent to those that are marked."""
    found: dict[str | None, list[str]] = {}
    for target in policy.targets.values():
        found.setdefault(target.location, []).append(target.name)
    for location, names in found.items():
        mark = " (private requests too)" if location in policy.private_locations else ""
        yield f"{location or 'no location'}{mark}: {', '.join(names)}"


def _contradictions(policy: Policy) -> Iterator[str]:
    first: dict[str, Target] = {}
    for endpoint in policy.endpoints:
        known = first.setdefault(endpoint.url, endpoint)
        if known.location != endpoint.location:
            where = f"in {known.location or 'no location'} and {endpoint.location or 'no location'}"
            yield f"targets {known.policy_name!r} and {endpoint.policy_name!r} are one server, but {where}"


def _unknown(where: str, locations: Iterable[str], known: set[str]) -> Iterator[str]:
    for location in sorted(set(locations) - known):
        yield f"{where}: no target is in {location!r}{suggestion(location, known)}"


def _named(route: Route) -> Iterator[tuple[str, int | None, str]]:
    """Key, item and name of each target of the route."""
    yield from (("use", None, name) for name, _ in route.shares or ((route.use, 1.0),))
    if route.shadow is not None:
        yield "shadow", None, route.shadow[0]
    yield from (("fall_back", number, name) for number, name in enumerate(route.fall_back))


def _label(section: Section, text: str, key: str, item: int | None = None) -> str:
    try:
        return location_of(text)
    except ValueError:
        raise section.error(f"{text!r} is not a location: expected {EXPECTED}", key, item) from None
