"""Placeholders of control tokens: bytes that occur in no UTF-8 text represent them, so that one byte automaton can
require both.

A vocabulary prepared for token compilation maps these tokens to their placeholders, and no other token may spell one.
"""

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Final

FIRST_PLACEHOLDER: Final = 0xF8  # bytes from here on occur in no UTF-8


class Placeholder(IntEnum):
    """The role of a control token in an answer, as a byte."""

    THOUGHT_OPENS = 0xF8
    THOUGHT_CLOSES = 0xF9
    CALL_OPENS = 0xFA
    CALL_CLOSES = 0xFB
    QUOTE = 0xFC  # around the strings of a call


def with_placeholders(tokens: Sequence[bytes], placeholders: Mapping[int, Placeholder]) -> list[bytes]:
    """[vocab] the bytes of every token: placeholders for the ids in `placeholders`, empty for tokens that no text can
    contain."""
    plain = (b"" if any(byte >= FIRST_PLACEHOLDER for byte in token) else token for token in tokens)
    return [bytes((placeholders[token],)) if token in placeholders else spelled for token, spelled in enumerate(plain)]
