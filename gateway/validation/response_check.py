"""Check of a response against the requested output format and tools, while it arrives or when it is complete.

`ResponseCheck` separates choices and tool calls; a `TextCheck` for each of their texts reports the first error.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

import orjson

from gateway.enums import FormatKind
from gateway.types import OutputFormat, Piece, Query, Tool, ToolCall
from gateway.validation.incremental_validator import IncrementalValidator
from gateway.validation.json_prefix import JsonPrefix
from gateway.validation.json_repair import repair
from gateway.validation.json_schema import Schema, SchemaCache, ValidationError, check_pattern, digest_of

# In longer texts, the position of an error is not searched for: it would block the event loop.
_MAX_LOCATED_CHARS: Final = 1 << 16


class TextCheck(Protocol):
    """Checks one text: `feed` chunks, then `finish` once. Either returns the first error; stop after an error."""

    def feed(self, chunk: str) -> ValidationError | None:
        """An error that no continuation of the text can correct."""
        ...

    def finish(self) -> ValidationError | None:
        """The error of the complete text."""
        ...


class JsonCheck:
    """The text is a JSON document, valid under the schema if there is one. `early` reports errors while it arrives."""

    def __init__(self, schema: Schema | None, *, early: bool) -> None:
        self._schema = schema
        self._chunks: list[str] = []
        self._parser = self._new_parser() if early else None

    def feed(self, chunk: str) -> ValidationError | None:
        """See `TextCheck`."""
        self._chunks.append(chunk)
        if self._parser is None or self._parser.feed(chunk):
            return None
        return _error_of(self._parser, "".join(self._chunks))

    def finish(self) -> ValidationError | None:
        """See `TextCheck`. The compiled validator decides; the incremental one locates the error."""
        text = "".join(self._chunks)
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            return self._located(text) or self._syntax_error(text, error.pos)
        invalid = self._schema.validate(value, len(text)) if self._schema is not None else None
        return invalid and (self._located(text) or invalid)

    def repaired(self) -> str | None:
        """The text with its JSON syntax repaired; None if that is not needed or not possible."""
        return repair("".join(self._chunks))

    def _new_parser(self) -> JsonPrefix:
        return JsonPrefix() if self._schema is None else self._schema.incremental_validator()

    def _located(self, text: str) -> ValidationError | None:
        """The error with its position, as `feed` would have reported it; None if it cannot be located."""
        if len(text) > _MAX_LOCATED_CHARS:
            return None
        parser = self._new_parser()
        return None if parser.feed(text) else _error_of(parser, text)

    def _syntax_error(self, text: str, position: int) -> ValidationError:
        """The text is truncated, or contains what the JSON parser cannot represent."""
        prefix = JsonPrefix()
        if len(text) > _MAX_LOCATED_CHARS or not prefix.feed(text) or prefix.is_complete:
            return ValidationError(keyword="json", pointer="#", byte=_bytes(text, position))
        return ValidationError(keyword="json", pointer="its end")


class ChoiceCheck:
    """The text is one of a list of strings."""

    def __init__(self, choices: tuple[str, ...], *, early: bool) -> None:
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

    def finish(self) -> ValidationError | None:
        """See `TextCheck`."""
        return None if "".join(self._chunks) in self._choices else self._error()

    def _error(self) -> ValidationError:
        """The error at the first byte that differs from every choice; a truncated text has no such byte."""
        text = "".join(self._chunks)
        matching = max((_common_prefix(text, choice) for choice in self._choices), default=0)
        byte = _bytes(text, matching) if matching < len(text) else None
        return ValidationError(keyword="choice", pointer="#", byte=byte)


class PatternCheck:
    """The whole text matches a regular expression, compiled by `json_schema.check_pattern`."""

    def __init__(self, pattern: Schema) -> None:
        self._pattern = pattern
        self._chunks: list[str] = []

    def feed(self, chunk: str) -> ValidationError | None:
        """See `TextCheck`. Never an error: the regex engine cannot match prefixes."""
        self._chunks.append(chunk)
        return None

    def finish(self) -> ValidationError | None:
        """See `TextCheck`."""
        text = "".join(self._chunks)
        return ValidationError(keyword="regex", pointer="#") if self._pattern.validate(text, len(text)) else None


@dataclass(slots=True)
class _Call:
    """A tool call that arrives in fragments. Its name is complete when its arguments start."""

    name: str = ""
    arguments: JsonCheck | None = None


@dataclass(slots=True)
class _Choice:
    """The state of one choice."""

    text: TextCheck | None
    has_text: bool = False
    refused: bool = False
    is_truncated: bool = False
    calls: dict[int, _Call] = field(default_factory=dict)


class ResponseCheck:
    """Checks one response: `feed` its pieces, then `finish`. Either returns the first error, or None.

    A refusal is a valid response, and a choice with tool calls needs no text. `early` reports errors while the response
    arrives; it is not useful if the response is buffered anyway, or may be repaired.
    """

    def __init__(self, query: Query, schemas: SchemaCache, *, early: bool) -> None:
        self._format = query.output_format
        self._tools = {tool.name: tool for tool in query.tools}
        self._must_call = query.must_call
        self._schemas = schemas
        self._choices: dict[int, _Choice] = {}
        self._early = early

    @property
    def has_something_to_check(self) -> bool:
        """Whether the request has an output format or tools to check. Templates are checked by the targets only."""
        has_format = self._format is not None and self._format.form is not FormatKind.TEMPLATE
        return has_format or bool(self._tools)

    def feed(self, pieces: Iterable[Piece]) -> ValidationError | None:
        """Process one delta; an error here cannot be corrected by any continuation."""
        for piece in pieces:
            choice = self._choices.get(piece.index)
            if choice is None:
                choice = self._choices[piece.index] = _Choice(self._text_check())
            error = self._feed_choice(choice, piece)
            if error is not None:
                return error
        return None

    def finish(self) -> ValidationError | None:
        """The error of the complete response. A response without choices is invalid."""
        if not self._choices and self.has_something_to_check:
            return ValidationError(keyword="choices", pointer="#")
        for _, choice in sorted(self._choices.items()):
            error = None if choice.refused else self._finish_choice(choice)
            if error is not None:
                return error
        return None

    def repaired_texts(self) -> dict[tuple[int, int | None], str]:
        """Texts with repaired JSON syntax, by choice and tool call (None: the choice's text).

        Choices that reached their token limit are not repaired: closing an incomplete document would hide that.
        """
        texts: dict[tuple[int, int | None], str] = {}
        for index, choice in self._choices.items():
            if choice.is_truncated or choice.refused:
                continue
            checks: dict[int | None, TextCheck | None] = {None: choice.text}
            checks.update({number: call.arguments for number, call in choice.calls.items()})
            for number, check in checks.items():
                text = check.repaired() if isinstance(check, JsonCheck) else None
                if text is not None:
                    texts[index, number] = text
        return texts

    def _feed_choice(self, choice: _Choice, piece: Piece) -> ValidationError | None:
        choice.refused = choice.refused or bool(piece.refusal)
        choice.is_truncated = choice.is_truncated or piece.finish_reason == "length"
        if choice.refused:
            return None
        if piece.text and choice.text is not None:
            choice.has_text = True
            error = choice.text.feed(piece.text)
            if error is not None:
                return error
        for fragment in piece.tool_calls if self._tools else ():
            error = self._feed_call(choice.calls.setdefault(fragment.index, _Call()), fragment)
            if error is not None:
                return error
        return None

    def _feed_call(self, call: _Call, fragment: ToolCall) -> ValidationError | None:
        call.name += fragment.name
        if not fragment.arguments:
            return None
        tool = self._tools.get(call.name)
        if tool is None:
            return _unknown_tool()
        if self._must_call not in (None, "", call.name):
            return _missing_call()
        if call.arguments is None:
            call.arguments = JsonCheck(self._parameters(tool), early=self._early)
        return _of_tool(call.arguments.feed(fragment.arguments), tool.name)

    def _finish_choice(self, choice: _Choice) -> ValidationError | None:
        if self._must_call is not None and not choice.calls:
            return _missing_call()
        for _, call in sorted(choice.calls.items()):
            error = self._finish_call(call)
            if error is not None:
                return error
        if choice.text is None or (choice.calls and not choice.has_text):
            return None
        return choice.text.finish()

    def _finish_call(self, call: _Call) -> ValidationError | None:
        tool = self._tools.get(call.name)
        if tool is None:
            return _unknown_tool()
        if self._must_call not in (None, "", call.name):
            return _missing_call()
        arguments = call.arguments or JsonCheck(self._parameters(tool), early=False)
        return _of_tool(arguments.finish(), tool.name)

    def _text_check(self) -> TextCheck | None:
        wanted = self._format
        if wanted is None or wanted.form is FormatKind.TEMPLATE:
            return None
        if wanted.form is FormatKind.CHOICE:
            return ChoiceCheck(wanted.choices, early=self._early)
        if wanted.form is FormatKind.REGEX:
            pattern = wanted.pattern or ""
            return PatternCheck(self._schemas.get(f"regex:{pattern}", lambda: check_pattern(pattern)))
        return JsonCheck(self._schema(wanted), early=self._early)

    def _schema(self, wanted: OutputFormat) -> Schema:
        if wanted.form is FormatKind.JSON_OBJECT:
            return self._any_object()
        return self._schemas.get(wanted.digest or digest_of(wanted.schema), lambda: Schema(wanted.schema))

    def _any_object(self) -> Schema:
        return self._schemas.get("json_object", lambda: Schema({"type": "object"}))

    def _parameters(self, tool: Tool) -> Schema:
        """The schema of a tool's arguments; any object if the tool declares none."""
        if tool.parameters is None:
            return self._any_object()
        return self._schemas.get(tool.digest or digest_of(tool.parameters), lambda: Schema(tool.parameters))


def _unknown_tool() -> ValidationError:
    return ValidationError(keyword="name", pointer="a tool call")


def _missing_call() -> ValidationError:
    return ValidationError(keyword="tool_choice", pointer="#")


def _of_tool(error: ValidationError | None, name: str) -> ValidationError | None:
    return error and replace(error, pointer=f"tool {name}: {error.pointer}")


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
