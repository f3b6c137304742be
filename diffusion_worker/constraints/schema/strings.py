"""From the restrictions on a string to a DFA over code points, within the size limits.

What does not fit is reported to the caller, who leaves it to validation; the language then accepts more. The limit is
on *wide* states, which have many characters on their edges: each costs token compilation a walk through much of the
vocabulary. A repetition that is too long is replaced by an unbounded one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from diffusion_worker.constraints.automata.code_point_dfa import (
    ANY_TEXT,
    dfa_of_pattern,
    dfa_of_words,
    difference,
    intersection,
    length_range,
    with_length,
)
from diffusion_worker.constraints.automata.graph import TooLarge
from diffusion_worker.constraints.automata.minimise import RangeDfa
from diffusion_worker.constraints.automata.regex import NotRegular, parse
from diffusion_worker.constraints.schema.formats import COMPACT, FORMATS
from diffusion_worker.constraints.schema.shapes import Text

MIN_WIDE: Final = 32  # wide states that any string may have, whatever the limits
_WIDE: Final = 48  # characters


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """The strings of a shape, the keywords left to validation, and the number of wide states. `is_cut`: it may lack
    strings that a validator accepts, because of a `format`, or because regular expressions are read in two ways."""

    rows: RangeDfa
    unchecked: frozenset[str]
    wide: int
    is_cut: bool


@lru_cache(maxsize=1024)
def language(text: Text, longest: int, *, compact: bool = False) -> Language:
    """The strings of a shape, with at most about `longest` wide states. `compact`: with formats for large schemas."""
    found = ANY_TEXT
    unchecked: set[str] = set()
    limit = max(longest, MIN_WIDE)
    for keyword, restrict in _restrictions(text, COMPACT if compact else FORMATS):
        try:
            narrowed = restrict(found, None)
            if wide_states(narrowed) > limit:
                unchecked.add(keyword)
                narrowed = restrict(found, MIN_WIDE // 4)
            found = narrowed if wide_states(narrowed) <= limit else found
        except (NotRegular, TooLarge):
            unchecked.add(keyword)
    if text.excluded:
        found = difference(found, dfa_of_words(text.excluded))
    found = _with_length(found, text, longest, unchecked)
    is_cut = bool(text.formats) or any(map(has_two_readings, (*text.patterns, *text.excluded_patterns)))
    return Language(rows=found, unchecked=frozenset(unchecked), wide=wide_states(found), is_cut=is_cut)


@lru_cache(maxsize=1024)
def has_two_readings(pattern: str) -> bool:
    """Whether ECMA 262 and Python's `re` may disagree on what matches."""
    try:
        return parse(pattern) != parse(pattern, wide=True)
    except NotRegular:
        return False  # left to validation


def wide_states(rows: RangeDfa) -> int:
    """The number of states with many characters on their edges."""
    return sum(sum(last - first + 1 for first, last, _ in row) >= _WIDE for row in rows.rows)


Restrict = Callable[[RangeDfa, int | None], RangeDfa]


def _restrictions(text: Text, formats: Mapping[str, str]) -> list[tuple[str, Restrict]]:
    return [
        *(("pattern", _containing(pattern)) for pattern in text.patterns),
        *(("not", _not_containing(pattern)) for pattern in text.excluded_patterns),
        *(("format", _formatted(formats[name])) for name in text.formats),
    ]


def _containing(pattern: str) -> Restrict:
    return lambda found, repeats: intersection(found, dfa_of_pattern(pattern, repeats=repeats))


def _not_containing(pattern: str) -> Restrict:
    return lambda found, repeats: found if repeats else difference(found, dfa_of_pattern(pattern, wide=True))


def _formatted(grammar: str) -> Restrict:
    return lambda found, repeats: intersection(found, dfa_of_pattern(grammar, whole=True, repeats=repeats))


def _with_length(found: RangeDfa, text: Text, longest: int, unchecked: set[str]) -> RangeDfa:
    if not found.rows or (text.low == 0 and text.high is None):
        return found
    least, most = length_range(found)
    low = text.low if least < text.low else 0
    high = None if text.high is None or (most is not None and most <= text.high) else text.high
    if high is not None and high > longest:
        high = None
        unchecked.add("maxLength")
    if low > longest:
        low = min(low, max(longest, 1))
        unchecked.add("minLength")
    try:
        return with_length(found, low, high)
    except TooLarge:
        unchecked |= ({"minLength"} if low else set()) | ({"maxLength"} if high is not None else set())
        return found
