"""The output format that a request asks for, from OpenAI's fields and the spellings of common engines.

vLLM (`structured_outputs`, `guided_*`), SGLang (`regex`, `ebnf`, `json_schema`), llama.cpp (`json_schema`, `grammar`, a
`schema` in `response_format`), Together, Fireworks, TGI and Ollama (`format`). All of them become one OutputFormat.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from gateway.enums import FormatKind
from gateway.errors import InvalidField
from gateway.parameters import NESTS
from gateway.types import OutputFormat
from gateway.validation.json_schema import COMPILED, Schema, SchemaError, TextPattern, digest_of
from gateway.web.request_schema import ChatRequest, Forms, ResponseFormat, StructuredOutputs, is_present
from twolane.process import exact_json

MAX_SCHEMA_BYTES: Final = 262_144  # the cost of a check is bounded by `validation.schema_cost`
FORMAT_TYPES: Final = ("text", "json_object", "json_schema", "regex", "grammar", "structural_tag")
_JSON_OBJECT: Final = OutputFormat(form=FormatKind.JSON_OBJECT)
_HOLE: Final = re.compile(r"\{\{(\w+)\}\}")
_ANY_LINE: Final = r"[^\n\r]+"
_META: Final = re.compile(r"[\\^$.*+?()\[\]{}|/-]")


def output_format_of(request: ChatRequest) -> OutputFormat | None:
    """The format that a request asks for, also in a nested object. Raises InvalidField for two that differ."""
    found = list(_formats(request))
    for nest in NESTS:
        if (nested := getattr(request, nest)) is not None:
            found += [(f"{nest}.{name}", wanted) for name, wanted in _formats(nested)]
    if not found:
        return None
    first, wanted = found[0]
    for name, other in found[1:]:
        if other != wanted:
            raise InvalidField(f"Set {first!r} or {name!r}, not both.", param=name)
    return replace(wanted, param=first)


def parse_schema(raw: msgspec.Raw, param: str) -> tuple[Any, str]:
    """The schema and its digest. Raises InvalidField if it is too large or not a valid schema."""
    data = bytes(raw)
    if len(data) > MAX_SCHEMA_BYTES:
        raise InvalidField(f"{param!r} exceeds the limit of {MAX_SCHEMA_BYTES} bytes.", param=param)
    try:
        parsed = COMPILED.get(data, lambda: _parse_schema(data))
    except (SchemaError, exact_json.JsonError) as fault:
        raise InvalidField(f"{param!r} is not a supported JSON Schema: {fault}", param=param) from None
    return parsed.schema, parsed.digest


def _formats(forms: Forms) -> Iterator[tuple[str, OutputFormat]]:
    """(field, format) for every field that asks for one."""
    if forms.response_format is not None and (wanted := _from_response_format(forms.response_format)) is not None:
        yield "response_format", wanted
    if forms.structured_outputs is not None and (wanted := _from_structured_outputs(forms.structured_outputs)):
        yield "structured_outputs", wanted
    for name, raw in (("guided_json", forms.guided_json), ("json_schema", forms.json_schema)):
        if is_present(raw):
            yield name, _json_schema(raw, name)
    if (wanted := _from_format(forms.format)) is not None:
        yield "format", wanted
    for name, pattern in (("guided_regex", forms.guided_regex), ("regex", forms.regex)):
        if pattern is not None:
            yield name, _regex(pattern, name)
    if forms.guided_choice is not None:
        yield "guided_choice", OutputFormat(form=FormatKind.CHOICE, choices=tuple(forms.guided_choice))
    for name in ("guided_grammar", "ebnf", "grammar"):
        if (grammar := getattr(forms, name)) is not None:
            yield name, OutputFormat(form=FormatKind.GRAMMAR, grammar=grammar)
    if is_present(forms.structural_tag):
        yield "structural_tag", OutputFormat(form=FormatKind.GRAMMAR)


def _from_response_format(requested: ResponseFormat) -> OutputFormat | None:
    match requested.type:
        case "text":
            return None
        case "json_object" | "json":
            return _from_json_object(requested)
        case "json_schema":
            return _from_json_schema(requested)
        case "regex":
            given = requested.pattern if requested.pattern is not None else _text(requested.value)
            if given is None:
                raise InvalidField("'response_format.pattern' is required.", param="response_format.pattern")
            return _regex(given, "response_format.pattern")
        case "grammar" | "structural_tag":
            return OutputFormat(form=FormatKind.GRAMMAR, grammar=requested.grammar)
    param = "response_format.type"
    raise InvalidField(
        f"Invalid value {requested.type!r} at {param!r}; allowed: {', '.join(FORMAT_TYPES)}.", param=param
    )


def _from_json_object(requested: ResponseFormat) -> OutputFormat:
    """An object, valid under the `schema` if there is one (`value` in TGI)."""
    for name, raw in (("schema", requested.schema), ("value", requested.value)):
        if is_present(raw):
            return _json_schema(raw, f"response_format.{name}", object_only=True)
    return _JSON_OBJECT


def _from_json_schema(requested: ResponseFormat) -> OutputFormat:
    param = "response_format.json_schema"
    if is_present(requested.schema):  # llama.cpp
        return _json_schema(requested.schema, "response_format.schema")
    if requested.json_schema is None:
        raise InvalidField(f"{param!r} is required for type 'json_schema'.", param=param)
    if not is_present(requested.json_schema.schema):
        raise InvalidField(f"'{param}.schema' is required.", param=f"{param}.schema")
    return _json_schema(requested.json_schema.schema, f"{param}.schema")


def _from_structured_outputs(requested: StructuredOutputs) -> OutputFormat | None:
    """None if only options such as `whitespace_pattern` are given."""
    makers: dict[str, tuple[bool, Callable[[], OutputFormat]]] = {
        "json": (is_present(requested.json), lambda: _json_schema(requested.json, "structured_outputs.json")),
        "json_object": (bool(requested.json_object), lambda: _JSON_OBJECT),
        "regex": (
            requested.regex is not None,
            lambda: _regex(requested.regex or "", "structured_outputs.regex"),
        ),
        "choice": (
            requested.choice is not None,
            lambda: OutputFormat(form=FormatKind.CHOICE, choices=tuple(requested.choice or ())),
        ),
        "template": (is_present(requested.template), lambda: _template(requested.template)),
        "grammar": (
            requested.grammar is not None,
            lambda: OutputFormat(form=FormatKind.GRAMMAR, grammar=requested.grammar),
        ),
        "structural_tag": (is_present(requested.structural_tag), lambda: OutputFormat(form=FormatKind.GRAMMAR)),
    }
    given = [make for is_given, make in makers.values() if is_given]
    if len(given) > 1:
        raise InvalidField(
            f"'structured_outputs' requires exactly one of {', '.join(makers)}.", param="structured_outputs"
        )
    return given[0]() if given else None


def _from_format(raw: msgspec.Raw) -> OutputFormat | None:
    """Ollama's `format`: "json", or a schema. Other values belong to other features."""
    data = bytes(raw)
    if data == b'"json"':
        return _JSON_OBJECT
    return _json_schema(raw, "format") if data.startswith(b"{") else None


