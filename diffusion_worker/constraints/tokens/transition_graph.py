"""The transition graph of a token automaton, as dynamic programming reads it: edges that several states share are
stored once.

Where the same edges leave many states (any key may follow, wherever the last one ended), they are moved to an epsilon
state, which all of these states reach without reading a token. This removes half of the edges of a large schema and
changes no path. Built once per automaton, freed with it.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from diffusion_worker.constraints.tokens.distance import spans
from diffusion_worker.constraints.tokens.segmented_reduce import Segments
from diffusion_worker.constraints.tokens.token_automaton import TokenAutomaton
from diffusion_worker.weak_cache import once_per_object

Indices = NDArray[np.intp]
Ints = NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Transitions:
    """The transitions out of consecutive nodes, in the layout of their segments: the token set that is read, and the
    target node."""

    segments: Segments
    label: Indices
    target: Indices


@dataclass(frozen=True, slots=True, kw_only=True)
class TransitionGraph:
    """Nodes are the states, then the epsilon states, each ordered by out-degree, descending. A transition into an
    epsilon state is labelled *any token, unscored* (log probability 0) and reads no token; a transition out of one
    leads to a state."""

    states: int
    nodes: int
    node_of: Indices  # [states] of the automaton -> node
    first: Indices  # [states + 1] the automaton's edges, as it has them
    source: Indices
    label: Indices
    target: Indices
    target_node: Indices  # [edges] -> the node it leads to
    from_states: Transitions
    from_epsilon: Transitions | None
    compiled: tuple[Ints, ...]  # the transitions for `_native.c`: see `_compiled`

    def edges_of(self, states: Indices) -> tuple[Indices, Indices]:
        """Indices of the edges out of some states, and how many each has."""
        first, stop = self.first.take(states), self.first.take(states + 1)
        return spans(first, stop), stop - first


_LEAST_SAVED: Final = 2000  # transitions; about the cost of the numpy calls for a second kind of node


@once_per_object
def transition_graph_of(automaton: TokenAutomaton) -> TransitionGraph:
    """The transition graph of an automaton, built on the first call."""
    states = automaton.states
    source, label, target = (each.astype(np.intp) for each in (automaton.source, automaton.label, automaton.target))
    epsilon, epsilon_states = _epsilon_states(source, label * states + target)
    own = np.flatnonzero(epsilon < 0)
    into = np.unique(source[epsilon >= 0] * epsilon_states + epsilon[epsilon >= 0])
    _, out = np.unique(
        np.where(epsilon >= 0, (label * epsilon_states + epsilon) * states + target, -1), return_index=True
    )
    out = out[epsilon[out] >= 0]
    sources = np.concatenate([source[own], into // max(epsilon_states, 1), states + epsilon[out]])
    labels = np.concatenate([label[own], np.full(len(into), automaton.token_sets.sets), label[out]])
    targets = np.concatenate([target[own], states + into % max(epsilon_states, 1), target[out]])

    node_of = _numbering(np.bincount(sources, minlength=states + epsilon_states), states)
    order = np.argsort(node_of[sources], kind="stable")
    labels, targets = labels[order], node_of[targets[order]]
    first = np.append(0, np.cumsum(np.bincount(node_of[sources], minlength=states + epsilon_states)))
    return TransitionGraph(
        states=states,
        nodes=states + epsilon_states,
        node_of=node_of[:states],
        first=automaton.first_edge.astype(np.intp),
        source=source,
        label=label,
        target=target,
        target_node=node_of[target],
        from_states=_transitions(first[: states + 1], labels, targets),
        from_epsilon=_transitions(first[states:], labels, targets) if epsilon_states else None,
        compiled=_compiled(first, labels, targets, states),
    )


def _epsilon_states(source: Indices, pair: Indices) -> tuple[Indices, int]:
    """[edges] the epsilon state that an edge is moved to, or -1; and the number of epsilon states. `pair` encodes the
    label and target of an edge. Pairs that leave exactly the same states share an epsilon state if that saves
    transitions: n pairs of m states are n * m edges, or n + m transitions. Small automata have none."""
    pairs, which, count = np.unique(pair, return_inverse=True, return_counts=True)
    draws = np.random.default_rng(0).integers(0, 2**64, int(source.max()) + 1, dtype=np.uint64)
    signature = np.zeros(len(pairs), np.uint64)  # sums of random 64-bit numbers: equal sums mean equal sets of states
    np.add.at(signature, which, draws[source])
    _, group, size = np.unique(signature, return_inverse=True, return_counts=True)
    size = size[group]
    saved = count - count / size - 1  # by moving a pair: its share of what its group saves
    if saved[saved > 0].sum() < _LEAST_SAVED:
        return np.full(len(pair), -1), 0
    epsilon_states, epsilon = np.unique(np.where(saved > 0, group, -1), return_inverse=True)
    lacking = int(epsilon_states[0] == -1)
    return (epsilon - lacking)[which], len(epsilon_states) - lacking


def _numbering(count: Indices, states: int) -> Indices:
    """[states, then epsilon states] -> node: by out-degree, descending, within each kind."""
    order = np.concatenate(
        [np.argsort(-count[:states], kind="stable"), states + np.argsort(-count[states:], kind="stable")]
    )
    numbers = np.empty(len(count), np.intp)
    numbers[order] = np.arange(len(count))
    return numbers


def _transitions(first: Indices, label: Indices, target: Indices) -> Transitions:
    segments = Segments(np.diff(first))
    return Transitions(
        segments=segments, label=label[first[0] :][segments.layout], target=target[first[0] :][segments.layout]
    )


def _compiled(first: Indices, label: Indices, target: Indices, states: int) -> tuple[Ints, ...]:
    """[nodes + 1] where the transitions of each node begin; their labels and targets, node by node; and the same rank
    by rank, of the states, then of the epsilon states: the first transition of each node, then the second ones."""
    degree = np.diff(first)
    node = np.repeat(np.arange(len(degree)), degree)
    rank = np.arange(len(node)) - np.repeat(first[:-1], degree)
    order = np.lexsort((node, rank, node >= states))
    return tuple(each.astype(np.int32) for each in (first, label, target, label[order], target[order]))
