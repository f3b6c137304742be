"""What the deltas of an answer contain: bytes of content, nothing, a refusal, a blank choice. Pure."""

from collections.abc import Sequence
from typing import Final

from gateway.types import Delta

_CONTENT_FILTER: Final = "content_filter"


def bytes_of_content(delta: Delta) -> int:
    """Bytes of content in a delta. The first chunk of a stream usually carries a role and no content.

    White space alone is none: a response that begins with it and never ends falls back while nothing has been sent.
    """
    return sum(
        (0 if piece.text.isspace() else len(piece.text.encode("utf-8", "surrogatepass")))
        + len(piece.refusal)
        + piece.other_bytes
        + sum(len(call.name) + len(call.arguments) for call in piece.tool_calls)
        for piece in delta.pieces
    )


def is_empty(delta: Delta) -> bool:
    """Whether leaving out a delta of a stream changes nothing."""
    return delta.usage is None and not any(
        piece.text or piece.refusal or piece.tool_calls or piece.finish_reason or piece.other_bytes
        for piece in delta.pieces
    )


def is_refusal(deltas: Sequence[Delta]) -> bool:
    """Whether every choice is a refusal, by the model or by a content filter."""
    found: set[int] = set()
    declined: set[int] = set()
    for delta in deltas:
        for piece in delta.pieces:
            is_declined = piece.refusal or piece.finish_reason == _CONTENT_FILTER
            (declined if is_declined else found).add(piece.index)
    return bool(declined) and found <= declined


def has_blank_choice(deltas: Sequence[Delta], *, may_be_empty: bool = False) -> bool:
    """Whether a choice has neither visible text nor any other content. With `may_be_empty`, only one of white space is
    blank."""
    filled: dict[int, bool] = {}
    spaced: set[int] = set()
    for delta in deltas:
        for piece in delta.pieces:
            has_content = bool(piece.text.strip() or piece.refusal or piece.tool_calls or piece.other_bytes)
            filled[piece.index] = filled.get(piece.index, False) or has_content
            if piece.text:
                spaced.add(piece.index)
    return any(not is_filled and (index in spaced or not may_be_empty) for index, is_filled in filled.items())
