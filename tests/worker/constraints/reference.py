"""Automata the slow way, to test the quick ones against: dense tables, membership by definition, Moore's minimum."""

from collections.abc import Iterable

import numpy as np

from diffusion_worker.constraints.automaton import DEAD, ByteAutomaton, Edge, freeze


def automaton_of(words: Iterable[bytes]) -> ByteAutomaton:
    """The minimal automaton of a finite set, by residual languages: a state is what may still follow."""
    start = frozenset(words)
    numbers = {start: 0}
    order, rows = [start], list[list[Edge]]()
    for residual in order:
        edges: list[Edge] = []
        for byte in sorted({word[0] for word in residual if word}):
            rest = frozenset(word[1:] for word in residual if word[:1] == bytes([byte]))
            if rest not in numbers:
                numbers[rest] = len(order)
                order.append(rest)
            edges.append((byte, byte, numbers[rest]))
        rows.append(edges)
    return freeze(rows, [b"" in residual for residual in order], 0)


def moore_classes(automaton: ByteAutomaton) -> int:
    """How many states the minimal automaton of the same language has, the dead one left out."""
    part = automaton.accepting.astype(np.int64)
    while True:
        ahead = np.append(part, -1)[automaton.next]
        refined = np.unique(np.column_stack([part, ahead]), axis=0, return_inverse=True)[1].ravel()
        if refined.max() == part.max():
            return int(part.max()) + 1
        part = refined


def is_trimmed(automaton: ByteAutomaton) -> bool:
    """Whether every state lies on a path from the start to an accepting state."""
    ahead = [{int(t) for t in row if t != DEAD} for row in automaton.next]
    behind: list[set[int]] = [set() for _ in ahead]
    for state, targets in enumerate(ahead):
        for target in targets:
            behind[target].add(state)
    everything = set(range(automaton.states))
    accepting = [int(state) for state in np.flatnonzero(automaton.accepting)]
    return _closure([automaton.start], ahead) == everything == _closure(accepting, behind)


def _closure(start: list[int], graph: list[set[int]]) -> set[int]:
    seen, todo = set(start), list(start)
    while todo:
        for state in graph[todo.pop()] - seen:
            seen.add(state)
            todo.append(state)
    return seen
