"""Reference automata for tests: dense tables, membership by definition, Moore's minimisation."""

import json
import random
from collections.abc import Iterable, Iterator
from itertools import permutations, product
from typing import Any

import numpy as np

from diffusion_worker.constraints.automata.automaton import DEAD, ByteAutomaton, Edge, freeze


def automaton_of(words: Iterable[bytes]) -> ByteAutomaton:
    """The minimal automaton of a finite set, by residual languages: a state is the set of remaining words."""
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
    """The number of states of the minimal automaton, without the dead state."""
    part = np.unique(automaton.accepting, return_inverse=True)[1].ravel()  # one class where all accept, not class 1
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


def orderings(value: Any) -> Iterator[Any]:
    """The value with its members in every order, at every depth."""
    if isinstance(value, list):
        yield from (list(parts) for parts in product(*(list(orderings(part)) for part in value)))
    elif isinstance(value, dict):
        for names in permutations(value):
            for parts in product(*(list(orderings(value[name])) for name in names)):
                yield dict(zip(names, parts, strict=True))
    else:
        yield value


def accepts_in_some_order(automaton: ByteAutomaton, value: Any) -> bool:
    """Whether a value is accepted with its members in some order."""
    return any(automaton.accepts(json.dumps(ordered).encode()) for ordered in orderings(value))


def random_member(automaton: ByteAutomaton, rng: random.Random, *, steps: int = 60) -> bytes:
    """A random member: a random walk, and from `steps` bytes on the nearest way out."""
    exits = _exits(automaton)
    state, text = automaton.start, bytearray()
    while True:
        if automaton.accepting[state] and (len(text) >= steps or rng.random() < 0.3):
            return bytes(text)
        targets = sorted({int(target) for target in automaton.next[state]} - {DEAD})
        if not targets:
            return bytes(text)
        target = rng.choice(targets) if len(text) < steps else exits[state]
        labels = np.flatnonzero(automaton.next[state][automaton.classes] == target)
        text.append(int(rng.choice(labels)))
        state = target


def _exits(automaton: ByteAutomaton) -> dict[int, int]:
    """The next state on a shortest way to acceptance."""
    behind: dict[int, set[int]] = {}
    for state, row in enumerate(automaton.next):
        for target in set(row.tolist()) - {DEAD}:
            behind.setdefault(target, set()).add(state)
    order = [int(state) for state in np.flatnonzero(automaton.accepting)]
    exits = {state: state for state in order}
    for state in order:
        for previous in behind.get(state, ()):
            if previous not in exits:
                exits[previous] = state
                order.append(previous)
    return exits
