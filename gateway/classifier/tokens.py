"""Tokens of a text for the task model: words, single characters of scripts without spaces, signs, and breaks.

A break ends a unit: a sentence, a line or a quoted span. A word that the vocabulary does not contain gets the token of
its longest known stem, otherwise that of its shape, so every text has tokens.
"""

import re
import zlib
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Final

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.intp]
Hashes = npt.NDArray[np.uint32]

CUT: Final = "\x01"  # stands for a fenced block
GAP: Final = "\x00"  # ends a message
_QUOTES: Final = '"“”„«»「」『』`'
# Breaks, in the order of their numbers. Several line ends are one break.
BREAKS: Final = ("\n", "\n\n", ".", "!", "?", ";", ":", '"', GAP, CUT)
_SIGNS: Final = tuple("(){}[]<>=+-*/|\\#@$%&~^_,'…→")
# Shapes of unknown words and of numbers.
_SHAPES: Final = ("negated", "unknown", "name_like", "foreign", "0", "00", "000", "0000", "sign")
NEGATED: Final = len(BREAKS)
FIXED: Final = (*BREAKS, *(f"<{shape}>" for shape in _SHAPES), *_SIGNS)
FIRST_NUMBER: Final = len(BREAKS) + _SHAPES.index("0")
FIRST_SIGN: Final = len(BREAKS) + len(_SHAPES)
FIRST_WORD: Final = len(FIXED)
STEM: Final = "~"  # ends a stem in the vocabulary
STEM_SIZES: Final = (6, 4)

# Negation: up to three words after one of these, within the unit. Those of the second list deny the words before them,
# unless they begin the unit.
_REACH: Final = 3
_BEFORE: Final = frozenset(
    (
        "don't dont not never no without avoid nor neither instead doesn't needn't mustn't shouldn't"  # English
        " no sin nunca não sem nunca non senza mai ne pas sans jamais"  # Spanish, Portuguese, Italian, French
        " kein keine keinen ohne geen zonder nie bez не без ikke uten utan"  # German, Dutch, Slavic, Scandinavian
        " لا ليس بدون دون बिना"  # Arabic, Hindi
    ).split()
)
DENIES_BEFORE: Final = frozenset(("nicht", "niet", "inte", "मत", "नहीं"))
CANCELLED_BY: Final = frozenset(("forget", "hesitate", "only", "just", "fail", "merely", "simply"))

# Words before the verb of an instruction: greetings, politeness, and modal verbs with their pronouns.
_OPENERS: Final = frozenset(
    (
        "please pls plz can could would you kindly hi hello hey now then also just ok okay so and i'd i like want need"
        " me to bitte kannst du könntest können sie puedes podrías por favor peux tu pouvez vous pourriez pourrais s'il"
        " te plaît stp svp você pode poderia puoi potresti per favore proszę czy możesz kun je kunt u"
        " пожалуйста можешь можете мне нужно hãy xin lütfen tolong"
        " कृपया क्या आप मुझे ज़रा من فضلك هل يمكنك ممكن أرجو رجاء لو سمحت"
    ).split()
)

_STOPS: Final = "。！？；：।॥۔؟؛"  # of scripts that have signs of their own
_SPACELESS: Final = "\u0e00-\u0e7f\u1000-\u109f\u1780-\u17ff\u3005-\u30ff\u3400-\u9fff\uac00-\ud7a3\uf900-\ufaff"
# Letters and combining marks of scripts with spaces, listed because a negated class would be slower; in lower case.
# Between them are the Arabic comma, semicolon, question mark and full stop, and the Devanagari full stops.
_LETTERS: Final = (
    "a-zªµºßà-öø-ɏ\u0250-\u060b\u060d-\u061a\u061c-\u061e\u0620-\u06d3\u06d5-\u0963\u0966-\u0dff"
    "\u0e80-\u0eff\u10a0-\u1fff"
)
# The group leaves out the spaces behind a token: at each of them, all alternatives would be tried.
_TOKEN: Final = re.compile(
    rf"([{_LETTERS}][{_LETTERS}0-9_']*|[{_SPACELESS}]|\d+|[.!?;:]+(?=\s|\Z)|[{_STOPS}]|\n\s*|[{_QUOTES}\x00\x01]"
    rf"|[^\w\s.!?;:{_STOPS}{_QUOTES}\x00\x01]|\w) *"
)
# The same in a text of ASCII characters, in less time.
_ASCII_TOKEN: Final = re.compile(r"([a-z][a-z0-9_']*|[^\s.!?;:a-z0-9]|[0-9]+|[.!?;:]+(?!\S)|\n\s*) *")
_REMEMBERED: Final = 8192  # tokens, at most, whose records are remembered
_SPREAD: Final = np.uint32(0x9E3779B1)  # keeps the sums of small numbers apart
MIX: Final = np.uint32(0x9E3779B1)  # Knuth's golden ratio: spreads the low bits into the high ones
_NOT: Final = np.uint32(0x2545F491)
_PAIRS: Final = np.array([[0x85EBCA6B], [0x7FEB352D]], dtype=np.uint32)  # of hashes; in a sequence of concepts
_VOWEL_SIGNS: Final = re.compile("[\u0640\u064b-\u0652]")
_CHAR: Final = re.compile(rf"[{_SPACELESS}]")
_NO_WORD: Final = re.compile(r"[\d_']").search  # what a token has that is a name or a number rather than a word
_NORMAL: Final = dict(zip(_STOPS, ".!?;:...?;", strict=True)) | {"،": ","} | dict.fromkeys(_QUOTES, '"')


