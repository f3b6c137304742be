"""Features of a request for the task model: its texts are cut into units, and every unit has tokens.

A unit is a sentence, a line, or a quoted span: small enough that it is either what is asked or part of what it is asked
of. The model weighs the units (see `model`). Fenced blocks are left out, and long texts are read at both ends only.

Every token has rows in the model's table: its own, and by hash with what stands beside the request, with the token
before it, and with the concept before it (words of one meaning, see `tokens.Vocabulary`). A negated word ("don't
summarize, explain") has other rows, as in sentiment analysis since Das and Chen 2001. The words of a follow-up's past,
the user's message before it and the assistant's answer, have rows of their own, which say what a follow-up may ask of
such an answer.
"""

from functools import lru_cache
from itertools import compress
from typing import Final, NamedTuple

import numpy as np

from gateway.classifier.tokens import (
    BREAKS,
    CONCEPT,
    CUT,
    GAP,
    HASH,
    HASH_BEFORE,
    LEAD,
    MIX,
    NEAR,
    NEAR_BEFORE,
    NUMBER,
    SIGN,
    Hashes,
    Ids,
    Vocabulary,
    has_spaceless,
    is_spaceless,
    lowered,
    split,
)

VERSION: Final = 6  # of the features; weights are valid only for the version they were trained with
HASH_BITS: Final = 18
HASHED_ROWS: Final = 1 << HASH_BITS
UNIT_FLAGS: Final = 64
REQUEST_FLAGS: Final = 64

READ_CHARS: Final = 2048  # at each end of the last user message; fenced blocks in it are then left out
USER_ENDS: Final = (340, 260)  # characters at the beginning and the end of what is left
SYSTEM_ENDS: Final = (320, 160)
EARLIER_ENDS: Final = (120, 80)  # of the user's message before the last
ANSWER_ENDS: Final = (100, 60)  # of the assistant's answer
LAST_PARAGRAPH: Final = 4  # times the characters at the end, up to which a last paragraph is read at its beginning, too
_TOKEN_ENDS: Final = (76, 56)  # tokens of the user's text: scripts without spaces have more of them
# How a text ends that is to be continued: an article, a conjunction or a preposition; an open bracket or a comma.
OPEN_WORDS: Final = frozenset(
    (
        "a an the and or but of to in on at for with from by that which because as is was are were be not if when"
        " than so my our your its their his her this der die das dem den ein eine und oder aber dass weil mit von"
        " zu für im ist wird le la les un une des et ou mais que qui de du dans pour avec par est sont el los las"
        " una y o pero con por para en es se del al il lo gli e ma che di da per è i w z na do że oraz ale het een"
        " maar dat van voor met os um uma mas com em"
    ).split()
)
OPEN_SIGNS: Final = frozenset("([{,=+|&<-—–/\\:")
OPEN_CHARS: Final = frozenset("、，はがをにでとのも的了和在于是把與与")
CLOSING: Final = frozenset(".!?。！？…\"'”’»)」』}]`>;")
_BRACKETS: Final = frozenset("{[")
# Flags by the last character.
_BY_LAST: Final = {2: "?", 8: "}]", 16: ":>", 17: ";({=,", 29: OPEN_SIGNS, 31: OPEN_CHARS, 33: CLOSING}
_LAST_FLAGS: Final = {
    char: [flag for flag, chars in _BY_LAST.items() if char in chars]
    for char in frozenset().union(*map(frozenset, _BY_LAST.values()))
}
_SHORT_CHARS: Final = 80
_FLAG_CHARS: Final = 400  # at each end, for properties of the whole text
_FENCE: Final = "```"

