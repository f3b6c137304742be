"""The edges of an automaton as a step over the canvas reads them: what several states share is read once.

Where the same edges leave many states (any key may follow, wherever the last one ended), they are moved to a *hub*: a
node that all of these states reach without a token. Half of the edges of a large schema go away so, and the paths are
the same. Made once per automaton and kept as long as it lives. Knows edges, no logits.
"""

from dataclasses import dataclass
from typing import Final
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from diffusion_worker.constraints.tokens.distance import spans
from diffusion_worker.constraints.tokens.segmented_reduce import Runs
from diffusion_worker.constraints.tokens.token_automaton import TokenAutomaton

Indices = NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ways:
    """The ways out of neighbouring nodes, in the layout of their runs: read a class, stand at a node."""

    runs: Runs
    label: Indices
    target: Indices


@dataclass(frozen=True, slots=True, kw_only=True)
class Wiring:
    """States and hubs together are nodes: first the states, then the hubs, each with most ways out first. A way to a
    hub reads *any token, unscored* (it weighs nothing) and no token; a way from a hub leads to a state."""

    states: int
    nodes: int
    node_of: Indices  # [states] of the automaton -> node
    first: Indices  # [states + 1] the automaton's edges, as it has them
    source: Indices
    label: Indices
    target: Indices
    target_node: Indices  # [edges] -> the node it leads to
    from_states: Ways
    from_hubs: Ways | None

    def edges_of(self, states: Indices) -> tuple[Indices, Indices]:
        """Indices of the edges out of some states, and how many each has."""
        first, stop = self.first.take(states), self.first.take(states + 1)
        return spans(first, stop), stop - first


_LEAST_SAVED: Final = 2000  # ways; about as many as the calls of numpy for one more kind of node take time for
_KEPT: Final[WeakKeyDictionary[TokenAutomaton, Wiring]] = WeakKeyDictionary()


def wiring_of(automaton: TokenAutomaton) -> Wiring:
    """The wiring of an automaton, made at the first call."""
    wiring = _KEPT.get(automaton)
    if wiring is None:
        wiring = _KEPT[automaton] = _wired(automaton)
    return wiring


def _wired(automaton: TokenAutomaton) -> Wiring:
    states = automaton.states
    source, label, target = (each.astype(np.intp) for each in (automaton.source, automaton.label, automaton.target))
    hub, hubs = _hubs(source, label * states + target)
    own = np.flatnonzero(hub < 0)
    into = np.unique(source[hub >= 0] * hubs + hub[hub >= 0])
    _, out = np.unique(np.where(hub >= 0, (label * hubs + hub) * states + target, -1), return_index=True)
    out = out[hub[out] >= 0]
    ways_source = np.concatenate([source[own], into // max(hubs, 1), states + hub[out]])
    ways_label = np.concatenate([label[own], np.full(len(into), automaton.classes.classes), label[out]])
    ways_target = np.concatenate([target[own], states + into % max(hubs, 1), target[out]])

    node_of = _names(np.bincount(ways_source, minlength=states + hubs), states)
    order = np.argsort(node_of[ways_source], kind="stable")
    ways_label, ways_target = ways_label[order], node_of[ways_target[order]]
    first = np.append(0, np.cumsum(np.bincount(node_of[ways_source], minlength=states + hubs)))
    return Wiring(
        states=states,
        nodes=states + hubs,
        node_of=node_of[:states],
        first=automaton.first_edge.astype(np.intp),
        source=source,
        label=label,
        target=target,
        target_node=node_of[target],
        from_states=_ways(first[: states + 1], ways_label, ways_target),
        from_hubs=_ways(first[states:], ways_label, ways_target) if hubs else None,
    )


def _hubs(source: Indices, pair: Indices) -> tuple[Indices, int]:
    """[edges] the hub that an edge is moved to, or -1; and how many hubs there are. `pair` says what an edge reads and
    where it leads. Pairs that leave the very same states share a hub if that saves ways: n pairs of m states are n * m
    edges, or n + m ways. Small automata have none."""
    pairs, which, count = np.unique(pair, return_inverse=True, return_counts=True)
    draws = np.random.default_rng(0).integers(0, 2**64, int(source.max()) + 1, dtype=np.uint64)
    signature = np.zeros(len(pairs), np.uint64)  # sums of 64 random bits: equal sums are equal sets of states
    np.add.at(signature, which, draws[source])
    _, group, size = np.unique(signature, return_inverse=True, return_counts=True)
    size = size[group]
    saved = count - count / size - 1  # by moving a pair, its part of what all of its group save
    if saved[saved > 0].sum() < _LEAST_SAVED:
        return np.full(len(pair), -1), 0
    hubs, hub = np.unique(np.where(saved > 0, group, -1), return_inverse=True)
    lacking = int(hubs[0] == -1)
    return (hub - lacking)[which], len(hubs) - lacking


def _names(count: Indices, states: int) -> Indices:
    """[states, then hubs] -> node: most ways out first among the states, and among the hubs."""
    order = np.concatenate(
        [np.argsort(-count[:states], kind="stable"), states + np.argsort(-count[states:], kind="stable")]
    )
    names = np.empty(len(count), np.intp)
    names[order] = np.arange(len(count))
    return names


def _ways(first: Indices, label: Indices, target: Indices) -> Ways:
    runs = Runs(np.diff(first))
    return Ways(runs=runs, label=label[first[0] :][runs.layout], target=target[first[0] :][runs.layout])
