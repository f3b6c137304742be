"""Parser of native tool calls, as the released checkpoint writes them, to a name and JSON arguments.

    call:weather{city:<|"|>São Paulo<|"|>,days:3,units:[<|"|>C<|"|>],exact:true}

The syntax is Gemma 4's: unquoted keys, strings between two quote tokens without escapes, and JSON numbers and literals.
The quote is a control token, so a string may contain any character. Strings in JSON quotes and single bare words are
accepted too: the checkpoint is known to write them, and their meaning is unambiguous. Anything else is not a call.
Whether the tool was offered is not checked here.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

_HEAD = re.compile(r"\s*call:\s*([^\s{}\[\](),:\"']+)\s*(?=\{)")
_PIECE = re.compile(r"\s*(?:([{}\[\]:,])|(\"(?:[^\"\\]|\\.)*\")|([^\s{}\[\](),:\"']+)|\Z)", re.DOTALL)
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")
# Python literals occur when a template renders a value without `tojson`.
_LITERALS = {"true": "true", "false": "false", "null": "null", "True": "true", "False": "false", "None": "null"}
_MAX_DEPTH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A tool call of the model; `arguments` is the text of a JSON object, with numbers as written."""

    name: str
    arguments: str


def read_call(segments: Sequence[str]) -> ToolCall | None:
    """The call between a pair of call tokens, or None if malformed.

    `segments` is its text, split at the quote tokens: every second segment is a quoted string."""
    head = _HEAD.match(segments[0])
    if head is None or len(segments) % 2 == 0:  # the last string is not closed
        return None
    try:
        reader = _Reader([segments[0][head.end() :], *segments[1:]])
        arguments = reader.value()
        reader.expect("")
    except _Malformed:
        return None
    return ToolCall(name=head[1], arguments=arguments)


class _Malformed(Exception):  # noqa: N818 - an internal result, not an error
    """The text is not a call."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """A punctuation sign such as `{`, or a scalar with its JSON text and its value as a key."""

    sign: str = ""
    scalar: str = ""
    key: str = ""


class _Reader:
    """Recursive descent parser over the pieces; each method returns JSON text."""

    def __init__(self, segments: Sequence[str]) -> None:
        self._pieces = [piece for at, text in enumerate(segments) for piece in _pieces(text, is_quoted=at % 2 == 1)]
        self._at = 0
        self._depth = 0

    def value(self) -> str:
        """An object, an array or a scalar."""
        piece = self._take()
        if piece.sign == "{":
            return "{" + self._until("}", self._pair) + "}"
        if piece.sign == "[":
            return "[" + self._until("]", self.value) + "]"
        if not piece.scalar:
            raise _Malformed
        return piece.scalar

    def expect(self, sign: str) -> None:
        """Consume this sign; the empty string is the end of the text."""
        piece = self._take()
        if piece.scalar or piece.sign != sign:
            raise _Malformed

    def _pair(self) -> str:
        piece = self._take()
        if not piece.scalar:
            raise _Malformed
        self.expect(":")
        return f"{_json(piece.key)}:{self.value()}"

    def _until(self, close: str, member: Callable[[], str]) -> str:
        """Members separated by commas, up to the closing sign; a trailing comma is accepted."""
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise _Malformed
        members: list[str] = []
        while self._peek().sign != close:
            if members:
                self.expect(",")
                if self._peek().sign == close:
                    break
            members.append(member())
        self.expect(close)
        self._depth -= 1
        return ",".join(members)

    def _peek(self) -> _Piece:
        return self._pieces[self._at] if self._at < len(self._pieces) else _Piece()

    def _take(self) -> _Piece:
        piece = self._peek()
        self._at += 1
        return piece


def _pieces(text: str, *, is_quoted: bool) -> Iterator[_Piece]:
    if is_quoted:
        yield _Piece(scalar=_json(text), key=text)
        return
    at = 0
    while at < len(text):
        match = _PIECE.match(text, at)
        if match is None:
            raise _Malformed
        at = match.end()
        sign, quoted, word = match.groups()
        if sign:
            yield _Piece(sign=sign)
        elif quoted:
            yield _json_string(quoted)
        elif word:
            yield _Piece(scalar=_scalar(word), key=word)


def _json_string(quoted: str) -> _Piece:
    try:
        return _Piece(scalar=quoted, key=json.loads(quoted))
    except ValueError:
        raise _Malformed from None


def _scalar(word: str) -> str:
    return word if _NUMBER.fullmatch(word) else _LITERALS.get(word) or _json(word)


def _json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
