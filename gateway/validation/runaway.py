"""Detects output that runs away: white space, the digits of one number, or one token over and over.

The last `WINDOW` characters are examined every `STEP` characters, so a run is found within 4 KB of its start, and the
cost per character is constant. Repetition is found by the smallest period of the window. Equal elements of a list or
table are progress, so they are a run only from `LONG_RUN` characters on, and never in an array whose length the schema
limits.
"""

import re
from collections.abc import Callable
from enum import Enum, auto
from typing import Final

from gateway.validation.json_prefix import WHITE_SPACE

WINDOW: Final = 3584  # characters that a run must fill
STEP: Final = 256  # characters between two checks: WINDOW + 2 * STEP are 4 KB
MAX_PERIOD: Final = 16  # characters of a repeated token, or of an element with its separator
LONG_RUN: Final = 1 << 16  # characters of a run of equal elements, or of one alphabet: base64 of zeros
_PROBE: Final = 32  # characters that find a candidate for the period
_ESCAPED_WHITE: Final = " \t\n\r\\ntr"  # white space inside a JSON string is escaped
_NUMBER: Final = "0123456789+-.eE"
_ESCAPE: Final = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_CONTROLS: Final = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_BINARY: Final = re.compile(r"[A-Za-z0-9+/=_-]+")  # base64, base64url, hexadecimal, DNA, lines of = or -
_ROW: Final = re.compile(r"\d|[,;|\t\n]")  # of a list or a table: a number, or something separated
_BRACKETS: Final = frozenset("[]{}")


class Elements(Enum):
    """What the schema says about the elements of the innermost open array."""

    UNKNOWN = auto()  # any number of them
    LIMITED = auto()  # their number is limited, or more of them are required
    UNDECLARED = auto()  # the array belongs to a member that the schema does not mention


class RunawayDetector:
    """`feed` the chunks of one text. `is_json`: the text is JSON; otherwise it is plain text. `elements` is called with
    a number of levels: whether the number of elements is known in one of so many of the innermost open arrays."""

    __slots__ = ("_elements", "_fed", "_in_string", "_is_escaped", "_is_json", "_pending", "_repeated", "_tail")

    def __init__(self, *, is_json: bool, elements: Callable[[int], Elements] = lambda _: Elements.UNKNOWN) -> None:
        self._is_json = is_json
        self._elements = elements
        self._pending: list[str] = []
        self._fed = 0  # characters in `_pending`
        self._tail = ""
        self._in_string = False
        self._is_escaped = False  # the next character is escaped
        self._repeated = 0  # characters for which the window has been periodic

    def feed(self, chunk: str) -> str | None:
        """What runs away, as a keyword, or None."""
        self._pending.append(chunk)
        self._fed += len(chunk)
        if self._fed < STEP:
            return None
        text = "".join(self._pending)
        self._pending, self._fed = [], 0
        for at in range(0, len(text), STEP):
            found = self._check(text[at : at + STEP])
            if found is not None:
                return found
        return None

    def _check(self, step: str) -> str | None:
        if self._is_json:
            self._follow_strings(step)
        tail = self._tail = (self._tail + step)[-WINDOW:]
        if len(tail) < WINDOW:
            return None
        if not tail.strip(_ESCAPED_WHITE if self._in_string else WHITE_SPACE):
            return "whitespace_runaway"
        if self._is_json and not self._in_string and not tail.strip(_NUMBER):
            return "number_runaway"
        return self._check_repetition(tail, len(step))

    def _check_repetition(self, tail: str, step: int) -> str | None:
        period = _period(tail)
        if not period:
            self._repeated = 0
            return None
        self._repeated = self._repeated + step if self._repeated else WINDOW
        limit = self._limit_of(tail[:period])
        return "repetition_runaway" if limit is not None and self._repeated >= limit else None

    def _limit_of(self, unit: str) -> int | None:
        """How many characters of this repeated unit are a run; None: any number is plausible."""
        if not self._is_json:
            return _limit_of_text(unit)
        if _ESCAPE.sub("", self._tail).count('"') > 1:  # several strings: rows of a table
            return None
        return _limit_of_text(_unescaped(unit)) if self._in_string else self._limit_of_elements(unit)

    def _limit_of_elements(self, unit: str) -> int | None:
        """Of equal elements of an array: numbers, literals, empty arrays or empty objects."""
        is_scalar = _BRACKETS.isdisjoint(unit)
        content = len(unit.translate(_NO_WHITE))
        if not is_scalar and content > len("[],"):
            return None  # rows of a table
        match self._elements(1 if is_scalar else 2):
            case Elements.LIMITED:
                self._repeated = 0
                return None
            case Elements.UNDECLARED if is_scalar:
                return WINDOW
        return LONG_RUN * len(unit) // max(1, content)  # indentation does not count

    def _follow_strings(self, step: str) -> None:
        """Track whether the text is inside a JSON string."""
        plain = _ESCAPE.sub("", step[1:] if self._is_escaped else step)
        self._is_escaped = plain.endswith("\\")
        if plain.count('"') % 2:
            self._in_string = not self._in_string


_NO_WHITE: Final = str.maketrans("", "", WHITE_SPACE)


def _period(text: str) -> int:
    """The smallest period of a text if it is at most MAX_PERIOD, else 0."""
    start = text[:_PROBE]
    period = text.find(start, 1, _PROBE + MAX_PERIOD)
    return period if period > 0 and text.startswith(text[period:]) else 0


def _limit_of_text(unit: str) -> int:
    """Of a unit that is repeated in a text: a word or a sign is a run earlier than a row or a piece of encoded data."""
    if unit.isspace():
        return WINDOW
    is_row = _ROW.search(unit) is not None and any(char.isalnum() or char == "\n" for char in unit)
    return LONG_RUN if is_row or _BINARY.fullmatch(unit) else WINDOW


def _unescaped(unit: str) -> str:
    """The characters of a unit that is repeated in a JSON string; it may begin within an escape."""
    at = next((at for at, char in enumerate(unit) if char == "\\" != unit[at - 1]), 0)
    return _ESCAPE.sub(_character, unit[at:] + unit[:at])


def _character(escape: re.Match[str]) -> str:
    if escape[1]:
        return chr(int(escape[1], 16))
    return _CONTROLS.get(escape[2], escape[2])