def _json_schema(raw: msgspec.Raw, param: str, *, object_only: bool = False) -> OutputFormat:
    """The format of a schema, or of its text. `object_only`: a schema without a type means an object."""
    text = _text(raw)
    schema, digest = parse_schema(msgspec.Raw(text.encode()) if text is not None else raw, param)
    if object_only and isinstance(schema, dict) and "type" not in schema:
        schema, digest = parse_schema(msgspec.Raw(exact_json.dumps({"type": "object", **schema})), param)
    return OutputFormat(form=FormatKind.JSON_SCHEMA, schema=schema, digest=digest)


def _regex(pattern: str, param: str) -> OutputFormat:
    try:
        check_pattern(pattern)
    except SchemaError as fault:
        raise InvalidField(f"{param!r} is not a supported regular expression: {fault}", param=param) from None
    return OutputFormat(form=FormatKind.REGEX, pattern=pattern)


def _template(raw: msgspec.Raw) -> OutputFormat:
    """A text with holes, as one regular expression; without a pattern if it is too complex to be checked."""
    value = exact_json.loads(bytes(raw))
    template = {"text": value} if isinstance(value, str) else value
    text, holes = (template.get("text"), template.get("holes") or {}) if isinstance(template, dict) else (None, {})
    if not isinstance(text, str) or not isinstance(holes, dict):
        param = "structured_outputs.template"
        raise InvalidField(f"{param!r} must be a text, or an object with the members text and holes.", param=param)
    pattern = "".join(
        _hole(holes.get(part)) if index % 2 else _escaped(part) for index, part in enumerate(_HOLE.split(text))
    )
    try:
        check_pattern(pattern)
    except SchemaError:
        return OutputFormat(form=FormatKind.TEMPLATE)
    return OutputFormat(form=FormatKind.TEMPLATE, pattern=pattern)


def _hole(hole: Any) -> str:
    """An undeclared hole takes any text on one line."""
    given: Mapping[str, Any] = hole if isinstance(hole, dict) else {}
    regex, choice = given.get("regex"), given.get("choice")
    if isinstance(choice, list):
        return f"(?:{'|'.join(_escaped(str(each)) for each in choice)})"
    return f"(?:{regex if isinstance(regex, str) else _ANY_LINE})"


def _escaped(text: str) -> str:
    return _META.sub(r"\\\g<0>", text)


def _text(raw: msgspec.Raw) -> str | None:
    """The value of a JSON string; None for any other value."""
    return msgspec.json.decode(raw, type=str) if bytes(raw).startswith(b'"') else None


def check_pattern(pattern: str) -> None:
    """Compile a regular expression for the check of the response. Raises SchemaError."""
    COMPILED.get(f"regex:{pattern}", lambda: TextPattern(pattern))


@dataclass(frozen=True, slots=True, kw_only=True)
class _ParsedSchema:
    """Cached, because applications send the same few schemas repeatedly."""

    schema: Any
    digest: str
    size_bytes: int


def _parse_schema(data: bytes) -> _ParsedSchema:
    """Parse a schema, and compile it for the check of the response."""
    schema = exact_json.loads(data)
    digest = digest_of(schema)
    compiled = COMPILED.get(digest, lambda: Schema(schema))
    return _ParsedSchema(schema=schema, digest=digest, size_bytes=compiled.size_bytes)
