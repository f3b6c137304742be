"""The forward-backward algorithm: log masses of all allowed texts on a canvas, and the marginals of each position.

Sums where `viterbi` takes maxima, in log space. An automaton times independent positions is a hidden Markov model (Dang
and Ermon 2026, arXiv 2607.07026), so masses, marginals and joint samples are exact.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from diffusion_worker.constraints.inference.equivalence_class_scores import Floats
from diffusion_worker.constraints.inference.matcher import Matcher
from diffusion_worker.constraints.inference.token_set_scores import SetMasses, TokenSetMasses, levels
from diffusion_worker.constraints.inference.viterbi import backward_pass
from diffusion_worker.constraints.tokens.distance import spans
from diffusion_worker.constraints.tokens.segmented_reduce import Segments
from diffusion_worker.constraints.tokens.token_automaton import TokenAutomaton, TokenSets
from diffusion_worker.constraints.tokens.transition_graph import Indices, TransitionGraph, transition_graph_of

Doubles = NDArray[np.float64]
Flows = tuple[
    Indices, Doubles, list[int]
]  # edge labels and edge probabilities of all positions, and the number of edges per position
_LOWEST: Final = -1e300  # replaces -inf where a difference is taken
_FEW_EDGES: Final = 512
# a probability: a thousand such nodes at each of 256 positions stay below the rounding of float32
_NEGLIGIBLE: Final = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Marginals:
    """The distribution of each position, given that the whole text satisfies the constraint; over the matcher's
    remaining positions."""

    masses: TokenSetMasses
    class_probability: Doubles  # [positions, classes] that the token is in the equivalence class
    padding: Doubles  # [positions] probability that the text has ended earlier
    entropy: Doubles  # [positions] of the marginal, in nats

    def probability(self, tokens: NDArray[np.int32], automaton: TokenAutomaton) -> Doubles:
        """[positions] the probability of each token of `tokens` [canvas] at its position."""
        positions = np.arange(len(self.class_probability))
        tokens = tokens[: len(positions)]
        classes = automaton.token_sets.class_of[tokens]
        scores = self.masses.scores
        logprob = scores.logits[positions, tokens] - scores.normaliser[positions]
        within = np.exp(logprob - self.masses.node_mass[automaton.token_sets.leaf_of[classes], positions])
        probability: Doubles = self.class_probability[positions, classes] * within
        return probability + np.where(tokens == automaton.padding_id, self.padding, 0.0)

    def token_probabilities(self, automaton: TokenAutomaton) -> Floats:
        """[canvas, vocab] the probability of every token at every position, exactly 0 where it is not allowed. The
        padding token has the mass after the end, and all mass beyond the remaining positions."""
        scores, token_sets = self.masses.scores, automaton.token_sets
        with np.errstate(divide="ignore"):
            shift_of_class = (
                np.log(self.class_probability)
                - self.masses.node_mass[token_sets.leaf_of, : len(self.class_probability)].T
            )
        shift_of_class -= scores.normaliser[: len(self.class_probability), None]
        held = np.zeros_like(scores.logits)
        for row, logits, shift in zip(held, scores.logits, shift_of_class.astype(np.float32), strict=False):
            np.add(logits, np.take(shift, token_sets.class_of, mode="clip"), out=row)
            np.exp(row, out=row)
        held[: len(self.padding), automaton.padding_id] += self.padding
        held[len(self.padding) :, automaton.padding_id] = 1.0
        return held


def backward_masses(matcher: Matcher, masses: SetMasses) -> Doubles:
    """[positions + 1, nodes] the log mass of all completions from each node that close in time; see
    `viterbi.backward_best`. Row 0 at the matcher's node is the log probability that the model satisfies the constraint
    when it samples every position independently.
    """
    with np.errstate(divide="ignore"):  # nodes from which no text closes in time
        mass = masses.mass[: matcher.remaining_positions(len(masses.mass))]
        return backward_pass(matcher, mass, LogAdder, sums=True)


def marginals(matcher: Matcher, masses: TokenSetMasses, backward: Doubles) -> Marginals:
    """Marginals of a canvas; `backward` is the result of `backward_masses`."""
    return Marginals(masses=masses, **_marginals(matcher, masses, backward))


def marginal_entropy(matcher: Matcher, masses: SetMasses, backward: Doubles) -> Doubles:
    """[positions] entropies of the marginals, without the logits."""
    return _marginals(matcher, masses, backward)["entropy"]


def _marginals(matcher: Matcher, masses: SetMasses, backward: Doubles) -> dict[str, Doubles]:
    positions, token_sets = len(backward) - 1, matcher.automaton.token_sets
    set_probability = _set_posterior(matcher, masses.mass[:positions], backward)
    class_probability = _class_posterior(token_sets, masses, set_probability[:, :-1])
    padding = set_probability[:, -1]
    entropy = (
        (class_probability * masses.class_entropy[:positions]).sum(axis=1)
        - _xlogx(class_probability).sum(axis=1)
        - _xlogx(padding)
    )
    return {"class_probability": class_probability, "padding": padding, "entropy": np.maximum(entropy, 0.0)}


def _set_posterior(matcher: Matcher, mass: Doubles, backward: Doubles) -> Doubles:
    """[positions, sets + 1] the probability that a position reads each token set.

    The forward pass, in probabilities: the mass at a state is divided among its edges in proportion to the mass of
    their completions.
    """
    graph, size = transition_graph_of(matcher.automaton), matcher.automaton.token_sets.sets + 1
    forward = np.zeros(graph.states)
    forward[matcher.state] = 1.0
    flows = _all_flows if len(graph.label) <= _FEW_EDGES else _reachable_flows
    label, flow, counts = flows(graph, forward, mass, backward)
    row = np.repeat(np.arange(len(mass)) * size, counts)
    return _sums(row + label, flow, len(mass) * size).reshape(len(mass), size)


def _all_flows(graph: TransitionGraph, forward: Doubles, mass: Doubles, backward: Doubles) -> Flows:
    """Over all edges, all positions at once: the fewest numpy calls."""
    label, value = graph.label, np.maximum(backward[:-1, graph.node_of], _LOWEST)
    flow = mass[:, label] + backward[1:, graph.target_node] - value[:, graph.source]
    np.exp(flow, out=flow)
    for share in flow:
        np.multiply(share, forward.take(graph.source), out=share)
        forward = _sums(graph.target, share, graph.states)
    return np.tile(label, len(mass)), flow.ravel(), [len(label)] * len(mass)


def _reachable_flows(graph: TransitionGraph, forward: Doubles, mass: Doubles, backward: Doubles) -> Flows:
    """Over the edges of states with non-negligible mass: usually a handful of thousands."""
    labels, flows = [np.empty(0, np.intp)], [np.empty(0)]
    for position, score in enumerate(mass):
        states = np.flatnonzero(forward > _NEGLIGIBLE)
        edges, count = graph.edges_of(states)
        label = graph.label.take(edges)
        flow = score.take(label)
        flow += backward[position + 1].take(graph.target_node.take(edges))
        flow += (np.log(forward.take(states)) - backward[position].take(graph.node_of.take(states))).repeat(count)
        np.exp(flow, out=flow)
        forward = _sums(graph.target.take(edges), flow, graph.states)
        labels.append(label)
        flows.append(flow)
    return np.concatenate(labels), np.concatenate(flows), [len(label) for label in labels[1:]]


def _class_posterior(token_sets: TokenSets, masses: SetMasses, set_probability: Doubles) -> Doubles:
    """[positions, classes] the probability of each equivalence class: that of its sets times its share of them,
    propagated down the tree."""
    positions = len(set_probability)
    position, label = np.nonzero(set_probability)
    first, stop = token_sets.set_start[label], token_sets.set_start[label + 1]
    node, owner = token_sets.set_node[spans(first, stop)], np.repeat(np.arange(len(label)), stop - first)
    mass = masses.node_mass[:, :positions]
    share = mass[node, position[owner]] - masses.mass[position, label][owner]
    share = np.exp(np.minimum(share, 0.0)) * set_probability[position, label][owner]
    posterior = _sums(node * positions + position[owner], share, token_sets.nodes * positions).reshape(
        token_sets.nodes, positions
    )
    for parents, children in reversed(list(levels(token_sets))):
        above = mass[parents, None]
        down = np.exp(np.minimum(mass[children].reshape(len(above), 2, positions) - above, 0.0))
        posterior[children] += (posterior[parents, None] * down).reshape(2 * len(above), positions)
    return posterior[token_sets.leaf_of].T


class LogAdder:
    """Log-sum-exp over segments. A segment of -inf only gives -inf (numpy reports a division by zero)."""

    def __init__(self, segments: Segments) -> None:
        self._segments = segments
        self._top = np.empty(segments.count)

    def __call__(self, values: Doubles, out: Doubles) -> Doubles:
        """[segments] from members in the layout of the segments; overwrites `values`."""
        top = self._top
        np.maximum(self._segments.reduce(np.maximum, values, top), _LOWEST, out=top)
        self._segments.subtract(values, top)
        np.exp(values, out=values)
        self._segments.reduce(np.add, values, out)
        np.log(out, out=out)
        out += top
        return out


def _sums(index: NDArray[np.intp], values: Doubles, size: int) -> Doubles:
    """[size] the sum of the values per index."""
    return np.bincount(index, values, minlength=size).astype(np.float64, copy=False)


def _xlogx(values: Doubles) -> Doubles:
    """values * log(values), 0 at 0."""
    return values * np.log(np.maximum(values, np.finfo(np.float64).tiny))
