"""Repair of JSON syntax where the intended document is unambiguous.

Repaired: a Markdown fence around the whole text, commas before closing brackets, closing brackets missing at the end.
Not repaired: truncated strings and literals, missing values and missing commas, which have more than one completion.
The repaired text is validated like any other.
"""

import re
from typing import Final

from gateway.validation.json_prefix import JsonPrefix

_FENCE: Final = "```"
# Strings, which are kept; and a comma between the end of a value and a closing bracket.
_LOOSE_COMMA: Final = re.compile(r'"(?:[^"\\]++|\\.)*+"?|(?<=["\]}\w])[ \t\r\n]*+,(?=[ \t\r\n]*+[\]}])', re.DOTALL)
MAX_CHARS: Final = 1 << 15  # longer texts would block the event loop


def repair(text: str) -> str | None:
    """The repaired text, or None if it needs no repair or cannot be repaired."""
    if len(text) > MAX_CHARS:
        return None
    inside = _unfenced(text)
    closing = _closing(inside)
    if closing is None:
        inside = _LOOSE_COMMA.sub(lambda found: found[0] if found[0].startswith('"') else "", inside)
        closing = _closing(inside)
    repaired = None if closing is None else inside + closing
    return None if repaired == text else repaired


def _unfenced(text: str) -> str:
    """The text inside a Markdown fence that encloses all of it; the closing fence may be missing."""
    first, _, rest = text.strip().partition("\n")
    language = first.removeprefix(_FENCE).strip()
    if not first.startswith(_FENCE) or (language and not language.isalnum()):
        return text
    inside = rest.rstrip().removesuffix(_FENCE).strip()
    return text if _FENCE in inside else inside


def _closing(text: str) -> str | None:
    prefix = JsonPrefix()
    prefix.feed(text)
    return prefix.closing
