"""Minimisation of deterministic automata: trimming, then Moore's partition refinement on 64-bit state hashes.

States are split by the blocks that their labels lead to, round after round, until no block splits; a round is a few
vector operations over all edges. The initial partition is the hash of the first of the shortest words that a state
accepts. It depends on the state's language only, so it never separates equivalent states, and it saves the hundreds of
rounds that a deep schema would otherwise need. The result is verified with a second, independent hash, so collisions
are detected.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from diffusion_worker.constraints.automata.automaton import ByteAutomaton, Edge, freeze, freeze_edges
from diffusion_worker.constraints.automata.graph import Block, coalesce
from diffusion_worker.constraints.automata.native import NATIVE

_MASK: Final = (1 << 64) - 1
_ROUNDS_BETWEEN_COUNTS: Final = 4
_SEEDS: Final = (0x9E3779B97F4A7C15, 0xD1B54A32D192ED03)
Colours = NDArray[np.uint64]  # [states]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RangeDfa:
    """A deterministic automaton as rows of disjoint label ranges. No rows: the empty language. Compared by identity."""

    rows: tuple[tuple[Edge, ...], ...]
    accepting: tuple[bool, ...]
    start: int


EMPTY: Final = RangeDfa(rows=(), accepting=(), start=-1)


def minimise(rows: Sequence[Sequence[Edge]], accepting: Sequence[bool], start: int) -> RangeDfa:
    """The minimal, trimmed automaton; states are numbered in breadth-first order from the start, 0."""
    if NATIVE is None:
        return minimise_in_python(rows, accepting, start)
    found = NATIVE.minimise(rows, accepting, start, False)
    return EMPTY if found is None else RangeDfa(rows=found[0], accepting=found[1], start=0)


def as_block(language: RangeDfa) -> Block:
    """The states of texts none of which begins another one, as a block: its only accepting state is what follows."""
    if len(language.rows) < 2:
        return ()
    last = language.accepting.index(True)
    return tuple(
        tuple((a, b, -1 if target == last else target - (target > last)) for a, b, target in row)
        for row, accepts in zip(language.rows, language.accepting, strict=True)
        if not accepts
    )


def minimal_automaton(rows: Sequence[Sequence[Edge]], accepting: Sequence[bool], start: int) -> ByteAutomaton | None:
    """The minimal automaton of states over bytes; None: the empty language."""
    if NATIVE is None:
        minimal = minimise_in_python(rows, accepting, start)
        return freeze(minimal.rows, minimal.accepting, minimal.start) if minimal.rows else None
    found = NATIVE.minimise(rows, accepting, start, True)
    if found is None:
        return None
    starts, edges = (np.frombuffer(part, np.int32) for part in found[:2])
    return freeze_edges(starts, edges.reshape(-1, 3), np.frombuffer(found[2], np.bool_), 0)


def minimise_in_python(rows: Sequence[Sequence[Edge]], accepting: Sequence[bool], start: int) -> RangeDfa:
    """What `minimise` returns."""
    distance = _distances(rows, accepting, _reachable(rows, start))
    if start not in distance:
        return EMPTY
    order = list(distance)  # by distance to acceptance
    index = {state: at for at, state in enumerate(order)}
    alive = [[(a, b, index[t]) for a, b, t in rows[state] if t in index] for state in order]
    flags = [accepting[state] for state in order]
    first = _initial_colours(alive, [distance[state] for state in order])
    return _quotient(alive, flags, index[start], _blocks(_Edges(alive), flags, first))


def _reachable(rows: Sequence[Sequence[Edge]], start: int) -> list[int]:
    seen, order = {start}, [start]
    for state in order:
        for _, _, target in rows[state]:
            if target not in seen:
                seen.add(target)
                order.append(target)
    return order


def _distances(rows: Sequence[Sequence[Edge]], accepting: Sequence[bool], reached: Sequence[int]) -> dict[int, int]:
    """The distance of each state to acceptance, in ascending order, without states that cannot accept."""
    before: dict[int, list[int]] = {}
    for state in reached:
        for _, _, target in rows[state]:
            before.setdefault(target, []).append(state)
    order = [state for state in reached if accepting[state]]
    distance = dict.fromkeys(order, 0)
    for state in order:
        for previous in before.get(state, ()):
            if previous not in distance:
                distance[previous] = distance[state] + 1
                order.append(previous)
    return distance


def _initial_colours(alive: Sequence[Sequence[Edge]], distance: Sequence[int]) -> Colours:
    """[states] the hash of the lexicographically first of the shortest words that each state accepts."""
    colours: list[int] = []
    for edges, steps in zip(alive, distance, strict=True):
        if steps:
            label, target = min((first, target) for first, _, target in edges if distance[target] == steps - 1)
            colours.append(hash((label, colours[target])) & _MASK)
        else:
            colours.append(_SEEDS[0])
    return np.array(colours, dtype=np.uint64)


class _Edges:
    """All edges as columns. The weight of a label range is the sum of its labels' weights, so splitting a range changes
    nothing."""

    def __init__(self, alive: Sequence[Sequence[Edge]]) -> None:
        flat = [edge for edges in alive for edge in edges]
        self._columns = np.array(flat, dtype=np.int64).reshape(-1, 3)
        self._ends = np.cumsum([0, *(len(edges) for edges in alive)])

    def weights(self, seed: int) -> Colours:
        """[edges] the weight of each edge's labels."""
        first, after = self._columns[:, 0], self._columns[:, 1] + 1
        return _mixed(after.astype(np.uint64), seed) - _mixed(first.astype(np.uint64), seed)

    def gathered(self, weights: Colours, colours: Colours) -> Colours:
        """[states] the weighted sum of the colours that a state's edges lead to, modulo 2**64."""
        sums = np.cumsum(weights * colours[self._columns[:, 2]], dtype=np.uint64)
        padded = np.concatenate([np.zeros(1, dtype=np.uint64), sums])
        gathered: Colours = padded[self._ends[1:]] - padded[self._ends[:-1]]
        return gathered


