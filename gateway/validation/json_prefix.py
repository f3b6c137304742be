"""Incremental JSON parser (RFC 8259): checks whether the text so far is a prefix of a JSON document.

A pushdown automaton over characters that reports the position of the first error. The result does not depend on how the
text is split into chunks. Subclasses override four event methods to follow the document (see `incremental_validator`).
"""

import re
from enum import IntEnum
from typing import Final

WHITE_SPACE: Final = " \t\n\r"
MAX_DEPTH: Final = 512  # of arrays and objects; well below the limit of the JSON parser


class _State(IntEnum):
    """The automaton's state: what may come next."""

    VALUE = 0
    FIRST_ITEM = 1  # a value or ]
    FIRST_KEY = 2  # a string or }
    KEY = 3
    COLON = 4
    AFTER = 5  # a value is complete: , or a closing bracket, or the end
    STRING = 6
    ESCAPE = 7
    HEX = 8
    LITERAL = 9
    # Numbers, by the last character read.
    MINUS = 10
    ZERO = 11
    INTEGER = 12
    POINT = 13
    FRACTION = 14
    EXPONENT = 15
    SIGN = 16
    POWER = 17


_DIGIT_MOVES: Final = {
    _State.MINUS: _State.INTEGER,
    _State.INTEGER: _State.INTEGER,
    _State.POINT: _State.FRACTION,
    _State.FRACTION: _State.FRACTION,
    _State.EXPONENT: _State.POWER,
    _State.SIGN: _State.POWER,
    _State.POWER: _State.POWER,
}
_OTHER_MOVES: Final = {
    (_State.MINUS, "0"): _State.ZERO,
    **{(state, "."): _State.POINT for state in (_State.ZERO, _State.INTEGER)},
    **{(s, e): _State.EXPONENT for s in (_State.ZERO, _State.INTEGER, _State.FRACTION) for e in "eE"},
    **{(_State.EXPONENT, sign): _State.SIGN for sign in "+-"},
}
_COMPLETE_NUMBERS: Final = frozenset({_State.ZERO, _State.INTEGER, _State.FRACTION, _State.POWER})
_BETWEEN: Final = frozenset({_State.VALUE, _State.FIRST_ITEM, _State.FIRST_KEY, _State.KEY, _State.COLON, _State.AFTER})
_INSIDE: Final = frozenset({_State.STRING, _State.ESCAPE, _State.HEX, _State.LITERAL})
_IN_STRING: Final = frozenset({_State.STRING, _State.ESCAPE, _State.HEX})
_AFTER_SCALAR: Final = {
    _State.VALUE: _State.AFTER,
    _State.FIRST_ITEM: _State.AFTER,
    _State.KEY: _State.COLON,
    _State.FIRST_KEY: _State.COLON,
}
_STARTS: Final = {'"': _State.STRING, "-": _State.MINUS, "0": _State.ZERO, **dict.fromkeys("123456789", _State.INTEGER)}
_LITERALS: Final = {"t": "rue", "f": "alse", "n": "ull"}
_FIRST_CHARS: Final = frozenset({"[", "{", *_STARTS, *_LITERALS})
_SPACE: Final = re.compile(r"[ \t\n\r]*")
_PLAIN: Final = re.compile(r'(?:[^"\\\x00-\x1f]++|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*+')
# Fast path for a scalar that is complete in the current chunk. A number is complete only if something follows it.
_SCALAR: Final = re.compile(
    r'"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*+"'
    r"|-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?(?=[ \t\n\r,\]}])"
    r"|true|false|null"
)
_HEX: Final = frozenset("0123456789abcdefABCDEF")
_DIGITS: Final = frozenset("0123456789")


