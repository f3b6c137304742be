"""Detects output that runs away: white space, the digits of one number, or one token over and over.

The last `WINDOW` characters are examined every `STEP` characters, so a run is found within 4 KB of its start, and the
cost per character is constant. Repetition is found by the smallest period of the window. What real documents contain is
no run: deep indentation, long strings, base64 (also of zeros), arrays of numbers, tables of equal rows.
"""

import re
from typing import Final

WINDOW: Final = 3584  # characters that a run must fill
STEP: Final = 256  # characters between two checks: WINDOW + 2 * STEP are 4 KB
MAX_PERIOD: Final = 16  # characters of a repeated token
_MAX_SCALAR_PERIOD: Final = 8  # of a scalar with its comma outside strings; longer ones are rows of a table
_MAX_EMPTY_PERIOD: Final = 4  # of `[],` and the like
LONG_RUN: Final = 1 << 16  # characters of a run that is plausible when shorter: base64 of zeros, empty rows
_PROBE: Final = 32  # characters that find a candidate for the period
_WHITE: Final = " \t\n\r"
_ESCAPED_WHITE: Final = " \t\n\r\\ntr"  # white space inside a JSON string is escaped
_NUMBER: Final = "0123456789+-.eE"
_ESCAPE: Final = re.compile(r"\\.", re.DOTALL)
_BINARY: Final = re.compile(r"[A-Za-z0-9+/=_-]+")  # base64, base64url, hexadecimal
_BRACKETS: Final = frozenset("[]{}")


class RunawayDetector:
    """`feed` the chunks of one text. `is_json`: the text is JSON; otherwise it is plain text."""

    __slots__ = ("_fed", "_in_string", "_is_escaped", "_is_json", "_pending", "_repeated", "_tail")

    def __init__(self, *, is_json: bool) -> None:
        self._is_json = is_json
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
        if not tail.strip(_ESCAPED_WHITE if self._in_string else _WHITE):
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
            return WINDOW
        if _ESCAPE.sub("", self._tail).count('"') > 1:  # several strings: rows of a table
            return None
        if self._in_string:
            return LONG_RUN if _BINARY.fullmatch(unit) else WINDOW
        if _BRACKETS.isdisjoint(unit):
            return WINDOW if len(unit) <= _MAX_SCALAR_PERIOD else None
        return LONG_RUN if len(unit) <= _MAX_EMPTY_PERIOD else None

    def _follow_strings(self, step: str) -> None:
        """Track whether the text is inside a JSON string."""
        plain = _ESCAPE.sub("", step[1:] if self._is_escaped else step)
        self._is_escaped = plain.endswith("\\")
        if plain.count('"') % 2:
            self._in_string = not self._in_string


def _period(text: str) -> int:
    """The smallest period of a text if it is at most MAX_PERIOD, else 0."""
    start = text[:_PROBE]
    period = text.find(start, 1, _PROBE + MAX_PERIOD)
    return period if period > 0 and text.startswith(text[period:]) else 0
