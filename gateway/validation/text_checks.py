"""Checks of one text against its required form, while it arrives or when it is complete.

A text that a token limit or a stop string cut off (`is_cut`) must be the beginning of a valid one: `is_truncated` then
says that it is incomplete.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol

from gateway.enums import FormatKind
from gateway.types import OutputFormat, Tool
from gateway.validation.incremental_validator import REPEATED, IncrementalValidator
from gateway.validation.json_prefix import WHITE_SPACE, JsonPrefix
from gateway.validation.json_repair import repair
from gateway.validation.json_schema import Schema, SchemaCache, TextPattern, ValidationError, digest_of
from gateway.validation.runaway import STEP, Elements, RunawayDetector
from twolane.process import exact_json

# In longer texts, the position of an error is not searched for: it would block the event loop.
_MAX_LOCATED_CHARS: Final = 1 << 16
_STEP_CHARS: Final = 1 << 12  # of a cut text, examined at once: a few milliseconds


class TextCheck(Protocol):
    """Checks one text: `feed` chunks, then `finish` once. Either returns the first error; stop after an error."""

    @property
    def is_truncated(self) -> bool:
        """After `finish`: whether the text was accepted although it is incomplete, because it was cut."""
        ...

    def feed(self, chunk: str) -> ValidationError | None:
        """An error that no continuation of the text can correct."""
        ...

    def finish(self, *, is_cut: bool = False) -> ValidationError | None:
        """The error of the complete text; with `is_cut`, only one that no continuation could correct."""
        ...

    def repaired(self) -> str | None:
        """The text with its syntax repaired; None if that is not needed or not possible."""
        ...

    def examine_cut(self) -> Iterator[None]:
        """Before `finish` with `is_cut`: the slow part of it, in short steps; yields between two of them."""
        ...


class _AtOnce:
    """A check whose `finish` is fast."""

    def examine_cut(self) -> Iterator[None]:
        """See `TextCheck`."""
        return iter(())


class JsonCheck:
    """The text is a JSON document, valid under the schema. `early` reports errors while it arrives.
    `object_only`: it is an object, although the schema may allow other values."""

    def __init__(self, schema: Schema, *, early: bool, object_only: bool = False) -> None:
        self.is_truncated = False
        self._schema = schema
        self._must_be_object = object_only
        self._chunks: list[str] = []
        self._parser = self._new_parser() if early else None

    def feed(self, chunk: str) -> ValidationError | None:
        """See `TextCheck`."""
        self._chunks.append(chunk)
        if self._parser is None or self._parser.feed(chunk):
            return self._not_an_object() if self._parser is not None else None
        return _error_of(self._parser, "".join(self._chunks))

    def finish(self, *, is_cut: bool = False) -> ValidationError | None:
        """See `TextCheck`. The compiled validator decides; the incremental one locates the error."""
        text = "".join(self._chunks)
        not_an_object = self._not_an_object()
        if not_an_object is not None:
            return not_an_object
        try:
            value = exact_json.loads(text)
        except exact_json.JsonError as error:
            return self._finish_cut(text) if is_cut else self._located(text) or self._syntax_error(text, error.byte)
        if self._parser is None and _has_repeated_key(text, value):
            return self._located(text) or _REPEATED
        invalid = self._schema.validate(value, len(text))
        return invalid and (self._located(text) or invalid)

    def examine_cut(self) -> Iterator[None]:
        """See `TextCheck`."""
        if self._parser is not None:
            return
        text = "".join(self._chunks)
        if _is_json(text):
            return
        parser, at = self._new_parser(), 0
        while at < len(text) and parser.feed(text[at : at + _STEP_CHARS]):
            at += _STEP_CHARS
            yield
        self._parser = parser

    @property
    def elements(self) -> Callable[[int], Elements]:
        """See `RunawayDetector`."""
        return (lambda _: Elements.UNKNOWN) if self._parser is None else self._parser.elements

    def repaired(self) -> str | None:
        """See `TextCheck`: JSON syntax."""
        return repair("".join(self._chunks))

    def _new_parser(self) -> IncrementalValidator:
        return self._schema.incremental_validator()

    def _not_an_object(self) -> ValidationError | None:
        """Reports once where the text begins with another value than the object that it must be."""
        text = "".join(self._chunks) if self._must_be_object else ""
        start = text.lstrip(WHITE_SPACE)
        if not start:
            return None
        self._must_be_object = False
        is_other = start[0] in _OTHER_VALUES
        return ValidationError(keyword="type", pointer="#", byte=len(text) - len(start)) if is_other else None

    def _finish_cut(self, text: str) -> ValidationError | None:
        """The error of a text that is not JSON as it stands: it must be the beginning of a valid document."""
        for _ in self.examine_cut():
            pass
        assert self._parser is not None
        if self._parser.error_at is not None:
            return _error_of(self._parser, text)
        if self._parser.is_complete:  # a document that the JSON parser cannot represent
            return ValidationError(keyword="json", pointer="#")
        self.is_truncated = True
        return None

    def _located(self, text: str) -> ValidationError | None:
        """The error with its position, as `feed` would have reported it; None if it cannot be located."""
        if len(text) > _MAX_LOCATED_CHARS:
            return None
        parser = self._new_parser()
        return None if parser.feed(text) else _error_of(parser, text)

    def _syntax_error(self, text: str, byte: int | None) -> ValidationError:
        """The text is truncated, or contains what the JSON parser cannot represent."""
        prefix = JsonPrefix()
        if len(text) > _MAX_LOCATED_CHARS or not prefix.feed(text) or prefix.is_complete:
            return ValidationError(keyword="json", pointer="#", byte=byte)
        return ValidationError(keyword="json", pointer="its end")


class ChoiceCheck(_AtOnce):
    """The text is one of a list of strings."""

    def __init__(self, choices: tuple[str, ...], *, early: bool) -> None:
        self.is_truncated = False
        self._choices = choices
        self._possible = choices if early else None  # those that start with the text so far
        self._chunks: list[str] = []
        self._length = 0

    def feed(self, chunk: str) -> ValidationError | None:
        """See `TextCheck`."""
        self._chunks.append(chunk)
        if self._possible is None:
            return None
        self._possible = tuple(choice for choice in self._possible if choice.startswith(chunk, self._length))
        self._length += len(chunk)
        return None if self._possible else self._error()

    def finish(self, *, is_cut: bool = False) -> ValidationError | None:
        """See `TextCheck`."""
        text = "".join(self._chunks)
        if text in self._choices:
            return None
        self.is_truncated = is_cut and any(choice.startswith(text) for choice in self._choices)
        return None if self.is_truncated else self._error()

    def repaired(self) -> str | None:
        """See `TextCheck`."""
        return None

    def _error(self) -> ValidationError:
        """The error at the first byte that differs from every choice; a truncated text has no such byte."""
        text = "".join(self._chunks)
        matching = max((_common_prefix(text, choice) for choice in self._choices), default=0)
        byte = _bytes(text, matching) if matching < len(text) else None
        return ValidationError(keyword="choice", pointer="#", byte=byte)


class PatternCheck(_AtOnce):
    """The whole text matches a regular expression. `early` reports errors while it arrives."""

    def __init__(self, pattern: TextPattern, *, early: bool) -> None:
        self.is_truncated = False
        self._pattern = pattern
        self._chunks: list[str] = []
        self._length = 0
        self._next_check = 1 if early else None  # at this length; it doubles, because each check reads the whole text

    def feed(self, chunk: str) -> ValidationError | None:
        """See `TextCheck`."""
        self._chunks.append(chunk)
        self._length += len(chunk)
        if self._next_check is None or self._length < self._next_check:
            return None
        self._next_check = 2 * self._length
        return None if self._pattern.may_match("".join(self._chunks)) else _REGEX_ERROR

    def finish(self, *, is_cut: bool = False) -> ValidationError | None:
        """See `TextCheck`."""
        text = "".join(self._chunks)
        if self._pattern.matches(text):
            return None
        self.is_truncated = is_cut and self._pattern.may_match(text)
        return None if self.is_truncated else _REGEX_ERROR

    def repaired(self) -> str | None:
        """See `TextCheck`."""
        return None


class AnyText(_AtOnce):
    """Any text: free text, the input of a custom tool without a pattern, and grammars, which only targets check."""

    is_truncated = False

    def feed(self, chunk: str) -> ValidationError | None:  # noqa: ARG002 - the protocol's signature
        """See `TextCheck`."""
        return None

    def finish(self, *, is_cut: bool = False) -> ValidationError | None:  # noqa: ARG002
        """See `TextCheck`."""
        return None

    def repaired(self) -> str | None:
        """See `TextCheck`."""
        return None


class GuardedCheck:
    """A check that also fails as soon as its text runs away."""

    def __init__(self, check: TextCheck, detector: RunawayDetector) -> None:
        self._check = check
        self._detector = detector

    @property
    def is_truncated(self) -> bool:
        """See `TextCheck`."""
        return self._check.is_truncated

    def feed(self, chunk: str) -> ValidationError | None:
        """See `TextCheck`. In steps, so that the detector sees the schema's elements as they are there."""
        for at in range(0, len(chunk), STEP):
            error = self._feed_step(chunk[at : at + STEP])
            if error is not None:
                return error
        return None

    def finish(self, *, is_cut: bool = False) -> ValidationError | None:
        """See `TextCheck`."""
        return self._check.finish(is_cut=is_cut)

    def repaired(self) -> str | None:
        """See `TextCheck`."""
        return self._check.repaired()

    def examine_cut(self) -> Iterator[None]:
        """See `TextCheck`."""
        return self._check.examine_cut()

    def _feed_step(self, step: str) -> ValidationError | None:
        error = self._check.feed(step)
        if error is not None:
            return error
        keyword = self._detector.feed(step)
        return None if keyword is None else ValidationError(keyword=keyword, pointer="#")


