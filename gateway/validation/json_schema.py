"""JSON Schema validation: check a schema, compile it once, validate values. The default draft is 2020-12.

`format` is an annotation, as in the drafts. Remote references are not fetched, and the cost of every check is bounded:
references, combinations and regex backtracking. Results agree with `jsonschema`, except that decimals are exact,
patterns follow ECMA 262, and `dependencies` still applies in drafts that moved it.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final, Protocol, TypeVar, cast

import jsonschema_rs

from gateway.validation.incremental_schema import IncrementalSchema
from gateway.validation.incremental_validator import IncrementalValidator
from gateway.validation.regex_syntax import prefix_pattern
from gateway.validation.schema_cost import SchemaCost, SchemaError, SchemaSize, escaped, masked_pointer
from twolane.process import exact_json

__all__ = [
    "COMPILED",
    "Schema",
    "SchemaCache",
    "SchemaError",
    "TextPattern",
    "ValidationError",
    "check_schema",
    "digest_of",
]

# Plain patterns run in linear time; patterns with lookaround or back-references fail after this many steps.
_REGEX: Final = jsonschema_rs.FancyRegexOptions(backtrack_limit=10_000, size_limit=1 << 20)
MAX_PATTERN_CHARS: Final = 4096
# Evaluations x length of the text: about a second of work in the worst case, a millisecond in real ones.
_MAX_WORK: Final = 100_000_000
_DETAIL_CHARS: Final = 160


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationError:
    """Why a text is not valid: the schema keyword, and a JSON pointer to it in the schema, whose names may be private.
    Never contains a value from the text.

    `byte` is the first byte of the text (from 0) that no continuation can correct; None if only the end is wrong.
    """

    keyword: str
    pointer: str
    byte: int | None = None
    tool: str | None = None  # whose arguments the schema describes

    @property
    def detail(self) -> str:
        """For the client and for the next target: "required at #/properties/name, byte 17"."""
        return self._detail(self.pointer if self.tool is None else f"tool {self.tool}: {self.pointer}")

    @property
    def log_detail(self) -> str:
        """For logs and traces, without names from the request or the answer: "required at #/properties/*, byte 17"."""
        return self._detail(("" if self.tool is None else "tool *: ") + masked_pointer(self.pointer))

    def _detail(self, pointer: str) -> str:
        detail = f"{self.keyword} at {pointer}"[:_DETAIL_CHARS]
        return detail if self.byte is None else f"{detail}, byte {self.byte}"


class Schema:
    """A compiled schema. Raises SchemaError for a schema that is invalid or not supported."""

    def __init__(self, schema: Any) -> None:
        if not isinstance(schema, dict | bool):
            raise SchemaError("a schema must be an object, true or false")
        self._schema = schema
        self._cost = SchemaCost(schema)
        self.size_bytes = SchemaSize(schema).memory_bytes
        self._validator = _compile(schema)
        self._incremental: IncrementalSchema | None = None

    def validate(self, value: Any, length: int) -> ValidationError | None:
        """The first error of a value parsed from a text of `length` characters; None if it is valid."""
        if self._cost.of(value) * length > _MAX_WORK:
            return ValidationError(keyword="cost", pointer="#")
        if self._validator.is_valid(value):
            return None
        try:
            return _error(self._schema, next(iter(self._validator.iter_errors(value))))
        except ValueError:  # nested too deeply to be reported, which takes fewer levels than to be validated
            return ValidationError(keyword="depth", pointer="#")

    def incremental_validator(self) -> IncrementalValidator:
        """A new validator to feed a text to while it arrives."""
        if self._incremental is None:
            self._incremental = IncrementalSchema(self._schema, _REGEX)
        return IncrementalValidator(self._incremental)


class TextPattern:
    """A regular expression that a whole text must match, compiled. Raises SchemaError."""

    def __init__(self, pattern: str) -> None:
        if len(pattern) > MAX_PATTERN_CHARS:
            raise SchemaError(f"a pattern longer than {MAX_PATTERN_CHARS} characters")
        try:
            Schema({"type": "string", "pattern": pattern})  # first as given: the added brackets must not complete it
            self._whole = _whole_text(pattern)
        except SchemaError:
            raise SchemaError("not a regular expression that can be checked in bounded time") from None
        self.size_bytes = 3 * self._whole.size_bytes
        self._pattern = pattern
        self._prefixes: Schema | None = None

    def matches(self, text: str) -> bool:
        """Whether the whole text matches."""
        return self._whole.validate(text, len(text)) is None

    def may_match(self, text: str) -> bool:
        """Whether a text that starts with this one may match. True also if that cannot be decided."""
        if self._prefixes is None:
            self._prefixes = self._compile_prefixes()
        return self._prefixes.validate(text, len(text)) is None

    def _compile_prefixes(self) -> Schema:
        pattern = prefix_pattern(self._pattern)
        if pattern is not None:
            try:
                return _whole_text(pattern)
            except SchemaError:  # it exceeds the limits of the engine
                pass
        return Schema(True)


class Sized(Protocol):
    """What a SchemaCache holds."""

    @property
    def size_bytes(self) -> int:
        """An estimate of its size in memory."""
        ...


_Entry = TypeVar("_Entry", bound=Sized)


class SchemaCache:
    """LRU cache of compiled schemas and patterns, bounded by their size. Requests are also parsed in threads."""

    def __init__(self, max_bytes: int = 64 << 20) -> None:
        self._max_bytes = max_bytes
        self._lock = Lock()
        self._entries: OrderedDict[Hashable, Sized] = OrderedDict()
        self.size_bytes = 0

    def get(self, key: Hashable, make: Callable[[], _Entry]) -> _Entry:
        """The entry under this key, made if it is not cached. A key identifies one kind of entry."""
        with self._lock:
            cached = self._entries.get(key)
            if cached is not None:
                self._entries.move_to_end(key)
                return cast("_Entry", cached)
        made = make()
        with self._lock:
            if key not in self._entries and made.size_bytes <= self._max_bytes:
                self._entries[key] = made
                self.size_bytes += made.size_bytes
            while self.size_bytes > self._max_bytes:
                self.size_bytes -= self._entries.popitem(last=False)[1].size_bytes
        return made

    def __len__(self) -> int:
        return len(self._entries)


COMPILED: Final = SchemaCache()  # of this process


def check_schema(schema: Any) -> str:
    """The digest of a valid, supported schema: "sha256:..." of its canonical form. Raises SchemaError."""
    Schema(schema)
    return digest_of(schema)


def _whole_text(pattern: str) -> Schema:
    return Schema({"type": "string", "pattern": f"^(?:{pattern})$"})


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
        if getattr(error.kind, "format", "") == "regex":
            raise SchemaError("not a regular expression that can be checked in bounded time", pointer) from None
        if isinstance(schema, dict) and "meta-schema" in error.message:
            raise SchemaError("an unknown draft", "#/$schema", unsupported=True) from None
        if error.kind.name in ("format", "$ref"):  # of `$id`, `$schema` or a reference; often without its place
            raise SchemaError("an identifier or reference that is not a URI", pointer) from None
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
