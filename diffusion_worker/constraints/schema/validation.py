"""Validation of whole answers with jsonschema (Draft 4 to 2020-12), without fetching remote references.

It shares no code with the automaton, so an answer that both accept is valid by two independent readings of the schema.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import jsonschema
import jsonschema_specifications
from jsonschema.validators import validator_for

from diffusion_worker.constraints.automata.unicode_properties import without_properties
from diffusion_worker.constraints.schema.document import Node, Schema, canonical, readable, root_base
from diffusion_worker.constraints.spec import Constraint, template_parts
from diffusion_worker.errors import InvalidRequest


def tool_answer_text(text: str, calls: Sequence[tuple[str, str]]) -> str:
    """Serialise an answer to a request with tools for validation: its text, and the name and arguments of each call."""
    return json.dumps({"text": text, "calls": calls})


def make_validator(constraint: Constraint) -> Callable[[str], str | None]:
    """A function that returns the violation of a whole answer (with tools: of its `tool_answer_text`) in one line, or
    None.

    Raises InvalidRequest if the constraint is not well-formed.
    """
    match constraint.kind:
        case "json_schema" | "json_object":
            schema = {"type": "object"} if constraint.kind == "json_object" else constraint.value
            return SchemaValidator(schema).violation_of_text
        case "choice":
            choices = frozenset(constraint.value)
            return lambda text: None if text in choices else "not one of the choices"
        case "regex":
            return _pattern_validator(without_properties(constraint.value))
        case "template":
            return _pattern_validator("".join(_expression(part) for part in template_parts(constraint.value)))
        case "tools":
            return _tool_answer_validator(constraint.value)


def _expression(part: str | tuple[str, ...] | re.Pattern[str]) -> str:
    if isinstance(part, str):
        return re.escape(part)
    return f"(?:{'|'.join(map(re.escape, part)) if isinstance(part, tuple) else part.pattern})"


def _tool_answer_validator(value: Mapping[str, Any]) -> Callable[[str], str | None]:
    """Calls are validated by their arguments; an answer without calls is validated as text."""
    of_text = make_validator(Constraint(**value["text"])) if value["text"] else lambda _: None
    functions = {each["name"]: _arguments_validator(each) for each in value["functions"]}

    def validate(answer: str) -> str | None:
        tool_answer_text = json.loads(answer)
        for name, arguments in tool_answer_text["calls"]:
            violation = functions[name](arguments) if name in functions else "no such tool"
            if violation is not None:
                return f"{name}: {violation}"
        return None if tool_answer_text["calls"] else of_text(tool_answer_text["text"])

    return validate


def _arguments_validator(function: Mapping[str, Any]) -> Callable[[str], str | None]:
    try:
        return SchemaValidator(function["parameters"]).violation_of_text
    except InvalidRequest as error:
        error.param = function["field"]
        raise


def _pattern_validator(pattern: str) -> Callable[[str], str | None]:
    try:
        validate = re.compile(pattern)
    except re.error as error:
        raise InvalidRequest(f"not a regular expression: {error}", param="structured_outputs.regex") from None
    return lambda text: None if validate.fullmatch(text) else "does not match"


class SchemaValidator:
    """A validator of one schema. Raises InvalidRequest if the schema is invalid by its metaschema."""

    def __init__(self, schema: Schema) -> None:
        if isinstance(schema, Mapping) and not isinstance(schema.get("$schema", ""), str):
            raise InvalidRequest("not a valid schema: `$schema` must be a string", param="response_format")
        schema = readable(schema)
        kind = validator_for(schema, default=jsonschema.Draft202012Validator)
        try:
            kind.check_schema(schema)
        except jsonschema.SchemaError as error:
            pointer = "".join(f"/{part}" for part in error.absolute_path)
            raise InvalidRequest(
                f"not a valid schema: {error.message[:200]} (at `#{pointer}`)", param="response_format"
            ) from None
        self._validator = kind(schema, registry=jsonschema_specifications.REGISTRY)
        self._base = root_base(schema)
        self._satisfied: dict[tuple[Node, str], bool] = {}  # a literal is met again in every attempt to build

    def is_satisfied(self, node: Node, value: Any) -> bool:
        """Whether a value satisfies one position of the schema."""
        key = (node, canonical(value))
        if key not in self._satisfied:
            schema = node.schema if node.base == self._base else {"$ref": _reference(node.pointer)}
            valid = bool(self._validator.evolve(schema=schema).is_valid(value))
            self._satisfied[key] = valid != bool(node.negative)
        return self._satisfied[key]

    def violation(self, value: Any) -> str | None:
        """The first violation of a value, in one line; None: valid."""
        try:
            error = next(iter(self._validator.iter_errors(value)), None)
        except RecursionError:
            return "nested too deeply to be checked"
        return None if error is None else f"{error.json_path}: {str(error.message)[:200]}"

    def violation_of_text(self, text: str) -> str | None:
        """The first violation of a text, which must be one JSON document."""
        try:
            value = json.loads(text, parse_constant=_no_constant)
        except ValueError as error:
            return f"not JSON: {error}"
        except RecursionError:
            return "nested too deeply"
        return self.violation(value)


def _reference(pointer: str) -> str:
    """The reference to a position of a `Document`: a JSON pointer, in the document or in a metaschema."""
    uri, fragment = ("", pointer) if pointer[:1] in ("", "/") else pointer.split("#", 1)
    return f"{uri}#{quote(fragment)}"


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
