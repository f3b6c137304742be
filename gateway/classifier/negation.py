"""Which words of a text are denied: what follows "don't", "without", "rather than", or stands before "nicht".

A rule of few words, not a parser: up to three words on, and never beyond a comma, a full stop or the like. What a
double negation says ("don't forget to translate") is not denied. Knows words by their hash alone, see `hashing`.
"""

from typing import Final

import numpy as np

from gateway.classifier.hashing import Places, Rows, places, word_hash

_REACH: Final = 3
_BEFORE: Final = (
    "don't dont not never no without avoid nor neither instead doesn't needn't mustn't shouldn't"  # English
    " no sin nunca não sem nunca non senza mai ne pas sans jamais"  # Spanish, Portuguese, Italian, French
    " kein keine keinen ohne geen zonder nie bez не без ikke uten utan"  # German, Dutch, Slavic, Scandinavian
).split()
_BEHIND: Final = ("nicht", "niet", "inte")  # their verb stands in front
_ONLY_AFTER: Final = {"than": "rather"}
_LIFTED_BY: Final = ("forget", "hesitate", "only", "just", "fail", "merely", "simply")
_BITS: Final = 16
_STOPS: Final = ".,;:!?\n\x00()—…"

_DENIES: Final = np.zeros(1 << _BITS, dtype=np.bool_)
_IS_STOP: Final = np.zeros(1 << 16, dtype=np.bool_)
_IS_STOP[[ord(stop) for stop in _STOPS]] = True


def _hashes(words: tuple[str, ...] | list[str]) -> frozenset[int]:
    return frozenset(map(word_hash, words))


_FORWARD: Final = _hashes(_BEFORE)
_BACKWARD: Final = _hashes(_BEHIND)
_LIFTS: Final = _hashes(_LIFTED_BY)
_PAIRED: Final = {word_hash(word): word_hash(before) for word, before in _ONLY_AFTER.items()}
_DENIES[places(np.array(sorted(_FORWARD | _BACKWARD | set(_PAIRED)), dtype=np.uint32), _BITS)] = True


def negated(words: Rows, codes: Rows, starts: Places) -> Places:
    """The places of the denied words among `words`, each of which begins at its start among the characters `codes`."""
    found = np.flatnonzero(_DENIES[places(words, _BITS)])
    if not found.size:
        return found
    stops = np.flatnonzero(_IS_STOP[np.minimum(codes, 0xFFFF)])
    clauses = np.searchsorted(stops, starts).tolist()
    said = words.tolist()
    denied: set[int] = set()
    for at in found.tolist():
        denied.update(place for place in _reach(said, at) if clauses[place] == clauses[at])
    return np.array(sorted(denied), dtype=np.intp)


def _reach(said: list[int], at: int) -> range:
    """The places that one word denies; none, if it only looks like one, or the next word lifts it."""
    word = said[at]
    if word in _BACKWARD:
        return range(max(0, at - _REACH), at)
    before, behind = said[at - 1] if at else 0, said[at + 1] if at + 1 < len(said) else 0
    if behind in _LIFTS or (word not in _FORWARD and _PAIRED.get(word) != before):
        return range(0)
    return range(at + 1, min(len(said), at + 1 + _REACH))
