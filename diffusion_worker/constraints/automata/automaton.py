"""The byte automaton: a minimal deterministic finite automaton over bytes, which every constraint is compiled to.

It is trimmed: every state lies on a path from the start to an accepting state, so a prefix that it accepts can always
be completed. The empty language is refused before an automaton is made. Chains are paths through the states that count
the characters of a string of bounded length: most bytes lead from each of these states to the next one, so token
compilation handles a whole subtree of the trie at once, one range per token length.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

DEAD: Final = -1
Edge = tuple[int, int, int]  # first label, last label (inclusive), target
Ints = NDArray[np.int32]
MAX_CHAIN: Final = 12  # steps along a chain; longer tokens are walked byte by byte
_WIDE: Final = 64  # bytes on the edges of a state that may start a chain


@dataclass(frozen=True, slots=True, kw_only=True)
class ByteAutomaton:
    """A minimal deterministic automaton over bytes; bytes with equal columns of the transition table share a class."""

    classes: NDArray[np.uint8]  # [256] byte -> byte class
    next: NDArray[np.int32]  # [states, classes] -> state, -1 = dead
    accepting: NDArray[np.bool_]  # [states]
    start: int

    @property
    def states(self) -> int:
        """The number of states."""
        return len(self.accepting)

    def rows(self) -> list[list[Edge]]:
        """The edges of every state as byte ranges, the input format of `freeze`."""
        table = self.next[:, self.classes]
        borders = np.diff(table, prepend=DEAD - 1, append=DEAD - 1) != 0
        found: list[list[Edge]] = []
        for row, changes in zip(table, borders, strict=True):
            at = np.flatnonzero(changes)
            spans = zip(at[:-1].tolist(), (at[1:] - 1).tolist(), row[at[:-1]].tolist(), strict=True)
            found.append([edge for edge in spans if edge[2] != DEAD])
        return found

    def walk(self, state: int, text: bytes) -> int:
        """The state after `text`; DEAD once there is no transition."""
        for byte in text:
            if state == DEAD:
                break
            state = int(self.next[state, self.classes[byte]])
        return state

    def accepts(self, text: bytes) -> bool:
        """Whether the whole text is in the language."""
        state = self.walk(self.start, text)
        return state != DEAD and bool(self.accepting[state])


def freeze(rows: Sequence[Sequence[Edge]], accepting: Sequence[bool], start: int) -> ByteAutomaton:
    """Build the table from rows of disjoint byte ranges, which must be minimal and trimmed (see `minimise`)."""
    starts = np.cumsum([0, *(len(edges) for edges in rows)])
    edges = np.array([edge for edges in rows for edge in edges], np.int32).reshape(-1, 3)
    return freeze_edges(starts, edges, np.asarray(accepting, np.bool_), start)


def freeze_edges(
    starts: NDArray[np.integer], edges: NDArray[np.int32], accepting: NDArray[np.bool_], start: int
) -> ByteAutomaton:
    """The same from columns: `edges` [edges, 3] as (first byte, last byte, target), those of state s are `starts[s]` to
    `starts[s + 1]`."""
    states = len(accepting)
    borders = np.unique(np.concatenate([[0, 256], edges[:, 0], edges[:, 1] + 1]))
    low, high = np.searchsorted(borders, edges[:, 0]), np.searchsorted(borders, edges[:, 1] + 1)
    counts = high - low
    column = np.arange(counts.sum()) + np.repeat(low - (np.cumsum(counts) - counts), counts)
    table = np.full((states, len(borders) - 1), DEAD, dtype=np.int32)
    table[np.repeat(np.repeat(np.arange(states), np.diff(starts)), counts), column] = np.repeat(edges[:, 2], counts)
    interval_class, representatives = _fold(table)
    return ByteAutomaton(
        classes=np.repeat(interval_class, np.diff(borders)),
        next=np.ascontiguousarray(table[:, representatives]),
        accepting=accepting,
        start=start,
    )


def _fold(table: NDArray[np.int32]) -> tuple[NDArray[np.uint8], NDArray[np.intp]]:
    """[states, intervals] -> the class of each interval of bytes, and one representative per class. Classes are
    numbered by their first byte."""
    columns = np.ascontiguousarray(table.T)
    seen: dict[bytes, int] = {}
    classes = np.array([seen.setdefault(column.tobytes(), len(seen)) for column in columns], dtype=np.uint8)
    return classes, np.unique(classes, return_index=True)[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chains:
    """The state reached from each state by `steps` bytes that all stay on its chain."""

    target: Ints  # [steps, states] for 0 to MAX_CHAIN steps
    over: NDArray[np.uint64]  # [steps, states, 4] bit set of these bytes; empty without a chain
    is_start: NDArray[np.bool_]  # [states] whether a chain starts here


def byte_sets(member: NDArray[np.bool_], automaton: ByteAutomaton) -> NDArray[np.uint64]:
    """[states, 4] sets of bytes as 256 bits, from sets of byte classes [states, classes]."""
    bits = np.packbits(member[:, automaton.classes], axis=1, bitorder="little")
    return np.ascontiguousarray(bits).view(np.uint64)


def find_chains(automaton: ByteAutomaton) -> Chains:
    """The chains of an automaton: each wide state and the successor that most of its bytes lead to."""
    onward, step = main_steps(automaton)
    target = np.empty((MAX_CHAIN + 1, automaton.states), np.int32)
    over = np.zeros((MAX_CHAIN + 1, automaton.states, 4), np.uint64)
    target[0], over[0] = np.arange(automaton.states), np.uint64(0xFFFFFFFFFFFFFFFF)
    for steps in range(1, MAX_CHAIN + 1):
        last = target[steps - 1]
        leads_on = onward[last] != DEAD
        target[steps] = np.where(leads_on, onward[last], last)
        over[steps] = over[steps - 1] & step[last]
    return Chains(target=target, over=over, is_start=onward != DEAD)


def main_steps(automaton: ByteAutomaton) -> tuple[Ints, NDArray[np.uint64]]:
    """[states] the next state of the chain that starts at a state, -1 without one; and [states, 4] the bytes that lead
    there."""
    onward = _main_successors(automaton)
    return onward, byte_sets((automaton.next == onward[:, None]) & (automaton.next != DEAD), automaton)


def _main_successors(automaton: ByteAutomaton) -> Ints:
    """[states] the other state that most bytes of a wide state lead to; -1 for states that are not wide."""
    sizes = np.bincount(automaton.classes, minlength=automaton.next.shape[1])
    leads_on = (automaton.next != DEAD) & (automaton.next != np.arange(automaton.states)[:, None])
    wide = np.flatnonzero(leads_on @ sizes >= _WIDE)
    row, label = np.nonzero(leads_on[wide])
    pair = wide[row] * np.int64(automaton.states) + automaton.next[wide[row], label]
    pairs, where = np.unique(pair, return_inverse=True)
    ascending = pairs[np.argsort(np.bincount(where, weights=sizes[label]), kind="stable")]
    successor = np.full(automaton.states, DEAD, np.int32)
    successor[ascending // automaton.states] = ascending % automaton.states  # the last assignment wins: the largest
    return successor
