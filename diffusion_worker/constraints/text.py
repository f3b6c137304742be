"""From the shape of a string to its language over code points, within the caps.

What does not fit is named to the caller, who leaves it to the final check; the language then admits more.
"""

from collections.abc import Callable
from functools import lru_cache

from diffusion_worker.constraints.formats import FORMATS
from diffusion_worker.constraints.graph import TooLarge
from diffusion_worker.constraints.languages import ANY_TEXT, both, bounded, extent, matching, minus, words
from diffusion_worker.constraints.minimise import Rows
from diffusion_worker.constraints.regex import NotRegular
from diffusion_worker.constraints.shapes import Text

Language = tuple[Rows, frozenset[str]]  # and the keywords that are left to the final check


@lru_cache(maxsize=1024)
def language(text: Text, longest: int) -> Language:
    """The strings of a shape; at most `longest` code points are counted."""
    found = ANY_TEXT
    unchecked: set[str] = set()
    for keyword, narrow in _restrictions(text):
        try:
            found = narrow(found)
        except (NotRegular, TooLarge):
            unchecked.add(keyword)
    if text.taken:
        found = minus(found, words(text.taken))
    return _counted(found, text, longest, unchecked)


def _restrictions(text: Text) -> list[tuple[str, Callable[[Rows], Rows]]]:
    return [
        *(("pattern", _finding(pattern)) for pattern in text.patterns),
        *(("not", _lacking(pattern)) for pattern in text.refused),
        *(("format", _formatted(name)) for name in text.formats),
    ]


def _finding(pattern: str) -> Callable[[Rows], Rows]:
    return lambda found: both(found, matching(pattern))


def _lacking(pattern: str) -> Callable[[Rows], Rows]:
    return lambda found: minus(found, matching(pattern, wide=True))


def _formatted(name: str) -> Callable[[Rows], Rows]:
    return lambda found: both(found, matching(FORMATS[name], whole=True))


def _counted(found: Rows, text: Text, longest: int, unchecked: set[str]) -> Language:
    if not found.rows or (text.low == 0 and text.high is None):
        return found, frozenset(unchecked)
    least, most = extent(found)
    low = text.low if least < text.low else 0
    high = None if text.high is None or (most is not None and most <= text.high) else text.high
    if high is not None and high > longest:
        high = None
        unchecked.add("maxLength")
    if low > longest:
        low = min(low, max(longest, 1))
        unchecked.add("minLength")
    try:
        return bounded(found, low, high), frozenset(unchecked)
    except TooLarge:
        return found, frozenset(unchecked | ({"minLength"} if low else set()) | ({"maxLength"} if high else set()))
