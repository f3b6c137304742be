"""All texts that the constraint allows on a canvas, weighed: what is left to write, what each position may hold.

Sums where `viterbi` takes maxima, forwards and backwards, in log space: an automaton times independent positions is a
hidden Markov model (Dang and Ermon 2026, arXiv 2607.07026), so masses, marginals and joint samples are exact. Knows
class masses and states.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from diffusion_worker.constraints.inference.equivalence_class_scores import Floats
from diffusion_worker.constraints.inference.matcher import Matcher
from diffusion_worker.constraints.inference.token_set_scores import ClassMasses, levels
from diffusion_worker.constraints.inference.viterbi import swept
from diffusion_worker.constraints.tokens.distance import spans
from diffusion_worker.constraints.tokens.segmented_reduce import Runs
from diffusion_worker.constraints.tokens.token_automaton import TokenAutomaton, TokenClasses
from diffusion_worker.constraints.tokens.transition_graph import Indices, Wiring, wiring_of

Doubles = NDArray[np.float64]
Flows = tuple[Indices, Doubles, list[int]]  # label and probability of edges, position after position; how many each
_LOWEST: Final = -1e300  # stands for -inf where a difference is taken
_FEW_EDGES: Final = 512
_NOBODY: Final = 1e-12  # a probability: a thousand such nodes at each of 256 positions weigh as much as float32 rounds


@dataclass(frozen=True, slots=True, kw_only=True)
class Marginals:
    """What each position holds, given that the whole text keeps to the constraint. Positions are those of the room."""

    masses: ClassMasses
    atom: Doubles  # [positions, atoms] probability that the token is one of the atom
    tail: Doubles  # [positions] probability that the text has ended before
    entropy: Doubles  # [positions] nats

    def probability(self, tokens: NDArray[np.int32], automaton: TokenAutomaton) -> Doubles:
        """[positions] probability of each token of `tokens` [canvas] at its place."""
        positions = np.arange(len(self.atom))
        tokens = tokens[: len(positions)]
        atoms = automaton.classes.atom_of[tokens]
        scores = self.masses.scores
        logprob = scores.logits[positions, tokens] - scores.normaliser[positions]
        within = np.exp(logprob - self.masses.node_mass[automaton.classes.leaf_of[atoms], positions])
        probability: Doubles = self.atom[positions, atoms] * within
        return probability + np.where(tokens == automaton.tail_id, self.tail, 0.0)

    def projected(self, automaton: TokenAutomaton) -> Floats:
        """[canvas, vocab] probability of every token at every place, exactly 0 for what may not stand there; the tail
        token has what is behind the end, and all that is beyond the room."""
        scores, classes = self.masses.scores, automaton.classes
        with np.errstate(divide="ignore"):
            tilt = np.log(self.atom) - self.masses.node_mass[classes.leaf_of, : len(self.atom)].T
        tilt -= scores.normaliser[: len(self.atom), None]
        held = np.zeros_like(scores.logits)
        for row, logits, shift in zip(held, scores.logits, tilt.astype(np.float32), strict=False):
            np.add(logits, np.take(shift, classes.atom_of, mode="clip"), out=row)
            np.exp(row, out=row)
        held[: len(self.tail), automaton.tail_id] += self.tail
        held[len(self.tail) :, automaton.tail_id] = 1.0
        return held


def remaining(matcher: Matcher, masses: ClassMasses) -> Doubles:
    """[room + 1, nodes] log mass of all ways on from each node that close in time, as `viterbi.completions`. `[0]` at
    the node of the cursor is the probability that the net, sampling every position by itself, keeps to the constraint.
    """
    with np.errstate(divide="ignore"):  # nodes from which no text closes in time
        return swept(matcher, masses.mass[: matcher.room(len(masses.mass))], LogAdder)


def marginals(matcher: Matcher, masses: ClassMasses, onward: Doubles) -> Marginals:
    """Marginals of a canvas; `onward` is what `remaining` gave."""
    room, classes = len(onward) - 1, matcher.automaton.classes
    used = _label_posterior(matcher, masses.mass[:room], onward)
    atom = _atom_posterior(classes, masses, used[:, :-1])
    tail = used[:, -1]
    entropy = (atom * masses.atom_entropy[:room]).sum(axis=1) - _xlogx(atom).sum(axis=1) - _xlogx(tail)
    return Marginals(masses=masses, atom=atom, tail=tail, entropy=np.maximum(entropy, 0.0))


def _label_posterior(matcher: Matcher, mass: Doubles, onward: Doubles) -> Doubles:
    """[room, classes + 1] probability that a position reads each class.

    Forwards over the positions, in probabilities: who stands at a state takes each of its edges as often as the edge
    has a share of the mass that goes on from there.
    """
    wiring, size = wiring_of(matcher.automaton), matcher.automaton.classes.classes + 1
    standing = np.zeros(wiring.states)
    standing[matcher.state] = 1.0
    flows = _all_flows if len(wiring.label) <= _FEW_EDGES else _flows_of_somebody
    label, flow, counts = flows(wiring, standing, mass, onward)
    row = np.repeat(np.arange(len(mass)) * size, counts)
    return _sums(row + label, flow, len(mass) * size).reshape(len(mass), size)


def _all_flows(wiring: Wiring, standing: Doubles, mass: Doubles, onward: Doubles) -> Flows:
    """Over all edges, the shares of all positions at once: fewest calls of numpy."""
    label, value = wiring.label, np.maximum(onward[:-1, wiring.node_of], _LOWEST)
    flow = mass[:, label] + onward[1:, wiring.target_node] - value[:, wiring.source]
    np.exp(flow, out=flow)
    for share in flow:
        np.multiply(share, standing.take(wiring.source), out=share)
        standing = _sums(wiring.target, share, wiring.states)
    return np.tile(label, len(mass)), flow.ravel(), [len(label)] * len(mass)


def _flows_of_somebody(wiring: Wiring, standing: Doubles, mass: Doubles, onward: Doubles) -> Flows:
    """Over the edges of states where somebody stands: a handful of thousands, as a rule."""
    labels, flows = [np.empty(0, np.intp)], [np.empty(0)]
    for position, score in enumerate(mass):
        states = np.flatnonzero(standing > _NOBODY)
        edges, count = wiring.edges_of(states)
        label = wiring.label.take(edges)
        flow = score.take(label)
        flow += onward[position + 1].take(wiring.target_node.take(edges))
        flow += (np.log(standing.take(states)) - onward[position].take(wiring.node_of.take(states))).repeat(count)
        np.exp(flow, out=flow)
        standing = _sums(wiring.target.take(edges), flow, wiring.states)
        labels.append(label)
        flows.append(flow)
    return np.concatenate(labels), np.concatenate(flows), [len(label) for label in labels[1:]]


def _atom_posterior(classes: TokenClasses, masses: ClassMasses, used: Doubles) -> Doubles:
    """[room, atoms] probability of each atom: what its classes are used, times its share of them, down the tree."""
    room = len(used)
    position, label = np.nonzero(used)
    first, stop = classes.class_start[label], classes.class_start[label + 1]
    node, owner = classes.class_node[spans(first, stop)], np.repeat(np.arange(len(label)), stop - first)
    mass = masses.node_mass[:, :room]
    share = mass[node, position[owner]] - masses.mass[position, label][owner]
    share = np.exp(np.minimum(share, 0.0)) * used[position, label][owner]
    posterior = _sums(node * room + position[owner], share, classes.nodes * room).reshape(classes.nodes, room)
    for parents, children in reversed(list(levels(classes))):
        above = mass[parents, None]
        down = np.exp(np.minimum(mass[children].reshape(len(above), 2, room) - above, 0.0))
        posterior[children] += (posterior[parents, None] * down).reshape(2 * len(above), room)
    return posterior[classes.leaf_of].T


class LogAdder:
    """Log of sums of exponentials over runs; a run of -inf alone gives -inf (numpy says it divides by zero)."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._top = np.empty(runs.count)

    def __call__(self, values: Doubles, out: Doubles) -> Doubles:
        """[runs] from members in the layout of the runs, which are spent."""
        top = self._top
        np.maximum(self._runs.reduce(np.maximum, values, top), _LOWEST, out=top)
        self._runs.lower(values, top)
        np.exp(values, out=values)
        self._runs.reduce(np.add, values, out)
        np.log(out, out=out)
        out += top
        return out


def _sums(place: NDArray[np.intp], values: Doubles, size: int) -> Doubles:
    """[size] the sum of the values at each place."""
    return np.bincount(place, values, minlength=size).astype(np.float64, copy=False)


def _xlogx(values: Doubles) -> Doubles:
    """values * log(values), 0 at 0."""
    return values * np.log(np.maximum(values, np.finfo(np.float64).tiny))
