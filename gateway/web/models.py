"""What GET /v1/models says: `auto`, the policy's aliases, and every target with what it can do."""

from collections.abc import Callable
from typing import Any

from gateway.enums import Grade
from gateway.errors import ModelNotFound
from gateway.routing.policy import AUTO, Policy
from gateway.types import Capabilities, Status, Target


def models_of(policy: Policy, status_of: Callable[[Target], Status]) -> list[dict[str, Any]]:
    """OpenAI's list, `auto` first."""
    routed = [AUTO, *sorted(policy.aliases - {AUTO})]
    entries = [_entry(name, "twolane", {"routed": True}) for name in routed]
    return entries + [
        _target(target, status_of((target.endpoints or (target,))[0])) for target in policy.targets.values()
    ]


def model_of(policy: Policy, status_of: Callable[[Target], Status], name: str) -> dict[str, Any]:
    """One entry. Raises ModelNotFound."""
    for entry in models_of(policy, status_of):
        if entry["id"] == name:
            return entry
    raise ModelNotFound(name)


def words_of(capabilities: Capabilities) -> dict[str, bool | str]:
    """Each word with true or its grade, as a worker publishes them."""
    graded = {
        "json_schema": capabilities.json_schema,
        "tools": capabilities.tools,
        "prediction": capabilities.prediction,
    }
    words: dict[str, bool | str] = {word.value: True for word in sorted(capabilities.supported)}
    return words | {name: grade.value for name, grade in graded.items() if grade is not Grade.NONE}


def _target(target: Target, status: Status) -> dict[str, Any]:
    capabilities = target.capabilities or status.capabilities
    ours: dict[str, Any] = {
        "routed": False,
        "kind": target.kind,
        "location": target.location,
        "state": status.residency,
        "capabilities": words_of(capabilities) if capabilities else None,
    }
    return _entry(target.name, target.kind, ours)


def _entry(name: str, owner: str, ours: dict[str, Any]) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": owner, "twolane": ours}