def split(text: str) -> list[str]:
    """The tokens of a text that is `lowered`."""
    return (_ASCII_TOKEN if text.isascii() else _TOKEN).findall(text)


def lowered(text: str) -> str:
    """The text in lower case, with plain apostrophes and without the vowel signs of Arabic, which most writers omit."""
    return text.lower() if text.isascii() else _VOWEL_SIGNS.sub("", text.lower().replace("’", "'"))


def has_spaceless(text: str) -> bool:
    """Whether a text has characters of a script with a token for each."""
    return _CHAR.search(text) is not None


def is_spaceless(text: str) -> bool:
    """Whether a text that has such characters is mostly of them."""
    return len(text.encode("utf-8", "surrogatepass")) > 2 * len(text)


# Fields of a token's record: its number; its hash, and what it is in a sequence of concepts; the same two as they count
# for the next token; its concept, or 0; what it is as the first word of a unit, its concept or hash, or 0; whether it
# denies other words; whether it is a sign.
NUMBER, HASH, NEAR, HASH_BEFORE, NEAR_BEFORE, CONCEPT, LEAD, DENIES, SIGN = range(9)
_FIELDS: Final = 9


class _Records(dict[str, bytes]):
    """The records of tokens that have occurred: a few thousand words are most of all texts, and lie close together in
    memory here, where the whole vocabulary is as large as a processor's cache."""

    def __init__(self, vocabulary: "Vocabulary") -> None:
        super().__init__()
        self._number, self._table = vocabulary.number, vocabulary.table

    def __missing__(self, token: str) -> bytes:
        if len(self) >= _REMEMBERED:
            self.clear()
        found: bytes = self._table[self._number(token)].tobytes()
        self[token] = found
        return found


