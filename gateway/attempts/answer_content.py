"""What the deltas of an answer contain: bytes of content, nothing, a refusal, a blank choice. Pure."""

import re
from collections.abc import Sequence
from typing import Final

from gateway.types import Delta, Piece

_CONTENT_FILTER: Final = "content_filter"
# Any character but white space, controls, and Unicode's other characters without a glyph (format characters, fillers,
# variation selectors, the empty Braille pattern).
_VISIBLE: Final = re.compile(
    "[^\\s\\0-\\x1f\\x7f-\\xa0\\xad\\u034f\\u061c\\u115f\\u1160\\u17b4\\u17b5\\u180b-\\u180f\\u200b-\\u200f\\u202a-\\u202e"
    "\\u2060-\\u206f\\u2800\\u3164\\ufe00-\\ufe0f\\ufeff\\uffa0\\ufff9-\\ufffb\\U000e0000-\\U000e0fff]"
)
# In what a target sends: its reasoning, and what else the gateway does not interpret.
_REASONING: Final = re.compile(rb'"(?:reasoning(?:_content)?"|(?:response\.)?reasoning[._])')
_BESIDE_REASONING: Final = re.compile(rb'"(?:audio|function_call)"\s*:\s*[^n\s]')


def bytes_of_content(delta: Delta) -> int:
    """Bytes of content in a delta. The first chunk of a stream usually carries a role and no content.

    White space alone is none: a response that begins with it and never ends falls back while nothing has been sent.
    """
    size = 0
    for piece in delta.pieces:
        text = piece.text
        if text and not text.isspace():
            size += len(text.encode("utf-8", "surrogatepass"))
        size += len(piece.refusal) + piece.other_bytes
        for call in piece.tool_calls:
            size += len(call.name) + len(call.arguments)
    return size


def is_empty(delta: Delta) -> bool:
    """Whether leaving out a delta of a stream changes nothing."""
    return delta.usage is None and not any(
        piece.text or piece.refusal or piece.tool_calls or piece.finish_reason or piece.other_bytes
        for piece in delta.pieces
    )


def is_refusal(deltas: Sequence[Delta]) -> bool:
    """Whether every choice is a refusal, by the model or by a content filter."""
    if len(deltas) == 1 and len(pieces := deltas[0].pieces) == 1:
        piece = pieces[0]
        return bool(piece.refusal) or piece.finish_reason == _CONTENT_FILTER
    found: set[int] = set()
    declined: set[int] = set()
    for delta in deltas:
        for piece in delta.pieces:
            is_declined = piece.refusal or piece.finish_reason == _CONTENT_FILTER
            (declined if is_declined else found).add(piece.index)
    return bool(declined) and found <= declined


def has_blank_choice(deltas: Sequence[Delta], *, may_be_empty: bool = False) -> bool:
    """Whether a choice has neither visible text nor any other content than reasoning. With `may_be_empty`, a choice
    without any text is not blank."""
    filled: dict[int, bool] = {}
    spaced: set[int] = set()
    for delta in deltas:
        for piece in delta.pieces:
            filled[piece.index] = filled.get(piece.index, False) or _is_visible(piece, delta)
            if piece.text:
                spaced.add(piece.index)
    return any(not is_filled and (index in spaced or not may_be_empty) for index, is_filled in filled.items())


def _is_visible(piece: Piece, delta: Delta) -> bool:
    if piece.refusal or piece.tool_calls or _VISIBLE.search(piece.text):
        return True
    if not piece.other_bytes:
        return False
    data = delta.data + delta.original
    return _REASONING.search(data) is None or _BESIDE_REASONING.search(data) is not None
