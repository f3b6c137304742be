"""The constraint of a request as one record: the interface between the web layer and the compiler.

Its value is JSON, so that it can be hashed, cached and sent to another process.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Literal

from diffusion_worker.constraints.automata.unicode_properties import without_properties
from diffusion_worker.errors import InvalidRequest

Kind = Literal["json_schema", "json_object", "regex", "choice", "template", "tools"]
MAX_BYTES: Final = 1_000_000
_HOLE: Final = re.compile(r"\{\{(\w+)\}\}")
_ANY_LINE: Final = r"[^\n\r]+"


class WhiteSpace(StrEnum):
    """The white space that is allowed between the tokens of a JSON document."""

    BOUNDED = "bounded"
    ANY = "any"


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """`value` by kind: a schema; null; a regular expression for the whole answer; a list of answers; a template,
    `{"text": "Dear {{name}},", "holes": {"name": {"regex": "..."} or {"choice": [...]}}}`, where an undeclared hole
    accepts any text on one line; tools, `{"functions": [{"name", "parameters", "field"}], "syntax", "thought",
    "required", "parallel", "text"}` as in `tool_calls.ToolCallRules`, where `field` is the request field of the
    parameters and `text` is another constraint as an object, or null."""

    kind: Kind
    value: Any = None
    white_space: WhiteSpace = WhiteSpace.BOUNDED  # in JSON
    field: str | None = field(default=None, compare=False)  # the request field that errors name

    def content(self) -> bytes:
        """The constraint as JSON, members in the given order. Raises InvalidRequest if it is too long."""
        try:
            record = {"kind": self.kind, "value": self.value, "white_space": self.white_space}
            content = json.dumps(record, separators=(",", ":"), allow_nan=False).encode()
        except RecursionError:
            raise InvalidRequest("the constraint is nested too deeply") from None
        except ValueError:
            raise InvalidRequest("the constraint contains NaN or an infinite number") from None
        if len(content) > MAX_BYTES:
            raise InvalidRequest(f"the constraint has {len(content)} bytes; at most {MAX_BYTES} are allowed")
        return content

    def digest(self, salt: str) -> str:
        """Equal digests mean equal constraints; `salt` identifies everything else that the result depends on."""
        return hashlib.sha256(salt.encode() + b"\0" + self.content()).hexdigest()


def template_parts(value: Mapping[str, Any]) -> Iterator[str | tuple[str, ...] | re.Pattern[str]]:
    """The parts of a template in order: literal text, the choices of a hole, or its regular expression. Raises
    InvalidRequest."""
    text, holes = value.get("text"), value.get("holes") or {}
    if not isinstance(text, str):
        raise InvalidRequest("a template needs a `text`", param="structured_outputs.template")
    names = _HOLE.findall(text)
    if unknown := sorted(set(holes) - set(names)):
        raise InvalidRequest(f"the template has no hole {unknown[0]!r}", param="structured_outputs.template")
    for index, part in enumerate(_HOLE.split(text)):
        if index % 2:
            yield _hole(part, holes.get(part) or {"regex": _ANY_LINE})
        elif part:
            yield part


def _hole(name: str, hole: Mapping[str, Any]) -> tuple[str, ...] | re.Pattern[str]:
    choice, regex = hole.get("choice"), hole.get("regex")
    if isinstance(choice, list) and choice and all(isinstance(word, str) for word in choice):
        return tuple(choice)
    if isinstance(regex, str):
        try:
            return re.compile(without_properties(regex))
        except re.error as error:
            raise InvalidRequest(f"the hole {name!r}: {error}", param="structured_outputs.template") from None
    raise InvalidRequest(f"the hole {name!r} needs a `regex` or a `choice`", param="structured_outputs.template")
