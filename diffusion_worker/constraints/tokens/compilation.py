"""From bytes to tokens: which tokens lead from state to state.

All states walk the vocabulary's trie at once, level by level. Where a state keeps to itself for every byte below a node
(inside a string), the whole subtree is one range of tokens and is not entered; where it counts (inside a string of
bounded length), one range per token length. Knows nothing of logits or of schemas.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffusion_worker.constraints.automata.automaton import DEAD, LONGEST, ByteAutomaton, Chains, byte_sets, find_chains
from diffusion_worker.constraints.tokens.distance import NEVER, distances, spans
from diffusion_worker.constraints.tokens.token_automaton import TokenAutomaton
from diffusion_worker.constraints.tokens.token_sets import RangeSets, cut_into_atoms, intern_sets
from diffusion_worker.constraints.tokens.token_trie import Trie, Vocabulary

Ints = NDArray[np.int32]
LIFT_VERSION = 1  # part of every cache key; raise it whenever a token automaton may come out differently
_BATCH = 1024  # states that walk together: bounds the memory of a walk


@dataclass(frozen=True, slots=True)
class Moves:
    """Tokens at the places [low, high) lead from source to target; no token is in two ranges of one source. Places are
    ranks, and behind them the tokens once more by length."""

    source: Ints
    target: Ints
    low: Ints
    high: Ints

    def where(self, keep: NDArray[np.bool_] | NDArray[np.int64]) -> "Moves":
        """Only some of them, or all in another order."""
        return Moves(self.source[keep], self.target[keep], self.low[keep], self.high[keep])


def lift(
    automaton: ByteAutomaton, vocabulary: Vocabulary, headers: Sequence[Sequence[int]] = ((),)
) -> TokenAutomaton | None:
    """The texts of `automaton` as token sequences, each closed by an end token; None if the tokens can spell none.

    `headers` are the ids that may stand before the text; an empty one among them makes them optional. Raises ValueError
    when a header could be read as the beginning of a text.
    """
    done = automaton.states
    moves = _joined([_walk(automaton, vocabulary.trie), _end_moves(automaton, vocabulary, done)])
    start = automaton.start
    if any(headers):
        start = done + 1
        moves = _joined([moves, *_header_moves(moves, vocabulary, headers, text=automaton.start, start=start)])
    return _assembled(moves, vocabulary, start=start, done=done)


def _walk(automaton: ByteAutomaton, trie: Trie) -> Moves:
    """Every state through the whole vocabulary."""
    stays = automaton.next == np.arange(automaton.states)[:, None]
    loops, chains = byte_sets(stays, automaton), find_chains(automaton)
    found = []
    for first in range(0, automaton.states, _BATCH):
        origin: Ints = np.arange(first, min(first + _BATCH, automaton.states), dtype=np.int32)
        state, node = origin, np.zeros_like(origin)
        while len(node):
            parent, child = _children(trie, node)
            after = automaton.next[state[parent], automaton.classes[trie.byte[child]]]
            alive = np.flatnonzero(after != DEAD)
            state, node, origin = after[alive], child[alive], origin[parent[alive]]
            is_whole = ((trie.below[node] & ~loops[state]) == 0).all(axis=1)
            high = np.where(is_whole, trie.high[node], trie.low[node] + trie.own[node])
            is_chain = ~is_whole & chains.counts[state]
            is_chain[is_chain] = _is_chain(chains, trie, node[is_chain], state[is_chain])
            found.append(_along_chains(chains, trie, origin[is_chain], node[is_chain], state[is_chain]))
            has_tokens = (trie.low[node] < high) & ~is_chain
            found.append(Moves(origin, state, trie.low[node], high).where(has_tokens))
            goes_on = ~(is_whole | is_chain)
            state, node, origin = state[goes_on], node[goes_on], origin[goes_on]
    return _joined(found)


def _children(trie: Trie, node: Ints) -> tuple[Ints, Ints]:
    """The children of all nodes, and for each the index of its parent in `node`."""
    counts = trie.children[node]
    first = trie.first_child[node]
    parents = np.repeat(np.arange(len(node), dtype=np.int32), counts)
    return parents, spans(first, first + counts).astype(np.int32)


def _is_chain(chains: Chains, trie: Trie, node: Ints, state: Ints) -> NDArray[np.bool_]:
    """Where every token below a node keeps to the chain of the state."""
    height = trie.lengths.height[node]
    over = chains.over[np.minimum(height, LONGEST), state]
    keeps: NDArray[np.bool_] = ((trie.below[node] & ~over) == 0).all(axis=1)
    return keeps & (height <= LONGEST)


def _along_chains(chains: Chains, trie: Trie, origin: Ints, node: Ints, state: Ints) -> Moves:
    """All tokens below the nodes, by length: as many steps along the chain of the state."""
    lengths = trie.lengths
    entries = spans(lengths.first[node], lengths.first[node + 1])
    counts = lengths.first[node + 1] - lengths.first[node]
    target = chains.target[lengths.steps[entries], np.repeat(state, counts)]
    return Moves(np.repeat(origin, counts), target, lengths.low[entries], lengths.high[entries])


def _end_moves(automaton: ByteAutomaton, vocabulary: Vocabulary, done: int) -> Moves:
    """End tokens leave the accepting states, and no others."""
    return _single_moves(
        (int(state), done, vocabulary, token)
        for state in np.flatnonzero(automaton.accepting)
        for token in sorted(vocabulary.end_ids)
    )


def _header_moves(
    moves: Moves, vocabulary: Vocabulary, headers: Sequence[Sequence[int]], *, text: int, start: int
) -> list[Moves]:
    """The trie of the headers from `start` to `text`; where a header may go on, so may the text begin."""
    whole = {tuple(header) for header in headers}
    inner = sorted({header[:length] for header in whole for length in range(len(header))})
    state = dict.fromkeys(whole, text) | {prefix: start + index for index, prefix in enumerate(inner)}  # () is first
    if any(step[:-1] in whole and vocabulary.rank[step[-1]] < vocabulary.text_ranks for step in state if step):
        raise ValueError("a header must begin with a control token, also where it goes on behind a shorter one")
    steps = _single_moves((state[step[:-1]], state[step], vocabulary, step[-1]) for step in state if step)
    follows = moves.where(moves.source == text)
    copies = [
        Moves(np.full_like(follows.source, state[header]), follows.target, follows.low, follows.high)
        for header in whole.intersection(inner)
    ]
    return [steps, *copies]


def _single_moves(moves: Iterable[tuple[int, int, Vocabulary, int]]) -> Moves:
    """Moves over one token each."""
    rows = [(source, target, int(vocabulary.rank[token])) for source, target, vocabulary, token in moves]
    table = np.array(rows, np.int32).reshape(-1, 3)
    return Moves(table[:, 0], table[:, 1], table[:, 2], table[:, 2] + 1)


def _joined(parts: Sequence[Moves]) -> Moves:
    return Moves(
        np.concatenate([part.source for part in parts]),
        np.concatenate([part.target for part in parts]),
        np.concatenate([part.low for part in parts]),
        np.concatenate([part.high for part in parts]),
    )


def _assembled(moves: Moves, vocabulary: Vocabulary, *, start: int, done: int) -> TokenAutomaton | None:
    """Moves as edges with classes, without the states that lead nowhere or are never reached."""
    moves, first = _gathered(moves)
    source, target = moves.source[first[:-1]], moves.target[first[:-1]]
    states = int(max(source.max(), target.max(), start)) + 1
    distance = distances(source, target, states=states, goal=done)
    if distance[start] == NEVER:
        return None
    is_live = (distance != NEVER) & (distances(target, source, states=states, goal=start) != NEVER)
    kept = np.flatnonzero(is_live[source] & is_live[target])
    chosen = spans(first[kept], first[kept + 1])
    sets = RangeSets(np.append(0, np.cumsum(np.diff(first)[kept])), moves.low[chosen], moves.high[chosen])
    label, classes = intern_sets(sets, vocabulary)

    names = _names(source[kept], is_live, done)
    renamed = np.full(states, DEAD, np.int32)
    renamed[names] = np.arange(len(names), dtype=np.int32)
    source = np.append(renamed[source[kept]], renamed[done])
    order = np.argsort(source, kind="stable")
    return TokenAutomaton(
        classes=cut_into_atoms(classes, vocabulary),
        first_edge=np.searchsorted(source[order], np.arange(len(names) + 1)).astype(np.int32),
        source=source[order],
        target=np.append(renamed[target[kept]], renamed[done])[order],
        label=np.append(label, len(classes.first) - 1).astype(np.int32)[order],
        distance=distance[names],
        start=int(renamed[start]),
        tail_id=vocabulary.tail_id,
        vocabulary=vocabulary.digest,
    )


def _names(source: Ints, is_live: NDArray[np.bool_], done: int) -> NDArray[np.int64]:
    """[live states] new name -> old: states with more edges first, `done` last."""
    degree = np.bincount(source, minlength=len(is_live))
    degree[done] = 0
    degree[~is_live] = -1
    return np.argsort(-degree, kind="stable")[: np.count_nonzero(is_live)]


def _gathered(moves: Moves) -> tuple[Moves, NDArray[np.int64]]:
    """Moves sorted by (source, target), touching ranges made one; and where each pair begins, with the end behind."""
    pair = moves.source.astype(np.int64) * (int(moves.target.max()) + 1) + moves.target
    order = np.argsort((pair << 20) + moves.low)  # 2^20 places: no vocabulary known has half as many tokens
    moves, pair = moves.where(order), pair[order]
    is_new_pair = np.append(True, pair[1:] != pair[:-1])
    is_new = is_new_pair | np.append(True, moves.low[1:] != moves.high[:-1])
    begins = np.flatnonzero(is_new)
    high = moves.high[np.append(begins[1:], len(pair)) - 1]
    merged = moves.where(begins)
    first = np.append(np.flatnonzero(is_new_pair[begins]), len(begins))
    return Moves(merged.source, merged.target, merged.low, high), first
