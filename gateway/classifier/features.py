"""What a text looks like to the linear model: hashed words, pairs of words, runs of characters, and a few marks.

Every feature is a row number in the model's table. All of it is arithmetic on whole arrays, since a loop over 200 words
would cost more than the rest of the gateway; the hash is a polynomial over code points modulo 2^32, whose prefix sums
give the hash of any span in two operations (Rabin-Karp), so it is the same in every process.

A word that is denied ("don't summarize, explain") is another word, as in sentiment analysis since Das and Chen 2001.

Knows neither tasks nor weights. Bounded: of a long text only the head and the tail are seen.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from gateway.classifier.hashing import INVERSES, MOST_CODES, POWERS, Places, Rows, places
from gateway.classifier.negation import negated

Floats = npt.NDArray[np.float32]

VERSION: Final = 2  # of the features: weights fit only the version they were trained with
HASH_BITS: Final = 15
MARKS: Final = 32  # rows behind the hashed ones, one for each mark
TABLE_ROWS: Final = (1 << HASH_BITS) + MARKS

_HEAD_CHARS: Final = 500  # of the last user turn
_TAIL_CHARS: Final = 400
_SYSTEM_CHARS: Final = 240
_EDGE_WORDS: Final = 12  # the first and the last words weigh as such: instructions stand at the edges
_GAP: Final = "\x00"  # between the parts: no word reaches over it

_IS_WORD: Final = np.array([chr(code).isalnum() or chr(code) == "'" for code in range(1 << 16)], dtype=np.bool_)
_RUNS: Final = (2, 3, 5)  # lengths of the runs of characters
_ZERO: Final = np.uint32(ord("0"))
_NOT: Final = np.uint32(0x2545F491)
_SPACELESS: Final = 0x0E00  # from Thai on, scripts are mostly written without spaces between words
_SALTS: Final = tuple(np.uint32(salt) for salt in (0x85EBCA6B, 0xC2B2AE35, 0x27D4EB2F, 0x165667B1, 0xD3A2646D))


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """Rows of the model's table with the weight of each; `words[i]` is the hash of the word that row i speaks of.

    `rows` and `weights` are [features]; only the first `words.size` rows speak of a word. `own_words` of them are the
    user's. `edges` are the hashes of the user's first and of the last words, where instructions stand, as far as they
    are words between spaces: what Chinese or Thai write between two signs is a sentence.
    """

    rows: Rows
    weights: Floats
    words: Rows
    own_words: int
    edges: tuple[Rows, Rows]


def features(*, system: str, user: str) -> Features:
    """Never fails, whatever the text; the time is bounded by the part that is seen."""
    head, tail = _ends(user)
    above = system[:_SYSTEM_CHARS].replace(_GAP, " ")
    text = f"{above}{_GAP}{head}{_GAP}{tail}".lower().replace("’", "'")[: MOST_CODES - 1]
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    sums = np.zeros(codes.size + 1, dtype=np.uint32)
    np.add.accumulate(codes * POWERS[: codes.size], out=sums[1:])
    words, starts, ends = _words(codes, sums)
    border = text.index(_GAP)
    of_system = int(starts.searchsorted(border)) if border else 0
    own = words[of_system:]
    spaced = own[codes[starts[of_system:]] < _SPACELESS]
    runs = [(sums[n:] - sums[:-n]) * INVERSES[: max(0, sums.size - n)] for n in _RUNS if sums.size > n]
    no = negated(words, codes, starts)
    if no.size:
        words = words.copy()
        words[no] *= _NOT
        own = words[of_system:]
        runs = _without(runs, codes.size, starts[no], ends[no])
    groups = [
        words[:of_system] * _SALTS[0],
        own,
        own[:_EDGE_WORDS] * _SALTS[1],
        own[-_EDGE_WORDS:] * _SALTS[2],
        own[:-1] * _SALTS[3] + own[1:],
        *(run ^ _SALTS[4] for run in runs),
    ]
    rows = places(np.concatenate(groups), HASH_BITS)
    marks = _marks(system, user, head, tail, digits=int(np.count_nonzero(codes[border:] - _ZERO < 10)))
    sizes = [group.size for group in groups]
    weights = [1.0 / max(1, size) ** 0.5 for size in sizes]
    spoken = np.concatenate([words, own[:_EDGE_WORDS], own[-_EDGE_WORDS:]])
    return Features(
        rows=np.concatenate([rows, np.array(marks, dtype=np.uint32) + np.uint32(1 << HASH_BITS)]),
        weights=np.repeat(np.array([*weights, 0.5], dtype=np.float32), [*sizes, len(marks)]),
        words=spoken,
        own_words=own.size,
        edges=(spaced[:_EDGE_WORDS], spaced[-_EDGE_WORDS:]),
    )


def _ends(text: str) -> tuple[str, str]:
    """Head and tail; a short text is all head."""
    if len(text) <= _HEAD_CHARS + _TAIL_CHARS:
        return text, ""
    return text[:_HEAD_CHARS], text[-_TAIL_CHARS:]


def _words(codes: Rows, sums: Rows) -> tuple[Rows, Places, Places]:
    """Hashes of all words in order, where each begins, and where it ends."""
    inside = np.zeros(codes.size + 2, dtype=np.bool_)
    _IS_WORD.take(codes, mode="clip", out=inside[1:-1])
    borders = (inside[1:] != inside[:-1]).nonzero()[0]
    starts, ends = borders[::2], borders[1::2]
    return (sums[ends] - sums[starts]) * INVERSES[starts], starts, ends


def _without(runs: list[Rows], size: int, starts: Places, ends: Places) -> list[Rows]:
    """The runs of characters that touch none of the words given, whose letters would still say what they deny."""
    steps = np.zeros(size + 1, dtype=np.int32)
    steps[starts] += 1
    steps[ends] -= 1
    touched = np.concatenate([[0], np.cumsum(np.cumsum(steps[:-1]))])
    return [run[touched[n:] == touched[:-n]] for n, run in zip(_RUNS, runs, strict=False)]


def _marks(system: str, user: str, head: str, tail: str, *, digits: int) -> list[int]:
    """Marks that words cannot carry. A mark's number is for ever: weights are trained with it."""
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
    return [number for number, here in enumerate(present) if here]
