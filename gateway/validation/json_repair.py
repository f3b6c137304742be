"""Mends JSON whose syntax is unambiguously unclosed, and nothing else: what was meant must not be a guess.

Mended are a Markdown fence around the whole text, commas before closing brackets, and brackets missing at the end.
Not mended are strings and words cut short, missing values, missing commas: each could be closed in more than one way.
Knows syntax only; whether the mended text is any good is judged as if it had come so.
"""

import re
from typing import Final

from gateway.validation.json_prefix import JsonPrefix

_FENCE: Final = "```"
# Strings, to pass over them; and a comma between the end of a value and a closing bracket.
_LOOSE_COMMA: Final = re.compile(r'"(?:[^"\\]++|\\.)*+"?|(?<=["\]}\w])[ \t\r\n]*+,(?=[ \t\r\n]*+[\]}])', re.DOTALL)
MOST_CHARS: Final = 1 << 15  # longer texts would hold up everybody else


def mend(text: str) -> str | None:
    """The text as JSON, or None if it is JSON as it stands or cannot be mended."""
    if len(text) > MOST_CHARS:
        return None
    inside = _unfenced(text)
    closing = _closing(inside)
    if closing is None:
        inside = _LOOSE_COMMA.sub(lambda found: found[0] if found[0].startswith('"') else "", inside)
        closing = _closing(inside)
    mended = None if closing is None else inside + closing
    return None if mended == text else mended


def _unfenced(text: str) -> str:
    """What stands between the fences, if that is all of the text; the second one may be missing."""
    first, _, rest = text.strip().partition("\n")
    language = first.removeprefix(_FENCE).strip()
    if not first.startswith(_FENCE) or (language and not language.isalnum()):
        return text
    inside = rest.rstrip().removesuffix(_FENCE).strip()
    return text if _FENCE in inside else inside


def _closing(text: str) -> str | None:
    reader = JsonPrefix()
    reader.feed(text)
    return reader.closing
