"""The language as a JSON Schema, for editors: `twolane policy schema` prints it, policies/schema.json holds it.

Made by the readers themselves: they read a sample that uses every word, and each key they ask for is noted with what
they would take. So no key can be missing here, or be here only. What depends on several keys is left to `policy check`.
"""

import re
from typing import Any, Final

from gateway.enums import Kind
from gateway.policy_files.load import visit
from gateway.routing.conditions import COMPARISONS
from gateway.routing.engine_profiles import ENGINES

_VARIABLE: Final = {"type": "string", "pattern": r"\$\{"}
# Sections whose keys are names that the author chooses.
_NAMED: Final = frozenset({"targets", "routes[].use", "routes[].when.header"})
_COMPARISON: Final = {"type": "string", "pattern": rf"^\s*({'|'.join(COMPARISONS)})\s*[0-9.]+\s*$"}
_CLOCK: Final = {"type": "string", "pattern": "^([01][0-9]|2[0-3]):[0-5][0-9]$|^24:00$"}
# Where a reader takes text and then looks closer.
_CLOSER: Final[dict[str, dict[str, Any]]] = {
    "targets.*.kind": {"enum": [kind.value for kind in Kind if kind is not Kind.SCRIPTED]},
    "targets.*.resolve": {"enum": ["dns"]},
    "targets.*.engine": {"enum": sorted(ENGINES)},
    "routes[].when.confidence": _COMPARISON,
    "routes[].when.prompt_chars": _COMPARISON,
    **{f"routes[].when.time{place}.{key}": _CLOCK for place in ("", "[]") for key in ("from", "to")},
}

SAMPLE: Final = """\
version: 1
aliases: [small]
limits: [{keys: a, max_in_flight: 1}]
targets:
  fast:
    {kind: worker, url: "http://a", model: m, location: in_cluster, key_env: KEY, retry: {}, slo: &slo {p95_ms: 1},
     diffusion: {}}
  name: {kind: worker, url: "http://d", model: m, location: in_cluster, resolve: dns}
  pool: {kind: openai, urls: ["http://b"], model: m, location: external, engine: vllm}
  other: {kind: openai, url: "http://c", model: m, location: external, capabilities: [chat]}
routes:
  - name: first
    when: {header: {x-team: a, x-debug: true}, time: {days: mon}}
    use: fast
    slo: *slo
    hedge: {after_ms: 1}
    shadow: {target: fast, share: 0.1}
    validate: {}
    fall_back: pool
  - name: second
    when: {time: [{days: mon}]}
    use: {fast: 1, other: 1}
  - {name: last, use: fast}
"""


class Ledger:
    """What the readers asked for: by section and key, what would be taken there; and what each section must have."""

    def __init__(self) -> None:
        self.taken: dict[str, dict[str, list[dict[str, Any]]]] = {}
        self._required: dict[str, dict[str, set[str]]] = {}  # by place, then by path

    def note(self, path: str, key: str, takes: dict[str, Any], *, required: bool) -> None:
        """See `section.Notes`."""
        place = _place(path)
        name = "*" if place in _NAMED else key
        found = self.taken.setdefault(place, {}).setdefault(name, [])
        takes = _CLOSER.get(_join(place, name), takes)
        if takes not in found:
            found.append(takes)
        required_there = self._required.setdefault(place, {}).setdefault(path, set())
        if required:
            required_there.add(name)

    def required(self, place: str) -> list[str]:
        """The keys that every section of this kind had to have."""
        return sorted(set.intersection(*self._required[place].values()))


def editor_schema() -> dict[str, Any]:
    """The whole language, draft 2020-12."""
    ledger = Ledger()
    visit(SAMPLE, ledger)
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "A Twolane policy"}
    return head | _object(ledger, "")


def _object(ledger: Ledger, place: str) -> dict[str, Any]:
    keys = ledger.taken.get(place, {})
    members = {key: _any_of([_inside(ledger, _join(place, key), takes) for takes in keys[key]]) for key in keys}
    if place in _NAMED:
        # Sections of their own, if each name has one; else what was taken under the names.
        of_each = _object(ledger, _join(place, "*")) if _join(place, "*") in ledger.taken else members["*"]
        return {"type": "object", "additionalProperties": of_each, "minProperties": 1}
    whole: dict[str, Any] = {"type": "object", "properties": members, "additionalProperties": False}
    return whole | ({"required": required} if (required := ledger.required(place)) else {})


def _inside(ledger: Ledger, place: str, takes: dict[str, Any]) -> dict[str, Any]:
    """Objects are described by what was asked of them; a number or a word may also be a variable."""
    if takes == {"type": "object"}:
        return _object(ledger, place)
    if takes.get("items") == {"type": "object"}:
        return takes | {"items": _object(ledger, f"{place}[]")}
    if takes.get("type") in ("number", "integer") or "enum" in takes:
        return {"anyOf": [takes, _VARIABLE]}
    return takes


def _any_of(choices: list[dict[str, Any]]) -> dict[str, Any]:
    return choices[0] if len(choices) == 1 else {"anyOf": choices}


def _place(path: str) -> str:
    """A section's path without the names and numbers of this file."""
    return re.sub(r"^targets\.[^.]+", "targets.*", re.sub(r"\[\d+\]", "[]", path))


def _join(place: str, key: str) -> str:
    return f"{place}.{key}" if place else key
