"""Alignment of an edited answer with its original text. Insertions and deletions shift positions, so indices differ."""

from collections.abc import Sequence
from difflib import SequenceMatcher

_TAIL = 16  # last tokens of the answer that are compared
_REACH = 48  # maximum shift by insertions and deletions, in tokens
_WINDOW = 128  # tokens aligned at once: the time is quadratic in the window and linear in the text


def aligned_index(answered: Sequence[int], text: Sequence[int]) -> int:
    """Index in `text` where the answer continues: where the last answered tokens match the preceding text best.

    Among equally good indices, the one nearest to `len(answered)` is chosen."""
    plain = min(len(answered), len(text))
    tail = list(answered[-_TAIL:])

    def agreement(end: int) -> tuple[int, int]:
        before = text[max(0, end - len(tail)) : end]
        equal = sum(mine == theirs for mine, theirs in zip(reversed(tail), reversed(before), strict=False))
        return equal, -abs(end - plain)

    nearby = range(max(0, len(answered) - _REACH), min(len(text), len(answered) + _REACH) + 1)
    return max(nearby, key=agreement, default=len(text))


def count_kept(answered: Sequence[int], text: Sequence[int]) -> int:
    """Number of tokens of `text` that the answer contains in the same order, ignoring insertions and deletions.

    A lower bound: after an edit longer than a window some matches are missed."""
    kept = here = there = 0
    while here < len(answered) and there < len(text):
        mine, theirs = answered[here : here + _WINDOW], text[there : there + _WINDOW]
        *blocks, _end = SequenceMatcher(None, mine, theirs, autojunk=False).get_matching_blocks()
        kept += sum(block.size for block in blocks)
        # Continue after the last match; the rest of the window may be an edit that is cut off.
        here += blocks[-1].a + blocks[-1].size if blocks else len(mine)
        there += blocks[-1].b + blocks[-1].size if blocks else len(theirs)
    return kept
