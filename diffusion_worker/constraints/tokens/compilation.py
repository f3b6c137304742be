"""Token compilation: a byte automaton and a vocabulary become a token automaton, by walking the token trie from every
state.

All states walk the trie together, one level at a time, as in Outlines (Willard and Louf 2023, arXiv 2307.09702) but
without visiting every token: where a state loops to itself over every byte below a node (inside a string), the whole
subtree is one range of tokens and is not entered; where a state counts (inside a string of bounded length), it is one
range per token length. In C (`automata/_native.c`), one state after the other walks the trie depth first, and a subtree
of text inside a string that may hold any character is not entered either, whatever bytes its characters have.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffusion_worker.constraints.automata.automaton import (
    DEAD,
    MAX_CHAIN,
    ByteAutomaton,
    Chains,
    byte_sets,
    find_chains,
    main_steps,
)
from diffusion_worker.constraints.automata.native import NATIVE
from diffusion_worker.constraints.tokens.distance import UNREACHABLE, distances, spans
from diffusion_worker.constraints.tokens.token_automaton import TokenAutomaton
from diffusion_worker.constraints.tokens.token_sets import RangeSets, intern_sets, partition_vocabulary
from diffusion_worker.constraints.tokens.token_trie import TokenTrie, TrieNodes

Ints = NDArray[np.int32]
TOKEN_COMPILATION_VERSION = 1  # part of every cache key; raise it whenever the resulting automaton may change
_BATCH = 1024  # states that walk together: limits memory


@dataclass(frozen=True, slots=True)
class RangeTransitions:
    """Tokens at the indices [low, high) lead from source to target; the ranges of one source are disjoint. Indices are
    ranks, followed by the same tokens ordered by length, and by those of text in the order of `TokenTrie.text`."""

    source: Ints
    target: Ints
    low: Ints
    high: Ints

    def where(self, keep: NDArray[np.bool_] | NDArray[np.int64]) -> "RangeTransitions":
        """Only some of them, or all in another order."""
        return RangeTransitions(self.source[keep], self.target[keep], self.low[keep], self.high[keep])


def compile_tokens(
    automaton: ByteAutomaton, vocabulary: TokenTrie, prefixes: Sequence[Sequence[int]] = ((),)
) -> TokenAutomaton | None:
    """The texts of `automaton` as token sequences, each terminated by an end token; None if the vocabulary spells none
    of them.

    `prefixes` are the token sequences allowed before the text; an empty one makes them optional. Raises ValueError when
    a prefix could be read as the beginning of a text.
    """
    done = automaton.states
    transitions = _concatenate([_walk(automaton, vocabulary), _end_transitions(automaton, vocabulary, done)])
    start = automaton.start
    if any(prefixes):
        start = done + 1
        transitions = _concatenate(
            [transitions, *_prefix_transitions(transitions, vocabulary, prefixes, text=automaton.start, start=start)]
        )
    return _assemble(transitions, vocabulary, start=start, done=done)


def _walk(automaton: ByteAutomaton, vocabulary: TokenTrie) -> RangeTransitions:
    """Walk the whole trie from every state."""
    nodes = vocabulary.nodes
    if NATIVE is None:
        return walk_in_python(automaton, nodes)
    loops = byte_sets(automaton.next == np.arange(automaton.states)[:, None], automaton)
    onward, steps = main_steps(automaton)
    lengths = nodes.lengths
    found = NATIVE.walk(
        (automaton.next, automaton.classes, onward, loops, steps),
        (
            *(nodes.byte, nodes.first_child, nodes.children, nodes.low, nodes.high, nodes.own, nodes.below),
            *(lengths.height, lengths.first, lengths.steps, lengths.low, lengths.high),
        ),
        vocabulary.size + len(lengths.order),
    )
    source, target, low, high = np.ascontiguousarray(np.frombuffer(found, np.int32).reshape(-1, 4).T)
    return RangeTransitions(source, target, low, high)


def walk_in_python(automaton: ByteAutomaton, nodes: TrieNodes) -> RangeTransitions:
    """The transitions of `_walk`, not merged."""
    stays = automaton.next == np.arange(automaton.states)[:, None]
    loops, chains = byte_sets(stays, automaton), find_chains(automaton)
    found = []
    for first in range(0, automaton.states, _BATCH):
        origin: Ints = np.arange(first, min(first + _BATCH, automaton.states), dtype=np.int32)
        state, node = origin, np.zeros_like(origin)
        while len(node):
            parent, child = _children(nodes, node)
            after = automaton.next[state[parent], automaton.classes[nodes.byte[child]]]
            alive = np.flatnonzero(after != DEAD)
            state, node, origin = after[alive], child[alive], origin[parent[alive]]
            is_whole = ((nodes.below[node] & ~loops[state]) == 0).all(axis=1)
            high = np.where(is_whole, nodes.high[node], nodes.low[node] + nodes.own[node])
            is_chain = ~is_whole & chains.is_start[state]
            is_chain[is_chain] = _is_chain(chains, nodes, node[is_chain], state[is_chain])
            found.append(_along_chains(chains, nodes, origin[is_chain], node[is_chain], state[is_chain]))
            has_tokens = (nodes.low[node] < high) & ~is_chain
            found.append(RangeTransitions(origin, state, nodes.low[node], high).where(has_tokens))
            goes_on = ~(is_whole | is_chain)
            state, node, origin = state[goes_on], node[goes_on], origin[goes_on]
    return _concatenate(found)


def _children(nodes: TrieNodes, node: Ints) -> tuple[Ints, Ints]:
    """The children of all nodes, and for each the index of its parent in `node`."""
    counts = nodes.children[node]
    first = nodes.first_child[node]
    parents = np.repeat(np.arange(len(node), dtype=np.int32), counts)
    return parents, spans(first, first + counts).astype(np.int32)


def _is_chain(chains: Chains, nodes: TrieNodes, node: Ints, state: Ints) -> NDArray[np.bool_]:
    """Whether every token below a node stays on the chain of the state."""
    height = nodes.lengths.height[node]
    over = chains.over[np.minimum(height, MAX_CHAIN), state]
    keeps: NDArray[np.bool_] = ((nodes.below[node] & ~over) == 0).all(axis=1)
    return keeps & (height <= MAX_CHAIN)


def _along_chains(chains: Chains, nodes: TrieNodes, origin: Ints, node: Ints, state: Ints) -> RangeTransitions:
    """All tokens below the nodes, grouped by length: that length is the number of steps along the state's chain."""
    lengths = nodes.lengths
    entries = spans(lengths.first[node], lengths.first[node + 1])
    counts = lengths.first[node + 1] - lengths.first[node]
    target = chains.target[lengths.steps[entries], np.repeat(state, counts)]
    return RangeTransitions(np.repeat(origin, counts), target, lengths.low[entries], lengths.high[entries])


