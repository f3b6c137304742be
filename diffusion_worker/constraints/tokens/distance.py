"""How many tokens an answer still needs: the budget that makes every text close in time.

A graph search; knows edges and states, nothing of what the tokens say.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int32]
NEVER: Final = np.iinfo(np.int32).max


def distances(source: Ints, target: Ints, *, states: int, goal: int) -> Ints:
    """Fewest edges from every state to `goal`, NEVER where there is no way: breadth first against the edges."""
    order = np.argsort(target, kind="stable")
    first = np.searchsorted(target[order], np.arange(states + 1))
    before = source[order]
    distance = np.full(states, NEVER, np.int32)
    distance[goal] = 0
    frontier = np.array([goal])
    steps = 0
    while len(frontier):
        steps += 1
        found = before[spans(first[frontier], first[frontier + 1])]
        frontier = np.unique(found[distance[found] == NEVER])
        distance[frontier] = steps
    return distance


def spans(low: NDArray[np.integer], high: NDArray[np.integer]) -> NDArray[np.int64]:
    """All indices of the ranges [low, high), one after the other: spans([3, 8], [5, 9]) is [3, 4, 8]."""
    lengths = (high - low).astype(np.int64)
    ends = np.cumsum(lengths)
    indices: NDArray[np.int64] = np.arange(lengths.sum()) + np.repeat(low - (ends - lengths), lengths)
    return indices
