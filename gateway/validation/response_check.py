"""Check of a response against the requested output format and tools, while it arrives or when it is complete.

`ResponseCheck` separates choices and tool calls; a `TextCheck` for each of their texts reports the first error.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from gateway.enums import Capability, RunawayScope
from gateway.types import Piece, Query, Tool, ToolCall
from gateway.validation.json_schema import SchemaCache, ValidationError
from gateway.validation.text_checks import TextCheck, TextChecks, is_checkable

# Finish reasons in lower case: of OpenAI, Mistral, TGI, Gemini, Zhipu, DeepSeek, vLLM and OpenRouter.
_CUT: Final = frozenset({"length", "max_tokens", "model_length"})
_DECLINED: Final = frozenset(
    {"content_filter", "safety", "recitation", "blocklist", "prohibited_content", "spii", "sensitive", "refusal"}
)
_FAILED: Final = frozenset({"error", "abort", "aborted", "network_error", "insufficient_system_resource"})


@dataclass(slots=True)
class _Call:
    """A tool call that arrives in fragments. Its name is complete when its arguments start."""

    name: str = ""
    id: str = ""
    arguments: TextCheck | None = None
    has_arguments: bool = False


@dataclass(slots=True)
class _Choice:
    """The state of one choice."""

    text: TextCheck | None
    has_text: bool = False
    declined: bool = False
    is_ended: bool = False  # there was a finish reason
    is_cut: bool = False  # by a token limit
    is_failed: bool = False  # the target gave up
    is_truncated: bool = False  # after the end: it was cut and is valid as far as it goes
    calls: dict[int, _Call] = field(default_factory=dict)


class ResponseCheck:
    """Checks one response: `feed` its pieces, then `finish`. Either returns the first error, or None.

    A refusal is a valid response, and a choice with tool calls needs no text. `early` reports errors while the response
    arrives; it is not useful if the response is buffered anyway, or may be repaired. `runaway` applies to streams only:
    a whole response has already ended.
    """

    def __init__(
        self, query: Query, schemas: SchemaCache, *, early: bool, runaway: RunawayScope = RunawayScope.FORM
    ) -> None:
        self._format = query.output_format
        self._tools = {tool.name: tool for tool in query.tools}
        self._rules = query.tool_choice
        self._has_stops = Capability.STOP in query.needs
        self._guards_text = query.stream and runaway is RunawayScope.ALL
        self._texts = TextChecks(schemas, early=early, guarded=query.stream and runaway is not RunawayScope.NONE)
        self._choices: dict[int, _Choice] = {}

    @property
    def has_something_to_check(self) -> bool:
        """Whether the request asks for a form, or its free text is examined."""
        return self._format is not None or bool(self._tools) or self._guards_text

    @property
    def is_verified(self) -> bool:
        """After `finish` without error: whether the response is known to be what the request asked for. A grammar, a
        refusal and what a content filter stopped are not checked."""
        is_checked = bool(self._tools) or self._is_text_checked
        return is_checked and not any(choice.declined for choice in self._choices.values())

    @property
    def is_truncated(self) -> bool:
        """After `finish` without error: whether a token limit or a stop string cut a choice that is valid as far as it
        goes."""
        choices = self._choices.values()
        is_form = self._format is not None or bool(self._tools)
        return is_form and any(each.is_truncated for each in choices) and not any(each.declined for each in choices)

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
            error = None if choice.declined else self._finish_choice(choice)
            if error is not None:
                return error
        return None

    def examine_cuts(self) -> Iterator[None]:
        """Before `finish`: examine texts that may have been cut, in short steps; yields between two of them."""
        for choice in self._choices.values():
            if (choice.is_cut or self._has_stops) and not choice.declined:
                for check in _checks_of(choice).values():
                    yield from check.examine_cut()

    def repaired_texts(self) -> dict[tuple[int, int | None], str]:
        """Texts with repaired JSON syntax, by choice and tool call (None: the choice's text).

        Choices that reached their token limit are not repaired: closing an incomplete document would hide that.
        """
        return {
            (index, number): text
            for index, choice in self._choices.items()
            if not (choice.is_cut or choice.declined)
            for number, check in _checks_of(choice).items()
            if (text := check.repaired()) is not None
        }

    @property
    def _is_text_checked(self) -> bool:
        return self._format is not None and is_checkable(self._format)

    def _text_check(self) -> TextCheck | None:
        if self._format is not None:
            return self._texts.of_format(self._format)
        return self._texts.of_free_text() if self._guards_text else None

    def _feed_choice(self, choice: _Choice, piece: Piece) -> ValidationError | None:
        choice.declined = choice.declined or bool(piece.refusal)
        if piece.finish_reason is not None:
            _end(choice, piece.finish_reason.lower())
        if choice.declined:
            return None
        if piece.text and choice.text is not None:
            choice.has_text = choice.has_text or not piece.text.isspace()
            error = choice.text.feed(piece.text)
            if error is not None:
                return error
        for fragment in piece.tool_calls if self._tools else ():
            error = self._feed_call(choice, fragment)
            if error is not None:
                return error
        return None

    def _feed_call(self, choice: _Choice, fragment: ToolCall) -> ValidationError | None:
        call = choice.calls.setdefault(fragment.index, _Call())
        if len(choice.calls) > 1 and not self._rules.parallel:
            return ValidationError(keyword="parallel_tool_calls", pointer="#")
        call.id = call.id or fragment.id
        if fragment.id and any(other.id == fragment.id for other in choice.calls.values() if other is not call):
            return ValidationError(keyword="id", pointer="a tool call")
        call.name += fragment.name
        if not self._is_begun(call.name):
            return self._wrong_name(call.name)
        if not fragment.arguments:
            return None
        tool = self._tools.get(call.name)
        if tool is None or not self._may_call(tool):
            return self._wrong_name(call.name)
        if call.arguments is None:
            call.arguments = self._texts.of_tool(tool)
        call.has_arguments = call.has_arguments or not fragment.arguments.isspace()
        return _of_tool(call.arguments.feed(fragment.arguments), tool.name)

    def _finish_choice(self, choice: _Choice) -> ValidationError | None:
        # A stop string of the request may have cut the choice as well; targets report both ends as "stop".
        is_cut = choice.is_cut or (self._has_stops and choice.is_ended)
        if choice.is_failed and not self._is_text_checked:
            return ValidationError(keyword="finish_reason", pointer="#")
        if self._rules.is_required and not choice.calls and not choice.is_cut:
            return _wrong_call()
        last = next(reversed(choice.calls), None)  # only the call that began last can be incomplete
        for number, call in sorted(choice.calls.items()):
            error = self._finish_call(choice, call, is_cut=is_cut and number == last)
            if error is not None:
                return error
        if choice.text is None or (choice.calls and not choice.has_text):
            choice.is_truncated = choice.is_truncated or (choice.is_cut and bool(self._tools))
            return None
        error = choice.text.finish(is_cut=is_cut)
        is_open = bool(choice.calls) or self._rules.is_required or not self._is_text_checked
        choice.is_truncated = choice.is_truncated or choice.text.is_truncated or (choice.is_cut and is_open)
        return error

    def _finish_call(self, choice: _Choice, call: _Call, *, is_cut: bool) -> ValidationError | None:
        tool = self._tools.get(call.name)
        if tool is None:
            choice.is_truncated = is_cut
            return None if is_cut else self._wrong_name(call.name)
        if not self._may_call(tool):
            return _wrong_call()
        if call.arguments is None:
            call.arguments = self._texts.of_tool(tool)
        # Many targets send an empty text for no arguments, and applications read it so.
        error = None if call.has_arguments or is_cut or tool.is_custom else call.arguments.feed("{}")
        error = error or call.arguments.finish(is_cut=is_cut)
        choice.is_truncated = choice.is_truncated or call.arguments.is_truncated
        return _of_tool(error, tool.name)

    def _is_begun(self, name: str) -> bool:
        """Whether a name is that of a tool that may be called, or may become one."""
        return any(tool.name.startswith(name) and self._may_call(tool) for tool in self._tools.values())

    def _wrong_name(self, name: str) -> ValidationError:
        return _wrong_call() if name in self._tools else ValidationError(keyword="name", pointer="a tool call")

    def _may_call(self, tool: Tool) -> bool:
        return self._rules.allowed is None or tool.name in self._rules.allowed


def _end(choice: _Choice, reason: str) -> None:
    choice.is_failed = choice.is_failed or reason in _FAILED
    choice.is_ended = not choice.is_failed
    choice.is_cut = choice.is_cut or reason in _CUT
    choice.declined = choice.declined or reason in _DECLINED


def _checks_of(choice: _Choice) -> dict[int | None, TextCheck]:
    """The checks of a choice by tool call; None: of its text."""
    checks: dict[int | None, TextCheck | None] = {None: choice.text}
    checks.update({number: call.arguments for number, call in choice.calls.items()})
    return {number: check for number, check in checks.items() if check is not None}


def _wrong_call() -> ValidationError:
    return ValidationError(keyword="tool_choice", pointer="#")


def _of_tool(error: ValidationError | None, name: str) -> ValidationError | None:
    return error and replace(error, tool=name)
