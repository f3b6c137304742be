"""GET /v1/models: `auto`, the policy's aliases, and every target with its capabilities and limits."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, Final

from gateway.enums import Capability, Grade
from gateway.errors import ModelNotFound
from gateway.routing.conditions import When
from gateway.routing.policy import AUTO, Policy, Rule
from gateway.types import Capabilities, Status, Target

StatusOf = Callable[[Target], Status]
Published = dict[str, bool | str]  # capabilities by name, each true or its grade
_FROM_WEAKEST: Final = (True, *(grade.value for grade in Grade))


def models_of(policy: Policy, status_of: StatusOf, allowed: frozenset[str] | None = None) -> list[dict[str, Any]]:
    """OpenAI's list, with `auto` first; of the `allowed` models only, if there is such a limit."""
    patterns = [pattern.text for pattern in policy.alias_patterns]
    routed = [AUTO, *sorted({*policy.aliases, *patterns} - {AUTO})]
    entries = [_routed(name, policy, status_of) for name in routed]
    entries += [_target(target, _capabilities(target, status_of), status_of) for target in policy.targets.values()]
    return entries if allowed is None else [entry for entry in entries if entry["id"] in allowed]


def page_of(models: list[dict[str, Any]]) -> dict[str, Any]:
    """The whole list as one page: OpenAI's `object`, Anthropic's `has_more` and ids."""
    ids = [model["id"] for model in models]
    return {
        "object": "list",
        "data": models,
        "has_more": False,
        "first_id": ids[0] if ids else None,
        "last_id": ids[-1] if ids else None,
    }


def model_of(policy: Policy, status_of: StatusOf, name: str, allowed: frozenset[str] | None = None) -> dict[str, Any]:
    """One entry; a name that an alias with a wildcard matches has one too. Raises ModelNotFound."""
    for entry in models_of(policy, status_of, allowed):
        if entry["id"] == name:
            return entry
    if policy.is_routed(name) and (allowed is None or name in allowed):
        return _routed(name, policy, status_of)
    raise ModelNotFound(name)


def published_capabilities(capabilities: Capabilities) -> Published:
    """Each capability with true or its grade, as workers publish them."""
    graded = {
        "json_schema": capabilities.json_schema,
        "tools": capabilities.tools,
        "prediction": capabilities.prediction,
    }
    published: Published = {capability.value: True for capability in sorted(capabilities.supported)}
    return published | {name: grade.value for name, grade in graded.items() if grade is not Grade.NONE}


def _capabilities(target: Target, status_of: StatusOf) -> Capabilities | None:
    return target.capabilities or status_of((target.endpoints or (target,))[0]).capabilities


def _routed(name: str, policy: Policy, status_of: StatusOf) -> dict[str, Any]:
    """A name that takes a route. A request that is too long for one target goes to the next, so the longest context
    counts."""
    routes = [_known(rule, status_of) for rule in _rules_for(name, policy)]
    lengths = [each.context_length for known in routes for each in known if each.context_length is not None]
    extension = {"routed": True, "capabilities": _common(routes)}
    return _entry(name, "twolane", max(lengths, default=None), extension)


def _known(rule: Rule, status_of: StatusOf) -> list[Capabilities]:
    """What is known of the targets of a route."""
    targets = [candidate.target for split in rule.splits for candidate in split.open.candidates]
    return [each for target in targets if (each := _capabilities(target, status_of)) is not None]


def _common(routes: Iterable[list[Capabilities]]) -> Published | None:
    """What every route has. A request is not sent to targets that lack what it needs, so one target of a route is
    enough. None if nothing is known of any target."""
    published = [_weakest(map(published_capabilities, known)) for known in routes if known]
    if not published:
        return None
    return {name: grade for name, grade in _weakest(published).items() if all(name in found for found in published)}


def _rules_for(name: str, policy: Policy) -> Iterator[Rule]:
    """Up to the first one that every request for this model takes."""
    for rule in policy.rules:
        when = rule.route.when
        if when.allows_model(name):
            yield rule
            if replace(when, models=None, model_patterns=()) == When():
                return


def _weakest(found: Iterable[Published]) -> Published:
    """All capabilities, each with its lowest grade."""
    merged: Published = {}
    for published in found:
        for name, value in published.items():
            merged[name] = min(merged.get(name, value), value, key=_FROM_WEAKEST.index)
    return merged


def _target(target: Target, capabilities: Capabilities | None, status_of: StatusOf) -> dict[str, Any]:
    extension: dict[str, Any] = {
        "routed": False,
        "kind": target.kind,
        "location": target.location,
        "state": status_of((target.endpoints or (target,))[0]).residency,
        "capabilities": published_capabilities(capabilities) if capabilities else None,
    }
    if capabilities is not None and Capability.EMBEDDINGS in capabilities.supported:
        extension["embeddings"] = {"max_inputs": capabilities.max_inputs, "dimensions": capabilities.dimensions}
    return _entry(target.name, target.kind, capabilities.context_length if capabilities else None, extension)


def _entry(name: str, owner: str, context_length: int | None, extension: dict[str, Any]) -> dict[str, Any]:
    """`context_length` is null if unknown; clients of vLLM read it as `max_model_len`. Anthropic's clients read `type`,
    `display_name` and `created_at`."""
    return {
        "id": name,
        "object": "model",
        "type": "model",
        "display_name": name,
        "created_at": "1970-01-01T00:00:00Z",  # when a model was released is not known
        "created": 0,
        "owned_by": owner,
        "context_length": context_length,
        "max_model_len": context_length,
        "twolane": extension,
    }
