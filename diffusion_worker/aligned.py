"""Where in a given text an answer that follows it has arrived: edits lengthen and shorten, so counting is not enough.

Pure function of ids.
"""

from collections.abc import Sequence

_TAIL = 16  # answered tokens that are compared
_REACH = 48  # tokens that all edits so far may have inserted or removed


def place_of(answered: Sequence[int], text: Sequence[int]) -> int:
    """Index in `text` of what should come behind `answered`: where the last answered tokens agree best with those
    before it, and of equally good places the one nearest to plain counting."""
    plain = min(len(answered), len(text))
    tail = list(answered[-_TAIL:])

    def agreement(end: int) -> tuple[int, int]:
        before = text[max(0, end - len(tail)) : end]
        equal = sum(mine == theirs for mine, theirs in zip(reversed(tail), reversed(before), strict=False))
        return equal, -abs(end - plain)

    nearby = range(max(0, len(answered) - _REACH), min(len(text), len(answered) + _REACH) + 1)
    return max(nearby, key=agreement, default=len(text))
