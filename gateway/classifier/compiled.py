"""The task model in C (`_native.c`), where it was built: the same results as `features` and `model`, about ten times as
fast. An installation without a C compiler has no such module and computes in Python.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from gateway.classifier import features, tokens
from twolane.process.native import load_native

if TYPE_CHECKING:
    from gateway.classifier.model import Parts

# Of a system prompt, a user message, the user message before, and the answer between: the number of the task, the
# probabilities of all tasks, and the numbers of the strongest words. None for a message without words.
Scored = tuple[int, tuple[float, ...], list[int]]
Score = Callable[[str, str, str, str], Scored | None]

_DENIES: Final = 1
_DENIES_BEFORE: Final = 2
_CANCELS: Final = 4
_THAN: Final = 8
_RATHER: Final = 16
_LEADS: Final = 32

_NATIVE: Final = load_native("gateway.classifier._native", VERSION=features.VERSION, HASH_BITS=features.HASH_BITS)
IS_BUILT: Final = _NATIVE is not None


def scorer(parts: "Parts") -> Score:
    """The compiled scores of a model. Raises RuntimeError if the module is not built."""
    if _NATIVE is None:
        raise RuntimeError("the compiled classifier is not built")
    vocabulary = parts.vocabulary
    score: Score = _NATIVE.Scorer(
        words=vocabulary.numbers_by_token,
        pairs=dict.fromkeys(vocabulary.pairs, 0),
        open_words=dict.fromkeys(features.OPEN_WORDS, 0),
        numbers=(len(vocabulary.names), len(tokens.BREAKS), tokens.FIRST_SIGN, tokens.FIRST_WORD, parts.structured),
        sharpness=parts.sharpness,
        parts={
            "special": _special(vocabulary).tobytes(),
            "salts": features.SALTS.tobytes(),
            "scales": parts.scales.tobytes(),
            "open_signs": "".join(sorted(features.OPEN_SIGNS)),
            "open_chars": "".join(sorted(features.OPEN_CHARS)),
            "closing": "".join(sorted(features.CLOSING)),
            "hashes": vocabulary.hashes.tobytes(),
            "classes": vocabulary.classes.tobytes(),
            "flags": _flags(vocabulary).tobytes(),
            "table": parts.table.tobytes(),
        },
    )
    return score


def _special(vocabulary: tokens.Vocabulary) -> npt.NDArray[np.intc]:
    """The numbers of tokens that stand for others, in the order of the C source."""
    shapes = (
        f"<{shape}>" for shape in ("negated", "unknown", "foreign", "name_like", "sign", "0", "00", "000", "0000")
    )
    names = (tokens.GAP, "\n", "\n\n", *shapes)
    return np.array([vocabulary.numbers_by_token[name] for name in names], dtype=np.intc)


def _flags(vocabulary: tokens.Vocabulary) -> npt.NDArray[np.uint8]:
    """What a word means for the negation of others, and whether a unit's first word may be it."""
    found = vocabulary.denies * np.uint8(_DENIES) + vocabulary.leads * np.uint8(_LEADS)
    for at, name in enumerate(vocabulary.names):
        found[at] |= _DENIES_BEFORE * (name in tokens.DENIES_BEFORE) | _CANCELS * (name in tokens.CANCELLED_BY)
        found[at] |= _THAN * (name == "than") | _RATHER * (name == "rather")
    return found.astype(np.uint8)
