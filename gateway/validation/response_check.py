"""Does an answer keep what its request asked for? Fed as it comes, whole or in pieces; a fault is told as soon as sure.

Knows choices, tool calls and what was promised of each; how a single text is judged is `text_check`'s business.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from gateway.enums import Form
from gateway.types import Expectation, Piece, Query, Tool, ToolCall
from gateway.validation.json_schema import Fault, Schema, SchemaCache, check_pattern, digest_of
from gateway.validation.text_check import ChoiceCheck, JsonCheck, PatternCheck, TextCheck


@dataclass(slots=True)
class _Call:
    """A tool call, of which fragments come. Its arguments are judged once its name is whole: when they begin."""

    name: str = ""
    arguments: JsonCheck | None = None


@dataclass(slots=True)
class _Choice:
    """What has come of one choice."""

    text: TextCheck | None
    said_something: bool = False
    refused: bool = False
    cut_short: bool = False
    calls: dict[int, _Call] = field(default_factory=dict)


class ResponseCheck:
    """One answer being checked: `feed` its pieces, then `finish`. Either returns the first fault, or None.

    A refusal is an answer, not a fault; a choice that calls tools need not say anything besides. `early` asks for
    faults while the answer comes; where it is whole anyway, or might be repaired, its end is soon enough.
    """

    def __init__(self, query: Query, schemas: SchemaCache, *, early: bool) -> None:
        self._expectation = query.expectation
        self._tools = {tool.name: tool for tool in query.tools}
        self._must_call = query.must_call
        self._schemas = schemas
        self._choices: dict[int, _Choice] = {}
        self._early = early

    @property
    def has_something_to_check(self) -> bool:
        """Did the request ask for anything that can be checked here? Templates are the targets' own business."""
        asked = self._expectation is not None and self._expectation.form is not Form.TEMPLATE
        return asked or bool(self._tools)

    def feed(self, pieces: Iterable[Piece]) -> Fault | None:
        """Take what one delta adds; a fault here means that nothing to come can mend the answer."""
        for piece in pieces:
            choice = self._choices.get(piece.index)
            if choice is None:
                choice = self._choices[piece.index] = _Choice(self._text_check())
            fault = self._feed_choice(choice, piece)
            if fault is not None:
                return fault
        return None

    def finish(self) -> Fault | None:
        """The verdict on the whole. An answer without any choice keeps no promise."""
        if not self._choices and self.has_something_to_check:
            return Fault(keyword="choices", place="#")
        for _, choice in sorted(self._choices.items()):
            fault = None if choice.refused else self._finish_choice(choice)
            if fault is not None:
                return fault
        return None

    def mended(self) -> dict[tuple[int, int | None], str]:
        """What repairing syntax gives, by choice and tool call (None: its text). Nothing for what was cut short.

        A target that ran into its token limit says so, and closing what it could not finish would hide that.
        """
        found: dict[tuple[int, int | None], str] = {}
        for index, choice in self._choices.items():
            if choice.cut_short or choice.refused:
                continue
            checks: dict[int | None, TextCheck | None] = {None: choice.text}
            checks.update({number: call.arguments for number, call in choice.calls.items()})
            for number, check in checks.items():
                text = check.mended() if isinstance(check, JsonCheck) else None
                if text is not None:
                    found[index, number] = text
        return found

    def _feed_choice(self, choice: _Choice, piece: Piece) -> Fault | None:
        choice.refused = choice.refused or bool(piece.refusal)
        choice.cut_short = choice.cut_short or piece.finish_reason == "length"
        if choice.refused:
            return None
        if piece.text and choice.text is not None:
            choice.said_something = True
            fault = choice.text.feed(piece.text)
            if fault is not None:
                return fault
        for fragment in piece.tool_calls if self._tools else ():
            fault = self._feed_call(choice.calls.setdefault(fragment.index, _Call()), fragment)
            if fault is not None:
                return fault
        return None

    def _feed_call(self, call: _Call, fragment: ToolCall) -> Fault | None:
        call.name += fragment.name
        if not fragment.arguments:
            return None
        tool = self._tools.get(call.name)
        if tool is None:
            return _stranger()
        if self._must_call not in (None, "", call.name):
            return _uncalled()
        if call.arguments is None:
            call.arguments = JsonCheck(self._parameters(tool), early=self._early)
        return _of_tool(call.arguments.feed(fragment.arguments), tool.name)

    def _finish_choice(self, choice: _Choice) -> Fault | None:
        if self._must_call is not None and not choice.calls:
            return _uncalled()
        for _, call in sorted(choice.calls.items()):
            fault = self._finish_call(call)
            if fault is not None:
                return fault
        if choice.text is None or (choice.calls and not choice.said_something):
            return None
        return choice.text.finish()

    def _finish_call(self, call: _Call) -> Fault | None:
        tool = self._tools.get(call.name)
        if tool is None:
            return _stranger()
        if self._must_call not in (None, "", call.name):
            return _uncalled()
        arguments = call.arguments or JsonCheck(self._parameters(tool), early=False)
        return _of_tool(arguments.finish(), tool.name)

    def _text_check(self) -> TextCheck | None:
        asked = self._expectation
        if asked is None or asked.form is Form.TEMPLATE:
            return None
        if asked.form is Form.CHOICE:
            return ChoiceCheck(asked.choices, early=self._early)
        if asked.form is Form.REGEX:
            pattern = asked.pattern or ""
            return PatternCheck(self._schemas.get(f"regex:{pattern}", lambda: check_pattern(pattern)))
        return JsonCheck(self._schema(asked), early=self._early)

    def _schema(self, asked: Expectation) -> Schema:
        if asked.form is Form.JSON_OBJECT:
            return self._any_object()
        return self._schemas.get(asked.digest or digest_of(asked.schema), lambda: Schema(asked.schema))

    def _any_object(self) -> Schema:
        return self._schemas.get("json_object", lambda: Schema({"type": "object"}))

    def _parameters(self, tool: Tool) -> Schema:
        """Arguments are an object, even where nothing more is said."""
        if tool.parameters is None:
            return self._any_object()
        return self._schemas.get(tool.digest or digest_of(tool.parameters), lambda: Schema(tool.parameters))


def _stranger() -> Fault:
    return Fault(keyword="name", place="a tool call")


def _uncalled() -> Fault:
    return Fault(keyword="tool_choice", place="#")


def _of_tool(fault: Fault | None, name: str) -> Fault | None:
    return fault and replace(fault, place=f"tool {name}: {fault.place}")
