"""The policy language as a JSON Schema for editors: `twolane policy schema` prints it, policies/schema.json contains
it.

The readers produce it themselves: they parse a sample that uses every key, and a visitor records what each key accepts.
So the schema and the parser cannot diverge. Constraints across several keys are checked by `policy check` only.
"""

import re
from typing import Any, Final

from gateway.enums import Kind
from gateway.policy_files.descriptions import DESCRIPTIONS
from gateway.policy_files.load import visit
from gateway.routing.conditions import COMPARISONS
from gateway.routing.engine_profiles import ENGINES

_VARIABLE: Final = {"type": "string", "pattern": r"\$\{"}
# Sections whose keys are chosen by the author of the policy.
_KEYED_BY_NAME: Final = frozenset(
    {"targets", "targets.*.headers", "routes[].use", "routes[].when.header", "routes[].min_confidence"}
)
_COMPARISON: Final = {"type": "string", "pattern": rf"^\s*({'|'.join(COMPARISONS)})\s*[0-9.]+\s*$"}
_CLOCK: Final = {"type": "string", "pattern": "^([01][0-9]|2[0-3]):[0-5][0-9]$|^24:00$"}
# Keys that are read as strings and then validated further.
_REFINED: Final[dict[str, dict[str, Any]]] = {
    "targets.*.kind": {"enum": [kind.value for kind in Kind if kind is not Kind.SCRIPTED]},
    "targets.*.resolve": {"enum": ["dns"]},
    "targets.*.engine": {"enum": sorted(ENGINES)},
    "routes[].when.confidence": _COMPARISON,
    "routes[].when.prompt_chars": _COMPARISON,
    **{f"routes[].when.time{pattern}.{key}": _CLOCK for pattern in ("", "[]") for key in ("from", "to")},
}

SAMPLE: Final = """\
version: 1
aliases: [small]
classifier: {weights: tasks.npz}
limits: [{keys: a, max_in_flight: 1}]
targets:
  fast:
    {kind: worker, url: "http://a", model: m, location: in_cluster, key_env: KEY, retry: {}, slo: &slo {p95_ms: 1},
     decoding: diffusion, diffusion: {under_load: {}}, max_in_flight: 1, queue: {}, headers: {x-team: a},
     min_confidence: 0.8, low_confidence: error}
  name: {kind: worker, url: "http://d", model: m, location: in_cluster, resolve: dns}
  pool: {kind: openai, urls: ["http://b"], model: m, location: external, engine: vllm,
    price: {input_per_million: 1, output_per_million: 1}}
  other: {kind: openai, url: "http://c", model: m, location: external, capabilities: [chat], key_file: k}
routes:
  - name: first
    when: {header: {x-team: a, x-debug: true}, time: {days: mon}}
    use: fast
    decoding: verified
    slo: *slo
    hedge: {after_ms: 1}
    shadow: {target: fast, share: 0.1}
    validate: {}
    min_confidence: 0.8
    low_confidence: error
    fall_back: pool
  - name: second
    when: {time: [{days: mon}]}
    validate: none
    use: {fast: 1, other: 1}
    min_confidence: {fast: 0.8}
  - {name: last, use: fast}
"""


class SchemaRecorder:
    """Records, by section and key, which values are accepted and which keys are required."""

    def __init__(self) -> None:
        self.accepted: dict[str, dict[str, list[dict[str, Any]]]] = {}
        self._required: dict[str, dict[str, set[str]]] = {}  # by pattern, then by path

    def key(self, path: str, key: str, takes: dict[str, Any], *, required: bool) -> None:
        """See `section.SchemaVisitor`."""
        pattern = _pattern(path)
        name = "*" if pattern in _KEYED_BY_NAME else key
        found = self.accepted.setdefault(pattern, {}).setdefault(name, [])
        takes = _REFINED.get(_join(pattern, name), takes)
        if takes not in found:
            found.append(takes)
        required_there = self._required.setdefault(pattern, {}).setdefault(path, set())
        if required:
            required_there.add(name)

    def required(self, pattern: str) -> list[str]:
        """The keys that are required in every section of this kind."""
        return sorted(set.intersection(*self._required[pattern].values()))


def editor_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of the whole language."""
    recorder = SchemaRecorder()
    visit(SAMPLE, recorder)
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "A Twolane policy"}
    return head | _object(recorder, "")


def _object(recorder: SchemaRecorder, pattern: str) -> dict[str, Any]:
    keys = recorder.accepted.get(pattern, {})
    members = {key: _member(recorder, _join(pattern, key), keys[key]) for key in keys}
    if pattern in _KEYED_BY_NAME:
        # The section under each name if there is one, else the value.
        each = _join(pattern, "*")
        of_each = _described(each) | _object(recorder, each) if each in recorder.accepted else members["*"]
        return {"type": "object", "additionalProperties": of_each, "minProperties": 1}
    whole: dict[str, Any] = {"type": "object", "properties": members, "additionalProperties": False}
    return whole | ({"required": required} if (required := recorder.required(pattern)) else {})


def _member(recorder: SchemaRecorder, pattern: str, accepted: list[dict[str, Any]]) -> dict[str, Any]:
    return _described(pattern) | _any_of([_nested(recorder, pattern, takes) for takes in accepted])


def _described(pattern: str) -> dict[str, Any]:
    return {"description": DESCRIPTIONS[pattern]} if pattern in DESCRIPTIONS else {}


def _nested(recorder: SchemaRecorder, pattern: str, takes: dict[str, Any]) -> dict[str, Any]:
    """The schema of a value: objects become their sections; numbers and enums may also be a variable."""
    if takes == {"type": "object"}:
        return _object(recorder, pattern)
    if takes.get("items") == {"type": "object"}:
        return takes | {"items": _object(recorder, f"{pattern}[]")}
    if takes.get("type") in ("number", "integer") or "enum" in takes:
        return {"anyOf": [takes, _VARIABLE]}
    return takes


def _any_of(choices: list[dict[str, Any]]) -> dict[str, Any]:
    return choices[0] if len(choices) == 1 else {"anyOf": choices}


def _pattern(path: str) -> str:
    """A section's path with target names and list indexes replaced by wildcards."""
    return re.sub(r"^targets\.[^.]+", "targets.*", re.sub(r"\[\d+\]", "[]", path))


def _join(pattern: str, key: str) -> str:
    return f"{pattern}.{key}" if pattern else key
