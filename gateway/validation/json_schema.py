"""JSON Schemas: checked when they arrive, compiled once, and then asked about values. Draft as declared, else 2020-12.

Knows values, not answers (see `answer`). Formats are annotations, as the drafts say. Nothing is fetched, and the cost
of every check is bounded: references, combinations and backtracking alike. Agrees with `jsonschema`, except that
decimals are exact, patterns are ECMA 262's, and `dependencies` still counts in drafts that moved it.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import jsonschema_rs
import orjson

from gateway.validation.schema_cost import SchemaCost, SchemaFault, escaped
from gateway.validation.schema_outline import Outline
from gateway.validation.schema_stream import SchemaFollower

__all__ = ["Fault", "Schema", "SchemaCache", "SchemaFault", "check_pattern", "check_schema", "digest_of"]

# Plain patterns run in linear time; those with lookaround or back-references may take so many steps, then they fail.
_REGEX: Final = jsonschema_rs.FancyRegexOptions(backtrack_limit=10_000, size_limit=1 << 20)
MAX_PATTERN_CHARS: Final = 4096
# Evaluations x length of the answer: a second or so of work in the very worst case, a millisecond in real ones.
_MAX_WORK: Final = 100_000_000
_DETAIL_CHARS: Final = 160


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Why a text does not keep its promise: the keyword that says so, and its place. Never a value from the text.

    `byte` is where in the text (UTF-8, from 0) nothing to come could mend it any more, None where only the end told.
    """

    keyword: str
    place: str
    byte: int | None = None

    @property
    def detail(self) -> str:
        """As in the decision log: "required at #/properties/name, byte 17"."""
        said = f"{self.keyword} at {self.place}"[:_DETAIL_CHARS]
        return said if self.byte is None else f"{said}, byte {self.byte}"


class Schema:
    """A schema ready to be asked. Raises SchemaFault for one that cannot be used."""

    def __init__(self, schema: Any) -> None:
        if not isinstance(schema, dict | bool):
            raise SchemaFault("a schema is an object, or true or false")
        self._schema = schema
        self._cost = SchemaCost(schema)
        self._validator = _compile(schema)
        self._outline: Outline | None = None

    def fault_of(self, value: Any, length: int) -> Fault | None:
        """What is wrong with a value parsed from a text of `length` characters; None if it is valid."""
        if self._cost.of(value) * length > _MAX_WORK:
            return Fault(keyword="cost", place="#")
        if self._validator.is_valid(value):
            return None
        return _fault(self._schema, next(iter(self._validator.iter_errors(value))))

    def follow(self) -> SchemaFollower:
        """Somebody to read a text along with, from its beginning."""
        if self._outline is None:
            self._outline = Outline(self._schema, _REGEX)
        return SchemaFollower(self._outline)


class SchemaCache:
    """Compiled schemas by digest, the least recently used thrown out first. One per process, owned by who uses it."""

    def __init__(self, capacity: int = 256) -> None:
        self._capacity = capacity
        self._known: OrderedDict[str, Schema] = OrderedDict()

    def get(self, digest: str, make: Callable[[], Schema]) -> Schema:
        """The schema of this digest, made if it is not known."""
        known = self._known.get(digest)
        if known is not None:
            self._known.move_to_end(digest)
            return known
        made = self._known[digest] = make()
        if len(self._known) > self._capacity:
            self._known.popitem(last=False)
        return made

    def __len__(self) -> int:
        return len(self._known)


def check_schema(schema: Any) -> str:
    """The digest of a schema that can be used, as "sha256:..." of its canonical form. Raises SchemaFault."""
    Schema(schema)
    return digest_of(schema)


def check_pattern(pattern: str) -> Schema:
    """A regular expression that a whole text must match, ready to be asked. Raises SchemaFault."""
    if len(pattern) > MAX_PATTERN_CHARS:
        raise SchemaFault(f"a pattern longer than {MAX_PATTERN_CHARS} characters")
    for part in (pattern, f"^(?:{pattern})$"):  # alone first: the brackets around it must not complete it
        try:
            schema = Schema({"type": "string", "pattern": part})
        except SchemaFault:
            raise SchemaFault("not a regular expression that can be checked in bounded time") from None
    return schema


def digest_of(schema: Any) -> str:
    """Equal for schemas that differ only in layout and order of keys."""
    try:
        canonical = orjson.dumps(schema, option=orjson.OPT_SORT_KEYS)
    except TypeError as wrong:  # a number beyond 64 bits, a lone surrogate
        raise SchemaFault(f"cannot be written as JSON: {wrong}") from wrong
    return "sha256:" + hashlib.sha256(canonical).hexdigest()


def _compile(schema: dict[str, Any] | bool) -> jsonschema_rs.Validator:
    try:
        return jsonschema_rs.validator_for(schema, validate_formats=False, pattern_options=_REGEX, offline=True)
    except jsonschema_rs.ValidationError as wrong:
        pointer = _pointer(wrong.instance_path)
        if wrong.kind.name == "format":
            raise SchemaFault("not a regular expression that can be checked in bounded time", pointer) from None
        if isinstance(schema, dict) and "meta-schema" in wrong.message:
            raise SchemaFault("an unknown draft", "#/$schema", unsupported=True) from None
        raise SchemaFault(f"breaks its own draft ({wrong.kind.name})", pointer) from None
    except (ValueError, jsonschema_rs.ReferencingError) as wrong:
        raise SchemaFault(str(wrong).splitlines()[0]) from None


def _fault(schema: Any, error: jsonschema_rs.ValidationError) -> Fault:
    keyword, path = error.kind.name, error.schema_path
    if keyword != "falseSchema":
        path = path[:-1]
    if keyword == "required":
        # More telling than where `required` stands: where the missing property is described, if it is.
        described = ["properties", str(getattr(error.kind, "property", ""))]
        path = [*path, *described] if _exists(schema, [*path, *described]) else path
    return Fault(keyword=keyword, place=_pointer(path))


def _exists(schema: Any, path: list[str | int]) -> bool:
    for step in path:
        try:
            schema = schema[step]
        except (KeyError, IndexError, TypeError):
            return False
    return True


def _pointer(path: list[str | int]) -> str:
    return "#" + "".join(f"/{escaped(str(step))}" for step in path)
