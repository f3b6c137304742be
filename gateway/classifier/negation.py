"""Negation detection: finds words after "don't", "without" or "rather than", or before "nicht".

A rule, not a parser: it covers up to three words and never crosses punctuation. Double negations ("don't forget to
translate") do not count. Words are compared by hash, see `hashing`.
"""

from typing import Final

import numpy as np

from gateway.classifier.hashing import Indices, Rows, hash_buckets, word_hash

_REACH: Final = 3
_BEFORE: Final = (
    "don't dont not never no without avoid nor neither instead doesn't needn't mustn't shouldn't"  # English
    " no sin nunca não sem nunca non senza mai ne pas sans jamais"  # Spanish, Portuguese, Italian, French
    " kein keine keinen ohne geen zonder nie bez не без ikke uten utan"  # German, Dutch, Slavic, Scandinavian
).split()
_BEHIND: Final = ("nicht", "niet", "inte")  # these follow their verb
_ONLY_AFTER: Final = {"than": "rather"}
_CANCELLED_BY: Final = ("forget", "hesitate", "only", "just", "fail", "merely", "simply")
_BITS: Final = 16
_STOPS: Final = ".,;:!?\n\x00()—…"

_DENIES: Final = np.zeros(1 << _BITS, dtype=np.bool_)
_IS_STOP: Final = np.zeros(1 << 16, dtype=np.bool_)
_IS_STOP[[ord(stop) for stop in _STOPS]] = True


def _hashes(words: tuple[str, ...] | list[str]) -> frozenset[int]:
    return frozenset(map(word_hash, words))


_FORWARD: Final = _hashes(_BEFORE)
_BACKWARD: Final = _hashes(_BEHIND)
_CANCELS: Final = _hashes(_CANCELLED_BY)
_PAIRED: Final = {word_hash(word): word_hash(before) for word, before in _ONLY_AFTER.items()}
_DENIES[hash_buckets(np.array(sorted(_FORWARD | _BACKWARD | set(_PAIRED)), dtype=np.uint32), _BITS)] = True


def negated(words: Rows, codes: Rows, starts: Indices) -> Indices:
    """The indices of the negated words in `words`; `starts` are the words' start indices in `codes`."""
    found = np.flatnonzero(_DENIES[hash_buckets(words, _BITS)])
    if not found.size:
        return found
    stops = np.flatnonzero(_IS_STOP[np.minimum(codes, 0xFFFF)])
    clauses = np.searchsorted(stops, starts).tolist()
    hashes = words.tolist()
    denied: set[int] = set()
    for at in found.tolist():
        denied.update(index for index in _scope(hashes, at) if clauses[index] == clauses[at])
    return np.array(sorted(denied), dtype=np.intp)


def _scope(hashes: list[int], at: int) -> range:
    """The indices that the word at `at` negates; empty after a hash collision, or if the next word cancels it."""
    word = hashes[at]
    if word in _BACKWARD:
        return range(max(0, at - _REACH), at)
    before, behind = hashes[at - 1] if at else 0, hashes[at + 1] if at + 1 < len(hashes) else 0
    if behind in _CANCELS or (word not in _FORWARD and _PAIRED.get(word) != before):
        return range(0)
    return range(at + 1, min(len(hashes), at + 1 + _REACH))
