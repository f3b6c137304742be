"""Features of a text for the linear model: hashed words, word pairs, character n-grams, and a few flags.

Every feature is a row number in the model's table. The computation is vectorised, because a Python loop over 200 words
would cost more than the rest of the gateway. Prefix sums of a polynomial hash give the hash of any span in two
operations (Rabin-Karp); see `hashing`.

A negated word ("don't summarize, explain") is hashed as a different word, as in sentiment analysis since Das and Chen
2001. The cost is bounded: of a long text, only the head and the tail are used.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from gateway.classifier.hashing import INVERSES, MAX_CODES, POWERS, Indices, Rows, hash_buckets
from gateway.classifier.negation import negated

Floats = npt.NDArray[np.float32]

VERSION: Final = 2  # of the features; weights are valid only for the version they were trained with
HASH_BITS: Final = 15
FLAGS: Final = 32  # rows after the hashed ones, one for each flag
TABLE_ROWS: Final = (1 << HASH_BITS) + FLAGS

_HEAD_CHARS: Final = 500  # of the last user message
_TAIL_CHARS: Final = 400
_SYSTEM_CHARS: Final = 240
_EDGE_WORDS: Final = 12  # the first and last words are also hashed separately: instructions are at the edges
_GAP: Final = "\x00"  # separates the parts, so that no word spans two of them

_IS_WORD: Final = np.array([chr(code).isalnum() or chr(code) == "'" for code in range(1 << 16)], dtype=np.bool_)
_NGRAMS: Final = (2, 3, 5)  # lengths of the character n-grams
_ZERO: Final = np.uint32(ord("0"))
_NOT: Final = np.uint32(0x2545F491)
_SPACELESS: Final = 0x0E00  # from Thai on, scripts are mostly written without spaces between words
_SALTS: Final = tuple(np.uint32(salt) for salt in (0x85EBCA6B, 0xC2B2AE35, 0x27D4EB2F, 0x165667B1, 0xD3A2646D))


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """Rows of the model's table and their weights; `words[i]` is the hash of the word of row i.

    `rows` and `weights` have shape [features]; only the first `words.size` rows represent words, `own_words` of them
    from the user. `edges` are the hashes of the user's first and last words, in scripts that separate words by spaces.
    """

    rows: Rows
    weights: Floats
    words: Rows
    own_words: int
    edges: tuple[Rows, Rows]


def features(*, system: str, user: str) -> Features:
    """The features of a request's texts. Accepts any text, in bounded time."""
    head, tail = _ends(user)
    above = system[:_SYSTEM_CHARS].replace(_GAP, " ")
    text = f"{above}{_GAP}{head}{_GAP}{tail}".lower().replace("’", "'")[: MAX_CODES - 1]
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    sums = np.zeros(codes.size + 1, dtype=np.uint32)
    np.add.accumulate(codes * POWERS[: codes.size], out=sums[1:])
    words, starts, ends = _words(codes, sums)
    border = text.index(_GAP)
    of_system = int(starts.searchsorted(border)) if border else 0
    own = words[of_system:]
    spaced = own[codes[starts[of_system:]] < _SPACELESS]
    ngrams = [(sums[n:] - sums[:-n]) * INVERSES[: max(0, sums.size - n)] for n in _NGRAMS if sums.size > n]
    denied = negated(words, codes, starts)
    if denied.size:
        words = words.copy()
        words[denied] *= _NOT
        own = words[of_system:]
        ngrams = _without(ngrams, codes.size, starts[denied], ends[denied])
    groups = [
        words[:of_system] * _SALTS[0],
        own,
        own[:_EDGE_WORDS] * _SALTS[1],
        own[-_EDGE_WORDS:] * _SALTS[2],
        own[:-1] * _SALTS[3] + own[1:],
        *(ngram ^ _SALTS[4] for ngram in ngrams),
    ]
    rows = hash_buckets(np.concatenate(groups), HASH_BITS)
    flags = _flags(system, user, head, tail, digits=int(np.count_nonzero(codes[border:] - _ZERO < 10)))
    sizes = [group.size for group in groups]
    weights = [1.0 / max(1, size) ** 0.5 for size in sizes]
    spoken = np.concatenate([words, own[:_EDGE_WORDS], own[-_EDGE_WORDS:]])
    return Features(
        rows=np.concatenate([rows, np.array(flags, dtype=np.uint32) + np.uint32(1 << HASH_BITS)]),
        weights=np.repeat(np.array([*weights, 0.5], dtype=np.float32), [*sizes, len(flags)]),
        words=spoken,
        own_words=own.size,
        edges=(spaced[:_EDGE_WORDS], spaced[-_EDGE_WORDS:]),
    )


def _ends(text: str) -> tuple[str, str]:
    """Head and tail of a text; a short text has no tail."""
    if len(text) <= _HEAD_CHARS + _TAIL_CHARS:
        return text, ""
    return text[:_HEAD_CHARS], text[-_TAIL_CHARS:]


def _words(codes: Rows, sums: Rows) -> tuple[Rows, Indices, Indices]:
    """Hashes of all words in order, and the start and end index of each."""
    inside = np.zeros(codes.size + 2, dtype=np.bool_)
    _IS_WORD.take(codes, mode="clip", out=inside[1:-1])
    borders = (inside[1:] != inside[:-1]).nonzero()[0]
    starts, ends = borders[::2], borders[1::2]
    return (sums[ends] - sums[starts]) * INVERSES[starts], starts, ends


def _without(ngrams: list[Rows], size: int, starts: Indices, ends: Indices) -> list[Rows]:
    """The n-grams that overlap none of the given (negated) words, whose letters would still speak for the task."""
    steps = np.zeros(size + 1, dtype=np.int32)
    steps[starts] += 1
    steps[ends] -= 1
    touched = np.concatenate([[0], np.cumsum(np.cumsum(steps[:-1]))])
    return [ngram[touched[n:] == touched[:-n]] for n, ngram in zip(_NGRAMS, ngrams, strict=False)]


def _flags(system: str, user: str, head: str, tail: str, *, digits: int) -> list[int]:
    """Structural properties of the text. A flag's number must never change: weights are trained with it."""
    end = (tail or head).rstrip()
    seen = head + tail
    letters = max(1, len(seen))
    present = (
        True,
        bool(system),
        end.endswith("?"),
        "?" in seen,
        seen.count("```") == 2,
        seen.count("```") > 2,
        end.endswith("```"),
        head.lstrip()[:1] in ("{", "["),
        end.endswith(("}", "]")),
        '"type"' in seen,
        digits * 20 > letters,
        digits * 4 > letters,
        not seen.isascii(),
        "\n" in seen,
        "\n\n" in seen,
        len(user) < 40,
        len(user) < 160,
        seen.count("\n") * 30 > letters,
        not seen.strip(),
        end.endswith((":", ">")),
        end.endswith((";", "(", "{", "=", ",")),
        "\n    " in seen or "\n\t" in seen or "\n  " in seen,
    )
    return [number for number, is_set in enumerate(present) if is_set]
