"""The hash of a word: a polynomial over its code points modulo 2^32 (Rabin-Karp), the same in every process.

Prefix sums of it give the hash of any span in two operations; Python's own hash of text is salted. Knows no features.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.uint32]
Places = npt.NDArray[np.intp]

MOST_CODES: Final = 4 * (500 + 400 + 240 + 64)
_PRIME: Final = 0x01000193  # FNV's; any odd number has an inverse modulo 2^32
POWERS: Final = np.array([pow(_PRIME, n, 1 << 32) for n in range(MOST_CODES)], dtype=np.uint32)
INVERSES: Final = np.array([pow(_PRIME, -n, 1 << 32) for n in range(MOST_CODES)], dtype=np.uint32)
MIX: Final = np.uint32(0x9E3779B1)  # Knuth's golden ratio: spreads the low bits into the high ones


def word_hash(word: str) -> int:
    """The hash that a word has, alone or in a text."""
    return sum(ord(char) * int(POWERS[at]) for at, char in enumerate(word.lower())) & 0xFFFFFFFF


def places(hashes: Rows, bits: int) -> Rows:
    """Where words have their place in a table of 2^bits rows."""
    return (hashes * MIX) >> np.uint32(32 - bits)
