"""The byte automaton: what every constraint is compiled to, and all that the rest of the worker sees of it.

Deterministic, minimal and trimmed: every state lies on a path from the start to an accepting state, so a walk that has
not died can always be completed. The empty language is the one exception; it is refused before a record is made.
Knows bytes and states; knows no schema, no token and no text encoding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

DEAD: Final = -1
Edge = tuple[int, int, int]  # first label, last label (inclusive), target
Ints = NDArray[np.int32]
MAX_CHAIN: Final = 12  # steps along a chain; what is longer is walked byte by byte
_WIDE: Final = 64  # bytes that must lead on for a state to count


@dataclass(frozen=True, slots=True, kw_only=True)
class ByteAutomaton:
    """A minimal deterministic automaton over bytes, with equal columns of its table folded into classes."""

    classes: NDArray[np.uint8]  # [256] byte -> class
    next: NDArray[np.int32]  # [states, classes] -> state, -1 = dead
    accepting: NDArray[np.bool_]  # [states]
    start: int

    @property
    def states(self) -> int:
        """How many states."""
        return len(self.accepting)

    def rows(self) -> list[list[Edge]]:
        """The edges of every state, by ranges of bytes; as `freeze` takes them."""
        table = self.next[:, self.classes]
        borders = np.diff(table, prepend=DEAD - 1, append=DEAD - 1) != 0
        found: list[list[Edge]] = []
        for row, changes in zip(table, borders, strict=True):
            at = np.flatnonzero(changes)
            spans = zip(at[:-1].tolist(), (at[1:] - 1).tolist(), row[at[:-1]].tolist(), strict=True)
            found.append([edge for edge in spans if edge[2] != DEAD])
        return found

    def walk(self, state: int, text: bytes) -> int:
        """The state after `text`, -1 once dead."""
        for byte in text:
            if state == DEAD:
                break
            state = int(self.next[state, self.classes[byte]])
        return state

    def accepts(self, text: bytes) -> bool:
        """Whether the whole of `text` is a member."""
        state = self.walk(self.start, text)
        return state != DEAD and bool(self.accepting[state])


def freeze(rows: Sequence[Sequence[Edge]], accepting: Sequence[bool], start: int) -> ByteAutomaton:
    """Rows of disjoint byte ranges as a table. The rows must be minimal and trimmed already (see `minimise`)."""
    table = np.full((len(rows), 256), DEAD, dtype=np.int32)
    for state, edges in enumerate(rows):
        for first, last, target in edges:
            table[state, first : last + 1] = target
    classes, representatives = _fold(table)
    return ByteAutomaton(
        classes=classes,
        next=np.ascontiguousarray(table[:, representatives]),
        accepting=np.asarray(accepting, dtype=np.bool_),
        start=start,
    )


def _fold(table: NDArray[np.int32]) -> tuple[NDArray[np.uint8], NDArray[np.intp]]:
    """[states, 256] -> the class of each byte, and one byte for each class. Classes are numbered by first byte."""
    columns = np.ascontiguousarray(table.T)
    seen: dict[bytes, int] = {}
    classes = np.array([seen.setdefault(column.tobytes(), len(seen)) for column in columns], dtype=np.uint8)
    return classes, np.unique(classes, return_index=True)[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chains:
    """Where `steps` bytes lead from each state if they are all of the set that keeps to its chain."""

    target: Ints  # [steps, states] for 0 to LONGEST steps
    over: NDArray[np.uint64]  # [steps, states, 4] 256 bits: such bytes; none where there is no chain
    counts: NDArray[np.bool_]  # [states] whether there is a chain


def byte_sets(member: NDArray[np.bool_], automaton: ByteAutomaton) -> NDArray[np.uint64]:
    """[states, 4] the 256 bits of sets of bytes, given by classes [states, classes]."""
    bits = np.packbits(member[:, automaton.classes], axis=1, bitorder="little")
    return np.ascontiguousarray(bits).view(np.uint64)


def find_chains(automaton: ByteAutomaton) -> Chains:
    """The chains of an automaton: each wide state and the state that most of its bytes lead to."""
    onward = _favourites(automaton)
    step = byte_sets((automaton.next == onward[:, None]) & (automaton.next != DEAD), automaton)
    target = np.empty((MAX_CHAIN + 1, automaton.states), np.int32)
    over = np.zeros((MAX_CHAIN + 1, automaton.states, 4), np.uint64)
    target[0], over[0] = np.arange(automaton.states), np.uint64(0xFFFFFFFFFFFFFFFF)
    for steps in range(1, MAX_CHAIN + 1):
        last = target[steps - 1]
        leads_on = onward[last] != DEAD
        target[steps] = np.where(leads_on, onward[last], last)
        over[steps] = over[steps - 1] & step[last]
    return Chains(target=target, over=over, counts=onward != DEAD)


def _favourites(automaton: ByteAutomaton) -> Ints:
    """[states] the other state to which most bytes of a wide state lead, -1 for states that are not wide."""
    sizes = np.bincount(automaton.classes, minlength=automaton.next.shape[1])
    leads_on = (automaton.next != DEAD) & (automaton.next != np.arange(automaton.states)[:, None])
    wide = np.flatnonzero(leads_on @ sizes >= _WIDE)
    row, label = np.nonzero(leads_on[wide])
    pair = wide[row] * np.int64(automaton.states) + automaton.next[wide[row], label]
    pairs, where = np.unique(pair, return_inverse=True)
    ascending = pairs[np.argsort(np.bincount(where, weights=sizes[label]), kind="stable")]
    favourite = np.full(automaton.states, DEAD, np.int32)
    favourite[ascending // automaton.states] = ascending % automaton.states  # the last one written is the largest
    return favourite
