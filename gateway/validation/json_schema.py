"""JSON Schema validation: check a schema, compile it once, validate values. The default draft is 2020-12.

`format` is an annotation, as in the drafts. Remote references are not fetched, and the cost of every check is bounded:
references, combinations and regex backtracking. Results agree with `jsonschema`, except that decimals are exact,
patterns follow ECMA 262, and `dependencies` still applies in drafts that moved it.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import jsonschema_rs

from gateway.validation.incremental_schema import IncrementalSchema
from gateway.validation.incremental_validator import IncrementalValidator
from gateway.validation.schema_cost import SchemaCost, SchemaError, escaped
from twolane.process import exact_json

__all__ = ["Schema", "SchemaCache", "SchemaError", "ValidationError", "check_pattern", "check_schema", "digest_of"]

# Plain patterns run in linear time; patterns with lookaround or back-references fail after this many steps.
_REGEX: Final = jsonschema_rs.FancyRegexOptions(backtrack_limit=10_000, size_limit=1 << 20)
MAX_PATTERN_CHARS: Final = 4096
# Evaluations x length of the text: about a second of work in the worst case, a millisecond in real ones.
_MAX_WORK: Final = 100_000_000
_DETAIL_CHARS: Final = 160


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationError:
    """Why a text is not valid: the schema keyword, and a JSON pointer to it. Never contains a value from the text.

    `byte` is the first byte of the text (from 0) that no continuation can correct; None if only the end is wrong.
    """

    keyword: str
    pointer: str
    byte: int | None = None

    @property
    def detail(self) -> str:
        """As in the decision log: "required at #/properties/name, byte 17"."""
        detail = f"{self.keyword} at {self.pointer}"[:_DETAIL_CHARS]
        return detail if self.byte is None else f"{detail}, byte {self.byte}"


class Schema:
    """A compiled schema. Raises SchemaError for a schema that is invalid or not supported."""

    def __init__(self, schema: Any) -> None:
        if not isinstance(schema, dict | bool):
            raise SchemaError("a schema must be an object, true or false")
        self._schema = schema
        self._cost = SchemaCost(schema)
        self._validator = _compile(schema)
        self._incremental: IncrementalSchema | None = None

    def validate(self, value: Any, length: int) -> ValidationError | None:
        """The first error of a value parsed from a text of `length` characters; None if it is valid."""
        if self._cost.of(value) * length > _MAX_WORK:
            return ValidationError(keyword="cost", pointer="#")
        if self._validator.is_valid(value):
            return None
        return _error(self._schema, next(iter(self._validator.iter_errors(value))))

    def incremental_validator(self) -> IncrementalValidator:
        """A new validator to feed a text to while it arrives."""
        if self._incremental is None:
            self._incremental = IncrementalSchema(self._schema, _REGEX)
        return IncrementalValidator(self._incremental)


class SchemaCache:
    """LRU cache of compiled schemas by digest. One per process."""

    def __init__(self, capacity: int = 256) -> None:
        self._capacity = capacity
        self._schemas: OrderedDict[str, Schema] = OrderedDict()

    def get(self, digest: str, compile_schema: Callable[[], Schema]) -> Schema:
        """The schema with this digest, compiled if it is not cached."""
        cached = self._schemas.get(digest)
        if cached is not None:
            self._schemas.move_to_end(digest)
            return cached
        schema = self._schemas[digest] = compile_schema()
        if len(self._schemas) > self._capacity:
            self._schemas.popitem(last=False)
        return schema

    def __len__(self) -> int:
        return len(self._schemas)


def check_schema(schema: Any) -> str:
    """The digest of a valid, supported schema: "sha256:..." of its canonical form. Raises SchemaError."""
    Schema(schema)
    return digest_of(schema)


def check_pattern(pattern: str) -> Schema:
    """Compile a regular expression that must match the whole text. Raises SchemaError."""
    if len(pattern) > MAX_PATTERN_CHARS:
        raise SchemaError(f"a pattern longer than {MAX_PATTERN_CHARS} characters")
    for part in (pattern, f"^(?:{pattern})$"):  # first as given: the added brackets must not complete it
        try:
            schema = Schema({"type": "string", "pattern": part})
        except SchemaError:
            raise SchemaError("not a regular expression that can be checked in bounded time") from None
    return schema


def digest_of(schema: Any) -> str:
    """A digest that ignores layout and the order of keys."""
    try:
        canonical = exact_json.dumps(schema, sort_keys=True)
    except exact_json.JsonError as error:  # a lone surrogate
        raise SchemaError(f"cannot be written as JSON: {error}") from error
    return "sha256:" + hashlib.sha256(canonical).hexdigest()


def _compile(schema: dict[str, Any] | bool) -> jsonschema_rs.Validator:
    try:
        return jsonschema_rs.validator_for(schema, validate_formats=False, pattern_options=_REGEX, offline=True)
    except jsonschema_rs.ValidationError as error:
        pointer = _pointer(error.instance_path)
        if error.kind.name == "format":
            raise SchemaError("not a regular expression that can be checked in bounded time", pointer) from None
        if isinstance(schema, dict) and "meta-schema" in error.message:
            raise SchemaError("an unknown draft", "#/$schema", unsupported=True) from None
        raise SchemaError(f"violates its draft ({error.kind.name})", pointer) from None
    except (ValueError, jsonschema_rs.ReferencingError) as error:
        raise SchemaError(str(error).splitlines()[0]) from None


def _error(schema: Any, error: jsonschema_rs.ValidationError) -> ValidationError:
    keyword, path = error.kind.name, error.schema_path
    if keyword != "falseSchema":
        path = path[:-1]
    if keyword == "required":
        # Point at the schema of the missing property, if there is one, instead of at `required`.
        missing = ["properties", str(getattr(error.kind, "property", ""))]
        path = [*path, *missing] if _exists(schema, [*path, *missing]) else path
    return ValidationError(keyword=keyword, pointer=_pointer(path))


def _exists(schema: Any, path: list[str | int]) -> bool:
    for step in path:
        try:
            schema = schema[step]
        except (KeyError, IndexError, TypeError):
            return False
    return True


def _pointer(path: list[str | int]) -> str:
    return "#" + "".join(f"/{escaped(str(step))}" for step in path)
