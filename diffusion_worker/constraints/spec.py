"""What a request may ask of its answer, as one record: the border between the web layer and the compiler.

A constraint is JSON inside, so that it can be hashed, cached and sent to another process.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from diffusion_worker.errors import InvalidRequest

Kind = Literal["json_schema", "json_object", "regex", "choice", "template", "tools"]
MAX_BYTES: Final = 1_000_000
_HOLE: Final = re.compile(r"\{\{(\w+)\}\}")
_ANY_LINE: Final = r"[^\n\r]+"


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """`value` by kind: a schema; nothing; an expression that matches the whole answer; a list of answers; a template,
    `{"text": "Dear {{name}},", "holes": {"name": {"regex": "..."} or {"choice": [...]}}}`, where a hole of which
    nothing is said takes any text of one line; tools, `{"functions": [{"name", "parameters", "field"}], "syntax",
    "thought", "must", "many", "text"}` as `calls.Rules` has them, `field` being where the parameters were read from and
    `text` another constraint as an object, or null."""

    kind: Kind
    value: Any = None
    field: str | None = field(default=None, compare=False)  # of the request, that errors are to name; no content

    def content(self) -> bytes:
        """The constraint as JSON; the order of members counts. Raises InvalidRequest if it is too long."""
        try:
            content = json.dumps(
                {"kind": self.kind, "value": self.value}, separators=(",", ":"), allow_nan=False
            ).encode()
        except RecursionError:
            raise InvalidRequest("a constraint that is nested too deeply") from None
        except ValueError:
            raise InvalidRequest("a constraint that holds NaN or an infinite number") from None
        if len(content) > MAX_BYTES:
            raise InvalidRequest(f"a constraint of {len(content)} bytes is longer than {MAX_BYTES}")
        return content

    def digest(self, salt: str) -> str:
        """Equal digests mean equal constraints; `salt` names what else the result depends on."""
        return hashlib.sha256(salt.encode() + b"\0" + self.content()).hexdigest()


def template_parts(value: Mapping[str, Any]) -> Iterator[str | tuple[str, ...] | re.Pattern[str]]:
    """A template's parts in order: literal text, the choices of a hole, or its expression. Raises InvalidRequest."""
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
            return re.compile(regex)
        except re.error as error:
            raise InvalidRequest(f"the hole {name!r}: {error}", param="structured_outputs.template") from None
    raise InvalidRequest(f"the hole {name!r} needs a `regex` or a `choice`", param="structured_outputs.template")