def _mixed(values: Colours, seed: int) -> Colours:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014): spreads every bit over all 64."""
    values = values + np.uint64(seed)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Colours = values ^ (values >> np.uint64(31))
    return mixed


def _blocks(edges: _Edges, flags: Sequence[bool], first: Colours) -> NDArray[np.intp]:
    """[states] the block of equivalent states that each state belongs to."""
    own = _mixed(first + np.array(flags, dtype=np.uint64), _SEEDS[1])
    weights = edges.weights(_SEEDS[0])
    colours, count = own, len(np.unique(own))
    while True:
        for _ in range(_ROUNDS_BETWEEN_COUNTS):
            colours = _mixed(own + edges.gathered(weights, colours), _SEEDS[0])
        kinds, blocks = np.unique(colours, return_inverse=True)
        if len(kinds) == count:
            break
        count = len(kinds)
    _verify_blocks(edges, blocks, flags)
    return blocks


def _verify_blocks(edges: _Edges, blocks: NDArray[np.intp], flags: Sequence[bool]) -> None:
    """Verify by an independent hash that the states of one block lead to the same blocks."""
    fresh = edges.gathered(edges.weights(_SEEDS[1]), _mixed(blocks.astype(np.uint64), _SEEDS[1]))
    signature = np.column_stack([fresh, np.array(flags, dtype=np.uint64)])
    first_of = np.unique(blocks, return_index=True)[1]
    if not np.array_equal(signature, signature[first_of][blocks]):
        raise RuntimeError("two different states have the same 64-bit hash")


def _quotient(alive: Sequence[Sequence[Edge]], flags: Sequence[bool], start: int, blocks: NDArray[np.intp]) -> RangeDfa:
    """The quotient automaton: one state per block, numbered in breadth-first order."""
    block = blocks.tolist()
    number = {block[start]: 0}
    members = [start]
    rows: list[tuple[Edge, ...]] = []
    for state in members:
        edges = []
        for first, last, target in alive[state]:
            found = number.setdefault(block[target], len(number))
            if found == len(members):
                members.append(target)
            edges.append((first, last, found))
        rows.append(coalesce(edges))
    return RangeDfa(rows=tuple(rows), accepting=tuple(flags[state] for state in members), start=0)