_CONCEPT_PAIR: Final = np.uint32(0x27D4EB2F)
_PLACE: Final = np.uint32(0x165667B1)
_SHIFT: Final = np.uint32(32 - HASH_BITS)
HASHED: Final = 4  # rows of a token by hash
UNIT_ROWS: Final = 3  # rows of a unit
_ROLES: Final = 3
_CONTEXTS: Final = 8  # what stands beside the words
SALTS: Final = np.array([pow(0x01000193, 5 + n, 1 << 32) for n in range(_ROLES * _CONTEXTS)], dtype=np.uint32)
PAST_SALTS: Final = np.array([0x9E3779B9, 0xC2B2AE35], dtype=np.uint32)  # of the earlier message, of the answer
_ROLE_SALTS: Final = SALTS.reshape(_ROLES, _CONTEXTS).T.copy()
_LENGTHS: Final = np.array([2, 3, 5, 8, 13, 21, 41])  # bounds between classes of unit lengths, in tokens
_POSITIONS: Final = np.arange(1024)  # of tokens: more than a request has
_BY_LENGTH: Final = HASHED_ROWS + 48 + _LENGTHS.searchsorted(_POSITIONS, "right")
_NO_PAST: Final = np.zeros(0, dtype=np.intp)


class Features(NamedTuple):
    """Rows of the model's table, in which the tokens' own rows are followed by the rows by hash, those of units, and
    those of requests.

    `rows` [1 + HASHED, tokens] are those of every token, its own first. Unit n has the `sizes[n]` tokens from
    `firsts[n]` on, and the rows `unit_rows[:, n]`: by hash of its first word, of its place, and of its length. `past`
    are those of a follow-up's past, `request` those of the whole request. The last user message has `own_tokens`
    tokens.
    """

    rows: Ids
    firsts: Ids
    sizes: Ids
    unit_rows: Ids
    past: Ids
    request: list[int]
    own_tokens: int


def features(vocabulary: Vocabulary, *, system: str, user: str, earlier: str = "", answer: str = "") -> Features:
    """The features of a request's texts: the system prompt, the last user message, the one before it, and the
    assistant's answer between them. Accepts any text, in bounded time."""
    asked, fences = _without_fences(user)
    own = _shortened(_tokens(vocabulary, asked, USER_ENDS))
    above = _tokens(vocabulary, system, SYSTEM_ENDS) if system else []
    before = _tokens(vocabulary, earlier, EARLIER_ENDS) if earlier else []
    answered = _tokens(vocabulary, answer, ANSWER_ENDS) if answer else []
    first_hashed, own_tokens = len(vocabulary.names), len(own)
    roles = len(above) + 1, len(before) + 1, own_tokens + 1
    every = vocabulary.records([*above, GAP, *before, GAP, *own, GAP, *answered])
    records, after = every[:, : sum(roles)], every[:, sum(roles) :]
    vocabulary.deny(records)
    numbers = records[NUMBER]
    lasts = (numbers < len(BREAKS)).nonzero()[0]
    firsts = np.empty_like(lasts)
    firsts[0] = 0
    np.add(lasts[:-1], 1, out=firsts[1:])
    sizes = lasts - firsts
    sizes += 1
    context = _context(asked, fences, answer, records[SIGN, -roles[2] :], after[SIGN])
    rows = np.empty((1 + HASHED, numbers.size), dtype=np.intp)
    rows[0] = numbers
    np.add(_hashed(records, lasts, _ROLE_SALTS[context].repeat(roles)), first_hashed, out=rows[1:])
    past = _NO_PAST
    if answered:
        past = _past(vocabulary.hashes.take(numbers[roles[0] : roles[0] + len(before)]), after[HASH]) + first_hashed
    flags = _request_flags(user, fences, (system, earlier, answer), context, own_tokens)
    first_flag = first_hashed + HASHED_ROWS + UNIT_FLAGS
    return Features(
        rows=rows,
        firsts=firsts,
        sizes=sizes,
        unit_rows=_unit_rows(records[LEAD], firsts, sizes, roles) + first_hashed,
        past=past,
        request=[first_flag + flag for flag in flags],
        own_tokens=own_tokens,
    )


