"""Control tokens inside a text: bytes that no UTF-8 holds stand for them, so one automaton of bytes can ask for both.

Whoever reads a vocabulary for lifting gives these tokens their mark for bytes, and hides what else would spell one.
"""

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Final

FIRST_PLACEHOLDER: Final = 0xF8  # the bytes from here on are in no UTF-8, nor is anything that begins with them


class Placeholder(IntEnum):
    """What a control token means in an answer, as a byte."""

    THOUGHT_OPENS = 0xF8
    THOUGHT_CLOSES = 0xF9
    CALL_OPENS = 0xFA
    CALL_CLOSES = 0xFB
    QUOTE = 0xFC  # around the strings of a call


def with_placeholders(tokens: Sequence[bytes], placeholders: Mapping[int, Placeholder]) -> list[bytes]:
    """[vocab] the bytes of every token for lifting: of those in `placeholders` (by id) their mark, of others as they are, but
    none for tokens that no text can hold."""
    plain = (b"" if any(byte >= FIRST_PLACEHOLDER for byte in token) else token for token in tokens)
    return [bytes((placeholders[token],)) if token in placeholders else spelled for token, spelled in enumerate(plain)]
