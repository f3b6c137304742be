"""Breadth-first distances in a transition graph: the fewest tokens an answer still needs, so that every text closes in
time."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int32]
UNREACHABLE: Final = np.iinfo(np.int32).max


def distances(source: Ints, target: Ints, *, states: int, goal: int) -> Ints:
    """Fewest edges from every state to `goal`, UNREACHABLE without a path: breadth-first search along reversed
    edges."""
    order = np.argsort(target, kind="stable")
    first = np.searchsorted(target[order], np.arange(states + 1))
    before = source[order]
    distance = np.full(states, UNREACHABLE, np.int32)
    distance[goal] = 0
    frontier = np.array([goal])
    steps = 0
    while len(frontier):
        steps += 1
        found = before[spans(first[frontier], first[frontier + 1])]
        frontier = np.unique(found[distance[found] == UNREACHABLE])
        distance[frontier] = steps
    return distance


def spans(low: NDArray[np.integer], high: NDArray[np.integer]) -> NDArray[np.int64]:
    """All indices of the ranges [low, high), one after the other: spans([3, 8], [5, 9]) is [3, 4, 8]."""
    lengths = (high - low).astype(np.int64)
    ends = np.cumsum(lengths)
    indices: NDArray[np.int64] = np.arange(lengths.sum()) + np.repeat(low - (ends - lengths), lengths)
    return indices