def _hashed(records: Hashes, lasts: Ids, salts: Hashes) -> Hashes:
    """The rows of every token by hash: with what stands beside the request; with the token before it; its concept with
    that of the token before it, and with the one before it in its unit."""
    found = np.zeros((HASHED, salts.size), dtype=np.uint32)
    np.multiply(records[HASH], salts, out=found[0])
    np.add(records[HASH_BEFORE : NEAR_BEFORE + 1, :-1], records[HASH : NEAR + 1, 1:], out=found[1:3, 1:])
    named = records[CONCEPT].nonzero()[0]
    if named.size > 1:
        concepts, units = records[CONCEPT].take(named), lasts.searchsorted(named)
        pairs = concepts[:-1] * _CONCEPT_PAIR
        pairs += concepts[1:]
        pairs *= units[1:] == units[:-1]
        found[3, named[1:]] = pairs
    found >>= _SHIFT
    return found


def _unit_rows(leads: Hashes, firsts: Ids, sizes: Ids, roles: tuple[int, int, int]) -> Ids:
    """The rows of every unit: by hash of its first word, by the word's concept or otherwise itself, with the unit's
    place; of its place among the units of its role; and of its length."""
    above = int(firsts.searchsorted(roles[0])) if roles[0] > 1 else 1
    before = int(firsts.searchsorted(roles[0] + roles[1])) - above if roles[1] > 1 else 1
    places, salts = _places(above, before, firsts.size - above - before)
    found = np.empty((UNIT_ROWS, firsts.size), dtype=np.intp)
    words = np.minimum.reduceat(np.where(leads, _POSITIONS[: leads.size], leads.size - 1), firsts)  # the last is a gap
    found[0] = leads[words] + salts >> _SHIFT
    found[1] = places
    found[2] = _BY_LENGTH[sizes]
    return found


@lru_cache(maxsize=1024)
def _places(*units: int) -> tuple[Ids, Hashes]:
    """How near every unit is to the beginning and the end of its message, given the numbers of units by role; and what
    this adds to the hash of its first word."""
    found = [
        role * 16 + min(at, 3) * 4 + min(count - 1 - at, 3) for role, count in enumerate(units) for at in range(count)
    ]
    return HASHED_ROWS + np.array(found, dtype=np.intp), np.array(found, dtype=np.uint32) * _PLACE * MIX


def _past(earlier: Hashes, answer: Hashes) -> Ids:
    """The rows of the words of the earlier message and of the answer, by hash."""
    hashes = np.concatenate((earlier * PAST_SALTS[0], answer * PAST_SALTS[1]))
    return (hashes >> _SHIFT).astype(np.intp)


def _ends(text: str, sizes: tuple[int, int]) -> str:
    """Both ends of a long text, on lines of their own. Of a last paragraph that is longer than what is read at the end,
    the beginning and the end: instructions behind a text tell what to do first, and then how."""
    head, tail = sizes
    if len(text) <= head + tail:
        return text
    at = text.rfind("\n\n", max(head, len(text) - LAST_PARAGRAPH * tail), len(text) - tail)
    if at < 0:
        return f"{text[:head]}\n{text[-tail:]}"
    return f"{text[:head]}\n{text[at + 2 : at + 2 + tail // 2]}\n{text[-(tail // 2) :]}"


