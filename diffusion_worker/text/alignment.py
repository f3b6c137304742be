"""Where in a given text an answer that follows it has arrived: edits lengthen and shorten, so counting is not enough.

Pure function of ids.
"""

from collections.abc import Sequence
from difflib import SequenceMatcher

_TAIL = 16  # answered tokens that are compared
_REACH = 48  # tokens that all edits so far may have inserted or removed
_WINDOW = 128  # tokens that are aligned at once: time grows with its square, and with the text in a line


def aligned_index(answered: Sequence[int], text: Sequence[int]) -> int:
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


def count_kept(answered: Sequence[int], text: Sequence[int]) -> int:
    """How many tokens of `text` the answer has kept, in their order, whatever it has inserted or left out between. At
    least so many: an edit longer than a window hides some of what follows it."""
    kept = here = there = 0
    while here < len(answered) and there < len(text):
        mine, theirs = answered[here : here + _WINDOW], text[there : there + _WINDOW]
        *blocks, _end = SequenceMatcher(None, mine, theirs, autojunk=False).get_matching_blocks()
        kept += sum(block.size for block in blocks)
        # Behind the last agreement both go on together; what follows it may be an edit that the window has cut.
        here += blocks[-1].a + blocks[-1].size if blocks else len(mine)
        there += blocks[-1].b + blocks[-1].size if blocks else len(theirs)
    return kept
