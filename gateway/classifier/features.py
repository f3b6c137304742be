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
    FIRST_SIGN,
    FIRST_WORD,
    GAP,
    HASH,
    LEAD,
    MIX,
    NEAR,
    NEGATED,
    SIGN,
    Hashes,
    Ids,
    Vocabulary,
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
_BRACKETS_END: Final = frozenset("}]")
_LABEL_END: Final = frozenset(":>")
_CODE_END: Final = frozenset(";({=,")
_SHORT_CHARS: Final = 80
_FLAG_CHARS: Final = 400  # at each end, for properties of the whole text
_FENCE: Final = "```"

_NOT: Final = np.uint32(0x2545F491)
_PAIR: Final = np.uint32(0x85EBCA6B)
_CLASS_PAIR: Final = np.uint32(0x7FEB352D)
_CONCEPT_PAIR: Final = np.uint32(0x27D4EB2F)
_PLACE: Final = np.uint32(0x165667B1)
_SHIFT: Final = np.uint32(32 - HASH_BITS)
HASHED: Final = 4  # rows of a token by hash
_ROLES: Final = 3
_CONTEXTS: Final = 8  # what stands beside the words
SALTS: Final = np.array([pow(0x01000193, 5 + n, 1 << 32) for n in range(_ROLES * _CONTEXTS)], dtype=np.uint32)
PAST_SALTS: Final = np.array([0x9E3779B9, 0xC2B2AE35], dtype=np.uint32)  # of the earlier message, of the answer
_PAIRS: Final = np.array([[_PAIR], [_CLASS_PAIR]])  # of a token's hash, of what it is in a sequence of concepts
_ROLE_SALTS: Final = SALTS.reshape(_ROLES, _CONTEXTS).T.copy()
_LENGTHS: Final = np.array([2, 3, 5, 8, 13, 21, 41])  # bounds between classes of unit lengths, in tokens
_BY_LENGTH: Final = 48 + _LENGTHS.searchsorted(np.arange(64), "right")
_POSITIONS: Final = np.arange(1024)
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
    answered = vocabulary.ids(_tokens(vocabulary, answer, ANSWER_ENDS)) if answer else []
    above = _tokens(vocabulary, system, SYSTEM_ENDS) if system else []
    before = _tokens(vocabulary, earlier, EARLIER_ENDS) if earlier else []
    ids = np.array(vocabulary.ids([*above, GAP, *before, GAP, *own, GAP]), dtype=np.intp)
    first_hashed, borders = len(vocabulary.names), (len(above) + 1, len(above) + len(before) + 2)
    records = vocabulary.records.take(ids, axis=1)
    if denied := vocabulary.negated(ids):
        ids[denied] = NEGATED
        hashes = records[HASH, denied] * _NOT
        records[:, denied] = 0
        records[: NEAR + 1, denied] = hashes
    lasts = (ids < len(BREAKS)).nonzero()[0]
    firsts = np.empty_like(lasts)
    firsts[0] = 0
    np.add(lasts[:-1], 1, out=firsts[1:])
    context = _context(asked, fences, answer, records[SIGN, borders[1] :], answered)
    rows = np.empty((1 + HASHED, ids.size), dtype=np.intp)
    rows[0] = ids
    salts = _ROLE_SALTS[context].repeat((borders[0], borders[1] - borders[0], ids.size - borders[1]))
    np.add(_hashed(records, lasts, salts), first_hashed, out=rows[1:])
    past = _past(vocabulary, ids[borders[0] : borders[1] - 1], answered) + first_hashed if answered else _NO_PAST
    flags = _request_flags(user, fences, (system, earlier, answer), context, len(own))
    first_flag = first_hashed + HASHED_ROWS + UNIT_FLAGS
    return Features(
        rows=rows,
        firsts=firsts,
        sizes=lasts - firsts + 1,
        unit_rows=_unit_rows(records[LEAD], firsts, lasts, borders) + first_hashed,
        past=past,
        request=[first_flag + flag for flag in flags],
        own_tokens=len(own),
    )


def _hashed(records: Hashes, lasts: Ids, salts: Hashes) -> Hashes:
    """The rows of every token by hash: with what stands beside the request; with the token before it; its concept with
    that of the token before it, and with the one before it in its unit."""
    found = np.zeros((HASHED, lasts[-1] + 1), dtype=np.uint32)
    np.multiply(records[HASH], salts, out=found[0])
    pairs = records[: NEAR + 1, :-1] * _PAIRS
    np.add(pairs, records[: NEAR + 1, 1:], out=found[1:3, 1:])
    named = records[CONCEPT].nonzero()[0]
    if named.size > 1:
        concepts, units = records[CONCEPT].take(named), lasts.searchsorted(named)
        pairs = concepts[:-1] * _CONCEPT_PAIR
        pairs += concepts[1:]
        pairs *= units[1:] == units[:-1]
        found[3].put(named[1:], pairs)
    found >>= _SHIFT
    return found


