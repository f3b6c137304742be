"""Does an answer keep what its request asked for? Fed as it comes, whole or in pieces; a fault is told as soon as sure.

Knows expectations and tools; how a schema is asked is `validate`'s business.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import orjson

from gateway.core.json_prefix import JsonPrefix
from gateway.core.validate import Fault, Schema, SchemaCache, check_pattern, digest_of
from gateway.records import Expectation, Piece, Query, Tool, ToolCall
from gateway.words import Form

_JSON_FORMS = frozenset({Form.JSON_SCHEMA, Form.JSON_OBJECT})


@dataclass(slots=True)
class _Choice:
    """What has come of one choice."""

    texts: list[str] = field(default_factory=list)
    calls: dict[int, list[ToolCall]] = field(default_factory=dict)
    refused: bool = False
    prefix: JsonPrefix = field(default_factory=JsonPrefix)


class AnswerCheck:
    """One answer being checked: `feed` its pieces, then `finish`. Either returns the first fault, or None.

    A refusal is an answer, not a fault; a choice that calls tools need not say anything besides.
    """

    def __init__(self, query: Query, schemas: SchemaCache) -> None:
        self._expectation = query.expectation
        self._tools = {tool.name: tool for tool in query.tools}
        self._schemas = schemas
        self._choices: dict[int, _Choice] = {}
        # A whole answer is parsed once, at the end; only a stream can be left early.
        self._early = query.stream and self._expectation is not None and self._expectation.form in _JSON_FORMS

    @property
    def has_something_to_check(self) -> bool:
        """Did the request ask for anything that can be checked here? Templates are the targets' own business."""
        asked = self._expectation is not None and self._expectation.form is not Form.TEMPLATE
        return asked or bool(self._tools)

    def feed(self, pieces: Iterable[Piece]) -> Fault | None:
        """Take what one delta adds; a fault here means that nothing to come can mend the answer."""
        for piece in pieces:
            choice = self._choices.setdefault(piece.index, _Choice())
            choice.refused = choice.refused or bool(piece.refusal)
            if piece.text:
                choice.texts.append(piece.text)
                if self._early and not choice.refused and not choice.prefix.feed(piece.text):
                    return _at_character(choice.prefix.fault_at)
            for call in piece.tool_calls:
                choice.calls.setdefault(call.index, []).append(call)
        return None

    def finish(self) -> Fault | None:
        """The verdict on the whole. An answer without any choice keeps no promise."""
        if not self._choices and self.has_something_to_check:
            return Fault(keyword="choices", place="#")
        for _, choice in sorted(self._choices.items()):
            fault = None if choice.refused else self._fault_of(choice)
            if fault is not None:
                return fault
        return None

    def _fault_of(self, choice: _Choice) -> Fault | None:
        for index in sorted(choice.calls):
            fault = self._fault_of_call(choice.calls[index])
            if fault is not None:
                return fault
        text = "".join(choice.texts)
        if self._expectation is None or (choice.calls and not text):
            return None
        return self._fault_of_text(self._expectation, text)

    def _fault_of_call(self, fragments: list[ToolCall]) -> Fault | None:
        if not self._tools:
            return None  # nothing is known of what could be called
        name = "".join(fragment.name for fragment in fragments)
        tool = self._tools.get(name)
        if tool is None:
            return Fault(keyword="name", place="a tool call")
        arguments = "".join(fragment.arguments for fragment in fragments)
        return self._fault_of_arguments(tool, arguments)

    def _fault_of_arguments(self, tool: Tool, arguments: str) -> Fault | None:
        if tool.parameters is None:
            fault = _fault_of_json(arguments, None)
        else:
            digest = tool.digest or digest_of(tool.parameters)
            fault = _fault_of_json(arguments, self._schemas.get(digest, lambda: Schema(tool.parameters)))
        return fault and Fault(keyword=fault.keyword, place=f"tool {tool.name}: {fault.place}")

    def _fault_of_text(self, expectation: Expectation, text: str) -> Fault | None:
        match expectation.form:
            case Form.JSON_SCHEMA:
                digest = expectation.digest or digest_of(expectation.schema)
                return _fault_of_json(text, self._schemas.get(digest, lambda: Schema(expectation.schema)))
            case Form.JSON_OBJECT:
                return _fault_of_json(text, self._schemas.get("json_object", lambda: Schema({"type": "object"})))
            case Form.REGEX:
                pattern = expectation.pattern or ""
                schema = self._schemas.get(f"regex:{pattern}", lambda: check_pattern(pattern))
                return Fault(keyword="regex", place="#") if schema.fault_of(text, len(text)) else None
            case Form.CHOICE:
                return None if text in expectation.choices else Fault(keyword="choice", place="#")
            case Form.TEMPLATE:
                return None


def _fault_of_json(text: str, schema: Schema | None) -> Fault | None:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as wrong:
        return _unparsed(text, wrong.pos)
    return schema.fault_of(value, len(text)) if schema is not None else None


def _unparsed(text: str, position: int) -> Fault:
    """The first impossible character; a text without one ended too early, or holds what the parser cannot represent."""
    prefix = JsonPrefix()
    if not prefix.feed(text):
        return _at_character(prefix.fault_at)
    return _at_character(position) if prefix.is_complete else Fault(keyword="json", place="its end")


def _at_character(position: int | None) -> Fault:
    return Fault(keyword="json", place=f"character {position}")
