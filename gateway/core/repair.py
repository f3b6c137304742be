"""Mends JSON whose syntax is unambiguously unclosed, and nothing else: what was meant must not be a guess.

Mended are a Markdown fence around the whole text, a comma before a closing bracket, and brackets missing at the end.
Not mended are strings and words cut short, missing values, missing commas: each could be closed in more than one way.
Knows syntax only; whether the mended text is any good is judged as if it had come so.
"""

import re
from typing import Final

from gateway.core.json_prefix import JsonPrefix

_FENCED: Final = re.compile(r"\s*```[A-Za-z0-9]*[ \t]*\n(.*?)\n?[ \t]*(?:```)?\s*", re.DOTALL)
_LOOSE_COMMA: Final = re.compile(r",(?=[ \t\r\n]*\Z)")
MOST_COMMAS: Final = 16
_MOST_CHARS: Final = 1 << 20


def mend(text: str) -> str | None:
    """The text as JSON, or None if it is JSON as it stands or cannot be mended."""
    if len(text) > _MOST_CHARS:
        return None
    fenced = _FENCED.fullmatch(text)
    inside = fenced[1] if fenced and "```" not in fenced[1] else text
    for _ in range(MOST_COMMAS + 1):
        reader = JsonPrefix()
        if reader.feed(inside):
            closing = reader.closing
            mended = None if closing is None else inside + closing
            return None if mended == text else mended
        shorter = _without_comma(inside, reader.fault_at)
        if shorter is None:
            return None
        inside = shorter
    return None


def _without_comma(text: str, at: int | None) -> str | None:
    """The text without the comma before the bracket at `at`, if these two are what is wrong."""
    assert at is not None
    if text[at] not in "]}":
        return None
    before, found = _LOOSE_COMMA.subn("", text[:at])
    return before + text[at:] if found else None