def _tokens(vocabulary: Vocabulary, text: str, sizes: tuple[int, int]) -> list[str]:
    shown = _ends(text, sizes)
    if shown.isascii():
        return split(shown.lower())
    if not has_spaceless(shown):
        return split(lowered(shown))
    if is_spaceless(shown):
        shown = _ends(text, (sizes[0] // 3, sizes[1] // 3))
    return vocabulary.merged(split(lowered(shown)))


def _shortened(tokens: list[str]) -> list[str]:
    head, tail = _TOKEN_ENDS
    return tokens if len(tokens) <= head + tail else [*tokens[:head], "\n\n", *tokens[-tail:]]


def _without_fences(user: str) -> tuple[str, int]:
    """The text outside of fences, and the number of fenced blocks. A text that is one block is taken as it is."""
    text = (user if len(user) <= 2 * READ_CHARS else f"{user[:READ_CHARS]}\n{user[-READ_CHARS:]}").strip()
    if "`" not in text or _FENCE not in text:  # one character is found in less time
        return text, 0
    parts = text.split(_FENCE)
    if not any(part.strip() for part in parts[::2]):
        return text.replace(_FENCE, ""), 1
    return f"\n{CUT}\n".join(parts[::2]), len(parts) // 2


def _context(asked: str, fences: int, answer: str, signs: Hashes, answered: Hashes) -> int:
    """What stands beside the user's words: nothing, a fenced block, something like code or data, prose, or an answer:
    a question, code or data, or prose."""
    if fences:
        return 1
    if signs.size > 20 and np.count_nonzero(signs) * 4 > signs.size:
        return 2
    if len(asked) > 360:
        return 3
    if answer:
        if answer.endswith("?"):
            return 7
        return 6 if np.count_nonzero(answered) * 5 > answered.size or ("`" in answer and _FENCE in answer) else 4
    return 5 if "\n" in asked else 0


def _request_flags(user: str, fences: int, turns: tuple[str, str, str], context: int, own_tokens: int) -> list[int]:
    """Structural properties of the request. A flag's number must never change: weights are trained with it."""
    system, earlier, answer = turns
    size = len(user)
    start, end = user[:_FLAG_CHARS].lstrip(), user[-_FLAG_CHARS:].rstrip()
    whole = start + end if size > _FLAG_CHARS else user.strip()
    first, last, early = start[:1], end[-1:], start[:200]
    present = {
        1: system,
        3: fences == 1,
        4: fences > 1,
        5: last == "`" and end.endswith(_FENCE),
        6: first == "`" and start.startswith(_FENCE),
        7: first in _BRACKETS,
        9: not whole.isascii(),
        12: size < 40,
        13: size < 160,
        14: size > 600,
        15: not own_tokens,
        19: earlier,
        22: "@" in whole and "@@" in whole,  # one character is found in less time
        23: "<" in early and ">" in early,
        24: "|" in early,
        25: whole[-1:].isalnum(),
        26: "<" in whole and "<<<" in whole,
        27: "_" in whole and "__" in whole,
        28: user[-1:].isspace(),
        30: end[end.rfind(" ") + 1 :].lower() in OPEN_WORDS,
        32: _is_open(whole, "{", "}") or _is_open(whole, "(", ")"),
        34: not (last in CLOSING or system or answer or size < _SHORT_CHARS),
    }
    found = [0, *compress(present, present.values()), *_LAST_FLAGS.get(last, ())]
    if "\n" in whole:
        found += _line_flags(whole)
    if answer:
        found += _answer_flags(answer)
    found.append(40 + context)
    found.append(48 + min(8, own_tokens // 8))
    return found


def _is_open(text: str, opening: str, closing: str) -> bool:
    """Whether there are more opening than closing brackets."""
    return opening in text and text.count(opening) > text.count(closing)


def _line_flags(text: str) -> list[int]:
    """Of a text of several lines."""
    present = {10: True, 11: "\n\n" in text, 18: "\n  " in text or "\n\t" in text}
    return list(compress(present, present.values()))


def _answer_flags(answer: str) -> list[int]:
    """Of an answer before the message."""
    present = {
        20: True,
        21: "`" in answer and _FENCE in answer,
        35: answer[0] in _BRACKETS,
        36: len(answer) < 60,
        37: len(answer) > 300,
        38: answer[-1] == "?",
        39: "\n" in answer,
    }
    return list(compress(present, present.values()))