def _end_transitions(automaton: ByteAutomaton, vocabulary: TokenTrie, done: int) -> RangeTransitions:
    """End tokens leave accepting states only."""
    return _single_transitions(
        (int(state), done, vocabulary, token)
        for state in np.flatnonzero(automaton.accepting)
        for token in sorted(vocabulary.end_ids)
    )


def _prefix_transitions(
    transitions: RangeTransitions, vocabulary: TokenTrie, prefixes: Sequence[Sequence[int]], *, text: int, start: int
) -> list[RangeTransitions]:
    """The trie of the prefixes from `start` to `text`; where one prefix ends inside a longer one, the text may begin
    too."""
    whole = {tuple(prefix) for prefix in prefixes}
    inner = sorted({prefix[:length] for prefix in whole for length in range(len(prefix))})
    state = dict.fromkeys(whole, text) | {prefix: start + index for index, prefix in enumerate(inner)}  # () is first
    if any(step[:-1] in whole and vocabulary.rank[step[-1]] < vocabulary.text_ranks for step in state if step):
        raise ValueError("a prefix must start with a control token, also where it extends a shorter prefix")
    steps = _single_transitions((state[step[:-1]], state[step], vocabulary, step[-1]) for step in state if step)
    follows = transitions.where(transitions.source == text)
    copies = [
        RangeTransitions(np.full_like(follows.source, state[prefix]), follows.target, follows.low, follows.high)
        for prefix in whole.intersection(inner)
    ]
    return [steps, *copies]


