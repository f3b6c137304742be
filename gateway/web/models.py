"""GET /v1/models: `auto`, the policy's aliases, and every target with its capabilities."""

from collections.abc import Callable
from typing import Any

from gateway.enums import Grade
from gateway.errors import ModelNotFound
from gateway.routing.policy import AUTO, Policy
from gateway.types import Capabilities, Status, Target


def models_of(
    policy: Policy, status_of: Callable[[Target], Status], allowed: frozenset[str] | None = None
) -> list[dict[str, Any]]:
    """OpenAI's list, with `auto` first; of the `allowed` models only, if there is such a limit."""
    routed = [AUTO, *sorted(policy.aliases - {AUTO})]
    entries = [_entry(name, "twolane", {"routed": True}) for name in routed]
    entries += [_target(target, status_of((target.endpoints or (target,))[0])) for target in policy.targets.values()]
    return entries if allowed is None else [entry for entry in entries if entry["id"] in allowed]


def model_of(
    policy: Policy, status_of: Callable[[Target], Status], name: str, allowed: frozenset[str] | None = None
) -> dict[str, Any]:
    """One entry. Raises ModelNotFound."""
    for entry in models_of(policy, status_of, allowed):
        if entry["id"] == name:
            return entry
    raise ModelNotFound(name)


def published_capabilities(capabilities: Capabilities) -> dict[str, bool | str]:
    """Each capability with true or its grade, as workers publish them."""
    graded = {
        "json_schema": capabilities.json_schema,
        "tools": capabilities.tools,
        "prediction": capabilities.prediction,
    }
    published: dict[str, bool | str] = {capability.value: True for capability in sorted(capabilities.supported)}
    return published | {name: grade.value for name, grade in graded.items() if grade is not Grade.NONE}


def _target(target: Target, status: Status) -> dict[str, Any]:
    capabilities = target.capabilities or status.capabilities
    extension: dict[str, Any] = {
        "routed": False,
        "kind": target.kind,
        "location": target.location,
        "state": status.residency,
        "capabilities": published_capabilities(capabilities) if capabilities else None,
    }
    return _entry(target.name, target.kind, extension)


def _entry(name: str, owner: str, extension: dict[str, Any]) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": owner, "twolane": extension}