class Vocabulary:
    """Numbers of tokens: the fixed ones, then words and stems in the given order."""

    def __init__(self, words: Sequence[str], classes: Sequence[int] = ()) -> None:
        self.words = tuple(words)
        names = (*FIXED, *words)
        self.numbers_by_token: dict[str, int] = {name: number for number, name in enumerate(names)}
        for char, meaning in _NORMAL.items():
            self.numbers_by_token[char] = self.numbers_by_token[meaning]
        self.names = names
        self.numbers = tuple(classes) or (0,) * len(self.words)
        self.pairs = frozenset(word for word in words if len(word) == 2 and _CHAR.match(word) and _CHAR.match(word[1]))
        self.hashes = np.array([zlib.crc32(name.encode()) | 1 for name in names], dtype=np.uint32) * MIX
        self.classes = np.zeros(len(names), dtype=np.uint32)
        self.classes[FIRST_WORD:] = np.array(self.numbers, dtype=np.uint32) * _SPREAD * MIX
        self.leads = np.array([at >= FIRST_WORD and name not in _OPENERS for at, name in enumerate(names)])
        denied = {*_BEFORE, *DENIES_BEFORE, "than"}
        self.denies = np.array([name in denied for name in names], dtype=np.bool_)
        self.table = self._table()
        self._found = _Records(self)

    def _table(self) -> Hashes:
        """The record of each number [names, fields]."""
        places = np.arange(len(self.names), dtype=np.uint32)
        near = np.where(places < FIRST_WORD, self.hashes, self.classes)
        leads = np.where(self.classes, self.classes, self.hashes) * self.leads
        before = np.array([self.hashes, near]) * _PAIRS
        is_sign = (places >= FIRST_SIGN) & (places < FIRST_WORD)
        fields = [places, self.hashes, near, *before, self.classes, leads, self.denies, is_sign]
        return np.array(fields, dtype=np.uint32).T.copy()

    def records(self, tokens: Sequence[str]) -> Hashes:
        """The records of tokens, by field [fields, tokens]."""
        found = bytearray().join(map(self._found.__getitem__, tokens))
        return np.frombuffer(found, np.uint32).reshape(-1, _FIELDS).T.copy()

    def number(self, token: str) -> int:
        """The number of a token."""
        found = self.numbers_by_token.get(token)
        return self.unknown(token) if found is None else found

    def ids(self, tokens: Sequence[str]) -> list[int]:
        """The number of each token."""
        return list(map(self.number, tokens))

    def merged(self, tokens: list[str]) -> list[str]:
        """The tokens; two characters that are a word of the vocabulary are one."""
        pairs, found, skip = self.pairs, [], False
        for one, two in zip_longest(tokens, tokens[1:], fillvalue=""):
            if skip:
                skip = False
            elif one + two in pairs:
                found.append(one + two)
                skip = True
            else:
                found.append(one)
        return found

    def unknown(self, token: str) -> int:
        """The number of a token that is no entry itself."""
        ids = self.numbers_by_token
        first = token[0]
        if first.isalpha():
            if not _NO_WORD(token):
                for size in STEM_SIZES:
                    if len(token) > size and (found := ids.get(token[:size] + STEM)) is not None:
                        return found
                return ids["<unknown>" if token.isascii() else "<foreign>"]
            if "'" in token and "_" not in token:
                return self.unknown(token.replace("'", ""))
            return ids["<name_like>"]
        if first == "\n":
            return ids["\n\n" if token.count("\n") > 1 else "\n"]
        if first.isdigit():
            return ids[f"<{'0' * min(4, len(token))}>"]
        return ids[first if first in ".!?;:" else "<sign>"]

    def deny(self, records: Hashes) -> None:
        """Replace the records of negated words."""
        denies = records[DENIES].nonzero()[0].tolist()
        if denies and (denied := self._denied(records[NUMBER].tolist(), denies)):
            hashes = records[HASH, denied] * _NOT
            records[:, denied] = 0
            records[NUMBER, denied] = NEGATED
            records[HASH : NEAR + 1, denied] = hashes
            records[HASH_BEFORE : NEAR_BEFORE + 1, denied] = hashes * _PAIRS

    def negated(self, ids: Sequence[int]) -> list[int]:
        """The positions of negated words."""
        return self._denied(ids, [at for at, each in enumerate(ids) if self.denies[each]])

    def _denied(self, ids: Sequence[int], denies: Sequence[int]) -> list[int]:
        return sorted({each for at in denies for each in self._scope(ids, at)})

    def _scope(self, ids: Sequence[int], at: int) -> list[int]:
        """The positions that the word at `at` negates, within its unit; none if the next word cancels it."""
        name, found = self.names[ids[at]], []
        if name in DENIES_BEFORE and at and ids[at - 1] >= FIRST_WORD:
            for each in range(at - 1, max(-1, at - 1 - _REACH), -1):
                if ids[each] < FIRST_WORD:
                    break
                found.append(each)
            return found
        if at + 1 < len(ids) and self.names[ids[at + 1]] in CANCELLED_BY:
            return []
        if name == "than" and (not at or self.names[ids[at - 1]] != "rather"):
            return []
        for each in range(at + 1, min(len(ids), at + 1 + _REACH)):
            if ids[each] < FIRST_WORD:
                break
            found.append(each)
        return found

    def stems(self, number: int) -> list[int]:
        """The numbers of the stems of a word or stem, which share its meaning."""
        if number < FIRST_WORD:
            return []
        name = self.names[number].removesuffix(STEM)
        found = (self.numbers_by_token.get(name[:size] + STEM) for size in STEM_SIZES if len(name) > size)
        return [each for each in found if each is not None and each != number]


def counted_words(counts: Mapping[str, int], *, least: int) -> list[str]:
    """Words and stems that occur at least `least` times."""
    stems: dict[str, int] = {}
    for word, count in counts.items():
        if _is_word(word):
            for size in STEM_SIZES:
                if len(word) > size:
                    stems[word[:size] + STEM] = stems.get(word[:size] + STEM, 0) + count
    fixed = set(FIXED) | set(_NORMAL)
    words = [word for word, count in counts.items() if count >= least and word not in fixed]
    words = [word for word in words if _is_word(word.replace("'", ""))]
    return sorted(words) + sorted(stem for stem, count in stems.items() if count >= least)


def _is_word(token: str) -> bool:
    return token[:1].isalpha() and not _NO_WORD(token)