class TextChecks:
    """Makes the checks of one response. `guarded`: each of them fails as soon as its text runs away."""

    def __init__(self, schemas: SchemaCache, *, early: bool, guarded: bool) -> None:
        self._schemas = schemas
        self._early = early
        self._guarded = guarded

    def of_format(self, wanted: OutputFormat) -> TextCheck:
        """The check of a choice's text. Raises SchemaError for a schema that cannot be compiled."""
        if wanted.form is FormatKind.CHOICE:
            return self._guard_text(ChoiceCheck(wanted.choices, early=self._early))
        if wanted.form is FormatKind.JSON_OBJECT:
            return self._json(self._any_object())
        if wanted.form is FormatKind.JSON_SCHEMA:
            return self._json(self._schema(wanted.schema, wanted.digest))
        return self._pattern(wanted.pattern)

    def of_tool(self, tool: Tool) -> TextCheck:
        """The check of a call's arguments; any object if the tool declares no parameters."""
        if not tool.is_custom:
            is_any = tool.parameters is None
            schema = self._any_object() if is_any else self._schema(tool.parameters, tool.digest)
            return self._json(schema, object_only=True)
        return AnyText() if tool.pattern is None else self._pattern(tool.pattern)

    def of_free_text(self) -> TextCheck:
        """The check of text that has no form."""
        return self._guard_text(AnyText())

    def _json(self, schema: Schema, *, object_only: bool = False) -> TextCheck:
        check = JsonCheck(schema, early=self._early, object_only=object_only)
        return GuardedCheck(check, RunawayDetector(is_json=True, elements=check.elements)) if self._guarded else check

    def _pattern(self, pattern: str | None) -> TextCheck:
        if pattern is None:
            return self._guard_text(AnyText())
        compiled = self._schemas.get(f"regex:{pattern}", lambda: TextPattern(pattern))
        return self._guard_text(PatternCheck(compiled, early=self._early))

    def _guard_text(self, check: TextCheck) -> TextCheck:
        return GuardedCheck(check, RunawayDetector(is_json=False)) if self._guarded else check

    def _any_object(self) -> Schema:
        return self._schemas.get("json_object", lambda: Schema({"type": "object"}))

    def _schema(self, schema: Any, digest: str | None) -> Schema:
        return self._schemas.get(digest or digest_of(schema), lambda: Schema(schema))


