"""Parser of the output constraint: OpenAI's `response_format` and vLLM's `structured_outputs`.

Whether the constraint is supported is decided when it is compiled.
"""

import re
from dataclasses import replace
from typing import Any, Final

from diffusion_worker.constraints.spec import Constraint, WhiteSpace
from diffusion_worker.web.error_body import InvalidType
from diffusion_worker.web.requests.fields import Fields
from diffusion_worker.web.requests.schemas import check_schema

_FORMAT_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_FORMAT: Final = "response_format"
_FORMAT_FIELDS: Final = {"text": (), "json_object": ("schema",), "json_schema": ("json_schema",)}
_STRUCTURED: Final = ("regex", "choice", "template", "json", "json_object")
_OPTIONS: Final = ("disable_any_whitespace", "whitespace_pattern")  # beside a constraint, or a `response_format`
# White space between the tokens of JSON, as for vLLM and Outlines: once at most, or any number of times.
_WHITE_PATTERN: Final = re.compile(r"(?:(?: |\\s|\[(?: |\\[nrt])*\])([?*]))?")


def parse_constraint(fields: Fields) -> Constraint | None:
    """The constraint of a body; None: unconstrained. Raises InvalidRequest."""
    structured = fields.object("structured_outputs")
    by_format = _parse_format(fields.object(_FORMAT))
    by_structure = _parse_structured(structured, needs_one=by_format is None)
    if by_format and by_structure:
        raise fields.invalid("structured_outputs", "contradicts 'response_format'.")
    constraint = by_format or by_structure
    return constraint and replace(constraint, white_space=_parse_white_space(structured))


def _parse_format(fields: Fields | None) -> Constraint | None:
    if fields is None:
        return None
    kind = fields.nonempty("type")
    if kind not in _FORMAT_FIELDS:
        raise fields.invalid("type", "must be one of text, json_object, json_schema.")
    fields.allow_only(("type", *_FORMAT_FIELDS[kind]))
    if kind == "json_object" and fields.raw("schema") is not None:  # as llama.cpp and others write it
        check_schema(fields, "schema")
        return Constraint(kind="json_schema", value=_object_schema(fields.raw("schema")), field=_FORMAT)
    if kind == "json_schema":
        fields.required("json_schema")
        schema = _named_schema(fields.object("json_schema") or fields)
        return Constraint(kind="json_schema", value=schema, field=_FORMAT)
    return Constraint(kind="json_object", field=_FORMAT) if kind == "json_object" else None


def _named_schema(fields: Fields) -> Any:
    fields.allow_only(("name", "description", "schema", "strict"))
    if not _FORMAT_NAME.fullmatch(fields.nonempty("name")):
        raise fields.invalid("name", "must be 1 to 64 letters, digits, '_' or '-'.")
    fields.text("description")
    fields.boolean("strict")  # the schema is always enforced
    check_schema(fields, "schema")
    return fields.raw("schema")


def _object_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema without a type means an object here."""
    return schema if "type" in schema else {"type": "object", **schema}


def _parse_white_space(fields: Fields | None) -> WhiteSpace:
    """The switch for unbounded white space."""
    if fields is None:
        return WhiteSpace.BOUNDED
    pattern, disable = fields.text("whitespace_pattern"), fields.boolean("disable_any_whitespace")
    found = _WHITE_PATTERN.fullmatch(pattern or "")
    if found is None:
        raise fields.invalid("whitespace_pattern", r"must be like '[ \n\t]?' or '[ \n\t]*'.")
    is_any = disable is False or found[1] == "*"
    return WhiteSpace.ANY if is_any and disable is not True else WhiteSpace.BOUNDED


def _parse_structured(fields: Fields | None, *, needs_one: bool) -> Constraint | None:
    """None without one, which is allowed if there are options for a `response_format`."""
    if fields is None:
        return None
    fields.allow_only((*_STRUCTURED, *_OPTIONS))
    names = [name for name in _STRUCTURED if fields.raw(name) not in (None, False)]
    if not names and not needs_one:
        return None
    if len(names) != 1:
        allowed = ", ".join(_STRUCTURED)
        raise fields.invalid(names[1] if names else "regex", f"is invalid here: set exactly one of {allowed}.")
    field = fields.param(names[0])
    match names[0]:
        case "regex":
            return Constraint(kind="regex", value=fields.nonempty("regex"), field=field)
        case "choice":
            return Constraint(kind="choice", value=_parse_choices(fields), field=field)
        case "json_object":
            return Constraint(kind="json_object", field=field)
        case "json":  # vLLM's alternative to `response_format`
            check_schema(fields, "json")
            return Constraint(kind="json_schema", value=fields.raw("json"), field=field)
    return Constraint(kind="template", value=_parse_template(fields), field=field)


def _parse_choices(fields: Fields) -> list[str]:
    choices = fields.raw("choice")
    if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
        raise InvalidType(f"'{fields.param('choice')}' must be an array of strings.", param=fields.param("choice"))
    if not choices or "" in choices:
        raise fields.invalid("choice", "must contain at least one string and no empty string.")
    return choices


def _parse_template(fields: Fields) -> dict[str, Any]:
    """A template: a text, or a text and the constraints of its holes."""
    if isinstance(fields.raw("template"), str):
        return {"text": fields.nonempty("template")}
    template = fields.object("template") or fields
    template.allow_only(("text", "holes"))
    text, holes = template.nonempty("text"), template.object("holes")
    for name in holes.values if holes else ():
        hole = holes.object(name) if holes else None
        if hole is not None:
            hole.allow_only(("regex", "choice"))
    return {"text": text, "holes": dict(holes.values) if holes else {}}