def _unit_rows(leads: Hashes, firsts: Ids, lasts: Ids, borders: tuple[int, int]) -> Ids:
    """The rows of every unit: by hash of its first word, by the word's concept or otherwise itself, with the unit's
    place; of its place among the units of its role; and of its length."""
    above = int(lasts.searchsorted(borders[0])) if borders[0] > 1 else 1
    before = int(lasts.searchsorted(borders[1])) - above if borders[1] > borders[0] + 1 else 1
    places, salts = _places(above, before, lasts.size - above - before)
    found = np.empty((3, lasts.size), dtype=np.intp)
    words = np.minimum.reduceat(np.where(leads, _POSITIONS[: leads.size], leads.size - 1), firsts)  # the last is a gap
    found[0] = leads.take(words) + salts >> _SHIFT
    found[1] = places
    found[2] = _BY_LENGTH.take(lasts - firsts + 1, mode="clip")
    found[1:] += HASHED_ROWS
    return found


@lru_cache(maxsize=1024)
def _places(*units: int) -> tuple[Ids, Hashes]:
    """How near every unit is to the beginning and the end of its message, given the numbers of units by role; and what
    this adds to the hash of its first word."""
    found = [
        role * 16 + min(at, 3) * 4 + min(count - 1 - at, 3) for role, count in enumerate(units) for at in range(count)
    ]
    return np.array(found, dtype=np.intp), np.array(found, dtype=np.uint32) * _PLACE * MIX


def _past(vocabulary: Vocabulary, earlier: Ids, answered: list[int]) -> Ids:
    """The rows of the words of the earlier message and of the answer, by hash."""
    ids = np.concatenate([earlier, answered]).astype(np.intp)
    hashes = vocabulary.hashes.take(ids)
    hashes[: earlier.size] *= PAST_SALTS[0]
    hashes[earlier.size :] *= PAST_SALTS[1]
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
    if is_spaceless(shown):
        shown = _ends(text, (sizes[0] // 3, sizes[1] // 3))
    return vocabulary.merged(split(lowered(shown)))


def _shortened(tokens: list[str]) -> list[str]:
    head, tail = _TOKEN_ENDS
    return tokens if len(tokens) <= head + tail else [*tokens[:head], "\n\n", *tokens[-tail:]]


def _without_fences(user: str) -> tuple[str, int]:
    """The text outside of fences, and the number of fenced blocks. A text that is one block is taken as it is."""
    text = (user if len(user) <= 2 * READ_CHARS else f"{user[:READ_CHARS]}\n{user[-READ_CHARS:]}").strip()
    if _FENCE not in text:
        return text, 0
    parts = text.split(_FENCE)
    if not any(part.strip() for part in parts[::2]):
        return text.replace(_FENCE, ""), 1
    return f"\n{CUT}\n".join(parts[::2]), len(parts) // 2


def _context(asked: str, fences: int, answer: str, signs: Hashes, answered: list[int]) -> int:
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
        count = sum(FIRST_SIGN <= number < FIRST_WORD for number in answered)
        return 6 if count * 5 > len(answered) or _FENCE in answer else 4
    return 5 if "\n" in asked else 0


def _request_flags(user: str, fences: int, turns: tuple[str, str, str], context: int, own_tokens: int) -> list[int]:
    """Structural properties of the request. A flag's number must never change: weights are trained with it."""
    system, earlier, answer = turns
    size = len(user)
    start, end = user[:_FLAG_CHARS].lstrip(), user[-_FLAG_CHARS:].rstrip()
    whole = start + end if size > _FLAG_CHARS else user.strip()
    first, last, early = start[:1], end[-1:], start[:200]
    is_lines, is_closed = "\n" in whole, last in CLOSING
    present = (
        True,
        system,
        last == "?",
        fences == 1,
        fences > 1,
        last == "`" and end.endswith(_FENCE),
        first == "`" and start.startswith(_FENCE),
        first in _BRACKETS,
        last in _BRACKETS_END,
        not whole.isascii(),
        is_lines,
        is_lines and "\n\n" in whole,
        size < 40,
        size < 160,
        size > 600,
        not own_tokens,
        last in _LABEL_END,
        last in _CODE_END,
        is_lines and ("\n  " in whole or "\n\t" in whole),
        earlier,
        answer,
        _FENCE in answer,
        "@@" in whole,
        "<" in early and ">" in early,
        "|" in early,
        whole[-1:].isalnum(),
        "<<<" in whole,
        "__" in whole,
        user[-1:].isspace(),
        last in OPEN_SIGNS,
        end[end.rfind(" ") + 1 :].lower() in OPEN_WORDS,
        last in OPEN_CHARS,
        whole.count("{") > whole.count("}") or whole.count("(") > whole.count(")"),
        is_closed,
        not (is_closed or system or answer or size < _SHORT_CHARS),
        answer and answer[0] in _BRACKETS,
        0 < len(answer) < 60,
        len(answer) > 300,
        answer.endswith("?"),
        "\n" in answer,
    )
    found = list(compress(range(len(present)), present))
    found.append(40 + context)
    found.append(48 + min(8, own_tokens // 8))
    return found
