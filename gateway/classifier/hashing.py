"""Word hash: a polynomial over code points modulo 2^32 (Rabin-Karp), the same in every process.

Its prefix sums give the hash of any span in two operations. Python's own string hash is salted and cannot be used.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.uint32]
Indices = npt.NDArray[np.intp]

MAX_CODES: Final = 4 * (880 + 480 + 200 + 40)
_PRIME: Final = 0x01000193  # FNV's; any odd number has an inverse modulo 2^32
POWERS: Final = np.array([pow(_PRIME, n, 1 << 32) for n in range(MAX_CODES)], dtype=np.uint32)
INVERSES: Final = np.array([pow(_PRIME, -n, 1 << 32) for n in range(MAX_CODES)], dtype=np.uint32)
MIX: Final = np.uint32(0x9E3779B1)  # Knuth's golden ratio: spreads the low bits into the high ones


def word_hash(word: str) -> int:
    """The hash of a word, equal to its hash inside a text."""
    return sum(ord(char) * int(POWERS[at]) for at, char in enumerate(word.lower())) & 0xFFFFFFFF


def hash_buckets(hashes: Rows, bits: int) -> Rows:
    """The buckets of hashes in a table of 2^bits rows."""
    return (hashes * MIX) >> np.uint32(32 - bits)