def _single_transitions(transitions: Iterable[tuple[int, int, TokenTrie, int]]) -> RangeTransitions:
    """Transitions over a single token each."""
    rows = [(source, target, int(vocabulary.rank[token])) for source, target, vocabulary, token in transitions]
    table = np.array(rows, np.int32).reshape(-1, 3)
    return RangeTransitions(table[:, 0], table[:, 1], table[:, 2], table[:, 2] + 1)


def _concatenate(parts: Sequence[RangeTransitions]) -> RangeTransitions:
    return RangeTransitions(
        np.concatenate([part.source for part in parts]),
        np.concatenate([part.target for part in parts]),
        np.concatenate([part.low for part in parts]),
        np.concatenate([part.high for part in parts]),
    )


def _assemble(transitions: RangeTransitions, vocabulary: TokenTrie, *, start: int, done: int) -> TokenAutomaton | None:
    """Group transitions into edges labelled with token sets, and trim states that are unreachable or cannot reach the
    end."""
    transitions, first = _merge_ranges(transitions)
    source, target = transitions.source[first[:-1]], transitions.target[first[:-1]]
    states = int(max(source.max(), target.max(), start)) + 1
    distance = distances(source, target, states=states, goal=done)
    if distance[start] == UNREACHABLE:
        return None
    is_live = (distance != UNREACHABLE) & (distances(target, source, states=states, goal=start) != UNREACHABLE)
    kept = np.flatnonzero(is_live[source] & is_live[target])
    chosen = spans(first[kept], first[kept + 1])
    sets = RangeSets(np.append(0, np.cumsum(np.diff(first)[kept])), transitions.low[chosen], transitions.high[chosen])
    label, sets = intern_sets(sets, vocabulary)

    numbers = _numbering(source[kept], is_live, done)
    renamed = np.full(states, DEAD, np.int32)
    renamed[numbers] = np.arange(len(numbers), dtype=np.int32)
    source = np.append(renamed[source[kept]], renamed[done])
    order = np.argsort(source, kind="stable")
    return TokenAutomaton(
        token_sets=partition_vocabulary(sets, vocabulary),
        first_edge=np.searchsorted(source[order], np.arange(len(numbers) + 1)).astype(np.int32),
        source=source[order],
        target=np.append(renamed[target[kept]], renamed[done])[order],
        label=np.append(label, len(sets.first) - 1).astype(np.int32)[order],
        distance=distance[numbers],
        start=int(renamed[start]),
        padding_id=vocabulary.padding_id,
        vocabulary=vocabulary.digest,
    )


def _numbering(source: Ints, is_live: NDArray[np.bool_], done: int) -> NDArray[np.int64]:
    """[live states] new number -> old number: by number of edges, descending; `done` is last."""
    degree = np.bincount(source, minlength=len(is_live))
    degree[done] = 0
    degree[~is_live] = -1
    return np.argsort(-degree, kind="stable")[: np.count_nonzero(is_live)]


def _merge_ranges(transitions: RangeTransitions) -> tuple[RangeTransitions, NDArray[np.int64]]:
    """Sort by (source, target) and merge adjacent ranges; also returns where each pair begins, and the end."""
    pair = transitions.source.astype(np.int64) * (int(transitions.target.max()) + 1) + transitions.target
    # 2^20 indices: no known vocabulary has a third as many tokens. Those of `_walk` are sorted, the others follow.
    order = np.argsort((pair << 20) + transitions.low, kind="stable")
    transitions, pair = transitions.where(order), pair[order]
    is_new_pair = np.append(True, pair[1:] != pair[:-1])
    is_new = is_new_pair | np.append(True, transitions.low[1:] != transitions.high[:-1])
    begins = np.flatnonzero(is_new)
    high = transitions.high[np.append(begins[1:], len(pair)) - 1]
    merged = transitions.where(begins)
    first = np.append(np.flatnonzero(is_new_pair[begins]), len(begins))
    return RangeTransitions(merged.source, merged.target, merged.low, high), first