class JsonPrefix:
    """`feed` text; `error_at` is the index of the first character that no JSON document can have there."""

    def __init__(self) -> None:
        self.error_at: int | None = None
        self._length = 0
        self._state = _State.VALUE
        self._open: list[str] = []
        self._in_key = False
        self._hex_left = 0
        self._literal_left = ""
        self._at = 0  # index of the current character
        self._chunk = ""
        self._token_at: int | None = None  # start of the current scalar or key
        self._token: list[str] = []  # its parts in earlier chunks

    @property
    def is_complete(self) -> bool:
        """Whether the text is a complete JSON document."""
        return self.closing == ""

    @property
    def closing(self) -> str | None:
        """The closing brackets that would complete the document; None if more than brackets is missing."""
        is_value_complete = self._state is _State.AFTER or self._state in _COMPLETE_NUMBERS
        if self.error_at is not None or not is_value_complete:
            return None
        return "".join("]" if opened == "[" else "}" for opened in reversed(self._open))

    @property
    def value_string_at(self) -> int | None:
        """The start of the string that the text ends in, unless it is a key; None outside strings."""
        return self._token_at if self._state in _IN_STRING and not self._in_key else None

    def feed(self, text: str) -> bool:
        """Process a chunk. False once there is an error, which no continuation can correct."""
        at, end = 0, len(text)
        self._chunk = text
        while self.error_at is None and (at := self._skip(text, at)) < end:
            self._at = self._length + at
            if self._step(text[at]):
                at += 1
            elif self.error_at is None:
                self.error_at = self._at
        if self._token_at is not None:
            self._token.append(text[max(0, self._token_at - self._length) :])
        self._length += end
        return self.error_at is None

    def _on_value(self, char: str, at: int) -> bool:  # noqa: ARG002 - for subclasses
        """A value starts with `char` at index `at`. Return False, with `error_at` set, to reject it."""
        return True

    def _on_key(self, raw: str, at: int) -> bool:  # noqa: ARG002
        """A key is complete; `raw` includes its quotes."""
        return True

    def _on_scalar(self, raw: str, at: int) -> bool:  # noqa: ARG002
        """A scalar is complete. Not called for a number at the very end of the text: it might continue."""
        return True

    def _on_close(self, at: int) -> bool:  # noqa: ARG002
        """An array or object is complete."""
        return True

    def _skip(self, text: str, at: int) -> int:
        """Fast path: skip the inside of a string, white space, or a complete scalar."""
        if self._state is _State.STRING:
            return _PLAIN.match(text, at).end()  # type: ignore[union-attr]  # the pattern matches everywhere
        if self._state not in _BETWEEN:
            return at
        at = _SPACE.match(text, at).end()  # type: ignore[union-attr]
        after = _AFTER_SCALAR.get(self._state)
        if after is None or (scalar := _SCALAR.match(text, at)) is None:
            return at
        if after is _State.COLON and text[at] != '"':
            return at
        if not self._skipped_scalar(after, scalar[0], self._length + at):
            return at
        return self._skip(text, scalar.end())

    def _skipped_scalar(self, after: _State, raw: str, at: int) -> bool:
        self._state = after
        if after is _State.COLON:
            return self._on_key(raw, at)
        return self._on_value(raw[0], at) and self._on_scalar(raw, at)

    def _step(self, char: str) -> bool:
        """Process one character; False if it is not allowed in the current state."""
        if self._state in _COMPLETE_NUMBERS and not self._continues_number(char):
            # A number has no terminator: the next character ends it.
            self._state = _State.AFTER
            return self._end_token(self._at) and (char in WHITE_SPACE or self._step_structure(char))
        if self._state in _BETWEEN:
            return self._step_structure(char)
        return self._step_inside(char) if self._state in _INSIDE else self._step_number(char)

    def _step_structure(self, char: str) -> bool:
        state = self._state
        if state is _State.AFTER:
            return self._step_after(char)
        if state is _State.COLON:
            self._state = _State.VALUE
            return char == ":"
        if state in (_State.KEY, _State.FIRST_KEY):
            if char == "}" and state is _State.FIRST_KEY:
                return self._close("{")
            self._in_key = True
            self._state = _State.STRING
            self._token_at = self._at
            return char == '"'
        if char == "]" and state is _State.FIRST_ITEM:
            return self._close("[")
        return self._step_value(char)

    def _step_value(self, char: str) -> bool:
        self._in_key = False
        if char not in _FIRST_CHARS or not self._on_value(char, self._at):
            return False
        if char in "[{":
            self._open.append(char)
            self._state = _State.FIRST_ITEM if char == "[" else _State.FIRST_KEY
            return len(self._open) <= MAX_DEPTH
        self._token_at = self._at
        if char in _LITERALS:
            self._literal_left = _LITERALS[char]
            self._state = _State.LITERAL
            return True
        self._state = _STARTS[char]
        return True

    def _step_after(self, char: str) -> bool:
        if not self._open:
            return False
        inside = self._open[-1]
        if char == ",":
            self._state = _State.KEY if inside == "{" else _State.VALUE
            return True
        return self._close("{") if char == "}" else char == "]" and self._close("[")

    def _close(self, opened: str) -> bool:
        self._state = _State.AFTER
        return bool(self._open) and self._open.pop() == opened and self._on_close(self._at)

    def _end_token(self, end: int) -> bool:
        """A scalar or key that was read character by character is complete."""
        at = self._token_at
        assert at is not None
        start = "".join(self._token)
        raw = start + self._chunk[max(0, at - self._length) : end - self._length]
        self._token_at = None
        self._token.clear()
        return self._on_key(raw, at) if self._in_key else self._on_scalar(raw, at)

    def _step_inside(self, char: str) -> bool:
        """In a string, an escape or a literal."""
        if self._state is _State.STRING:
            if char == "\\":
                self._state = _State.ESCAPE
            elif char == '"':
                self._state = _State.COLON if self._in_key else _State.AFTER
                return self._end_token(self._at + 1)
            else:
                return False
            return True
        if self._state is _State.ESCAPE:
            self._state = _State.HEX if char == "u" else _State.STRING
            self._hex_left = 4
            return char in 'u"\\/bfnrt'
        if self._state is _State.HEX:
            self._hex_left -= 1
            self._state = _State.HEX if self._hex_left else _State.STRING
            return char in _HEX
        expected, self._literal_left = self._literal_left[0], self._literal_left[1:]
        if char != expected:
            return False
        if self._literal_left:
            return True
        self._state = _State.AFTER
        return self._end_token(self._at + 1)

    def _continues_number(self, char: str) -> bool:
        return (self._state, char) in _OTHER_MOVES or (char in _DIGITS and self._state in _DIGIT_MOVES)

    def _step_number(self, char: str) -> bool:
        moved = _OTHER_MOVES.get((self._state, char))
        if moved is None and char in _DIGITS:
            moved = _DIGIT_MOVES.get(self._state)
        self._state = moved or self._state
        return moved is not None