class _RepeatedKey(Exception):  # noqa: N818 - says what happened
    """An object has a key twice."""


_REPEATED: Final = ValidationError(keyword=REPEATED.keyword, pointer=REPEATED.pointer)
_OTHER_VALUES: Final = frozenset('["-0123456789tfn')  # first characters of values that are no objects
_REGEX_ERROR: Final = ValidationError(keyword="regex", pointer="#")


def is_checkable(wanted: OutputFormat) -> bool:
    """Whether a text can be checked against this format: a grammar cannot."""
    return wanted.pattern is not None or wanted.form not in (FormatKind.GRAMMAR, FormatKind.TEMPLATE)


def _has_repeated_key(text: str, value: Any) -> bool:
    """Whether an object of a JSON text with this value has a key twice: then the value has fewer quotes than the text.
    Only an escaped quote may have another form there."""
    if text.count('"') == exact_json.dumps(value).count(b'"') and "\\u0022" not in text:
        return False
    try:
        _KEYS.decode(text)
    except _RepeatedKey:
        return True
    return False


def _keys(pairs: list[tuple[str, Any]]) -> None:
    if len(dict(pairs)) != len(pairs):
        raise _RepeatedKey


_KEYS: Final = json.JSONDecoder(object_pairs_hook=_keys, parse_int=str, parse_float=str)  # numbers are not needed


def _is_json(text: str) -> bool:
    try:
        exact_json.loads(text)
    except exact_json.JsonError:
        return False
    return True


def _error_of(parser: JsonPrefix, text: str) -> ValidationError:
    at = parser.error_at
    assert at is not None
    if isinstance(parser, IncrementalValidator) and parser.violation is not None:
        violation = parser.violation
        return ValidationError(keyword=violation.keyword, pointer=violation.pointer, byte=_bytes(text, at))
    return ValidationError(keyword="json", pointer="#", byte=_bytes(text, at))


def _bytes(text: str, characters: int) -> int:
    return len(text[:characters].encode("utf-8", "surrogatepass"))


def _common_prefix(text: str, choice: str) -> int:
    """The length of the common prefix in characters."""
    for at, (ours, theirs) in enumerate(zip(text, choice, strict=False)):
        if ours != theirs:
            return at
    return min(len(text), len(choice))
