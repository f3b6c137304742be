"""States that count: inside a string of bounded length most bytes lead from each state to the next one of a chain.

There a whole subtree of the trie can be taken at once, token length by token length, as where a state keeps
to itself. Knows states and bytes, no tokens.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from diffusion_worker.constraints.automata.automaton import DEAD, ByteAutomaton

Ints = NDArray[np.int32]
LONGEST: Final = 12  # steps along a chain; what is longer is walked byte by byte
_WIDE: Final = 64  # bytes that must lead on for a state to count


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
    target = np.empty((LONGEST + 1, automaton.states), np.int32)
    over = np.zeros((LONGEST + 1, automaton.states, 4), np.uint64)
    target[0], over[0] = np.arange(automaton.states), np.uint64(0xFFFFFFFFFFFFFFFF)
    for steps in range(1, LONGEST + 1):
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
