"""Writes a request's output format as one target spells it.

A schema becomes OpenAI's `response_format`, which every target with schemas supports. Regular expressions, choices and
grammars are spelled as the target's engine does; a target of another engine receives the client's spelling.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from gateway.enums import FormatKind, Kind
from gateway.parameters import FORMAT_FIELDS, NESTS
from gateway.types import OutputFormat, Target

FIELDS: Final = FORMAT_FIELDS | set(NESTS)  # that `write_format` reads and writes
_CONSTRAINTS: Final = ("json", "json_object", "regex", "choice", "grammar")
_WORKER: Final = "worker"
Spell = Callable[[OutputFormat], dict[str, Any] | None]


def write_format(document: dict[str, Any], wanted: OutputFormat, target: Target) -> None:
    """Rewrite the fields of a body in place. A body that is spelled as the target expects stays as it is."""
    _unnest(document)
    if wanted.form is FormatKind.JSON_SCHEMA or wanted.form is FormatKind.JSON_OBJECT:
        spelled = {"response_format": _response_format(document, wanted)}
    else:
        spell = _SPELL.get(_WORKER if target.kind is Kind.WORKER else target.engine or "")
        found = None if spell is None else spell(wanted)
        if found is None:
            return
        spelled = found
    options = _options(document)
    for name in FORMAT_FIELDS:
        document.pop(name, None)
    document.update(spelled)
    if options and target.kind is Kind.WORKER:
        document["structured_outputs"] = {**options, **document.get("structured_outputs", {})}
    elif options and target.engine == "vllm":
        constraint = document.get("structured_outputs") or _as_structured(document.pop("response_format"))
        document["structured_outputs"] = {**options, **constraint}


def _response_format(document: Mapping[str, Any], wanted: OutputFormat) -> dict[str, Any]:
    if wanted.form is FormatKind.JSON_OBJECT:
        return {"type": "json_object"}
    given = document.get("response_format")
    if isinstance(given, dict) and given.get("type") == "json_schema" and isinstance(given.get("json_schema"), dict):
        return given
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": wanted.schema}}


def _as_structured(response_format: Mapping[str, Any]) -> dict[str, Any]:
    """vLLM takes options only beside a constraint of `structured_outputs`."""
    named = response_format.get("json_schema")
    return {"json_object": True} if named is None else {"json": named["schema"]}


def _unnest(document: dict[str, Any]) -> None:
    """Move the format out of nested objects."""
    for nest in NESTS:
        given = document.get(nest)
        if not isinstance(given, dict):
            continue
        document.update({name: value for name, value in given.items() if name in FORMAT_FIELDS})
        rest = {name: value for name, value in given.items() if name not in FORMAT_FIELDS}
        document[nest] = rest
        if not rest:
            del document[nest]


def _options(document: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `structured_outputs` that are no constraint, and vLLM's older spelling of one of them."""
    given = document.get("structured_outputs")
    options = {name: value for name, value in given.items() if name not in _CONSTRAINTS} if given else {}
    pattern = document.get("guided_whitespace_pattern")
    return options if pattern is None else {"whitespace_pattern": pattern, **options}


def _structured(wanted: OutputFormat) -> dict[str, Any] | None:
    """vLLM's `structured_outputs`; None for a structural tag and for a template, which has no other spelling."""
    values = {
        FormatKind.REGEX: ("regex", wanted.pattern),
        FormatKind.CHOICE: ("choice", list(wanted.choices)),
        FormatKind.GRAMMAR: ("grammar", wanted.grammar),
    }
    name, value = values.get(wanted.form, ("", None))
    return {"structured_outputs": {name: value}} if value is not None else None


def _sglang(wanted: OutputFormat) -> dict[str, Any] | None:
    if wanted.form is FormatKind.REGEX:
        return {"regex": wanted.pattern}
    return {"ebnf": wanted.grammar} if wanted.grammar is not None else None


def _llama_cpp(wanted: OutputFormat) -> dict[str, Any] | None:
    return {"grammar": wanted.grammar} if wanted.grammar is not None else None


_SPELL: Final[Mapping[str, Spell]] = {
    _WORKER: _structured,
    "vllm": _structured,
    "sglang": _sglang,
    "llama_cpp": _llama_cpp,
}
