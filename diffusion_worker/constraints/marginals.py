"""All texts that the constraint allows on a canvas, weighed: what is left to write, what each position may hold.

Sums where `viterbi` takes maxima, forwards and backwards, in log space: an automaton times independent positions is a
hidden Markov model (Dang and Ermon 2026, arXiv 2607.07026), so masses, marginals and joint samples are exact. Knows
class masses and states.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from diffusion_worker.constraints.class_scores import ClassMasses, Floats, levels
from diffusion_worker.constraints.cursor import Cursor
from diffusion_worker.constraints.distance import spans
from diffusion_worker.constraints.runs import Runs
from diffusion_worker.constraints.token_automaton import TokenAutomaton, TokenClasses
from diffusion_worker.constraints.viterbi import swept
from diffusion_worker.constraints.wiring import Indices, Wiring, wiring_of

Doubles = NDArray[np.float64]
_LOWEST: Final = -1e300  # stands for -inf where a difference is taken
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
        within = np.exp(logprob - self.masses.node_mass[positions, automaton.classes.leaf_of[atoms]])
        probability: Doubles = self.atom[positions, atoms] * within
        return probability + np.where(tokens == automaton.tail_id, self.tail, 0.0)

    def projected(self, automaton: TokenAutomaton) -> Floats:
        """[canvas, vocab] probability of every token at every place, exactly 0 for what may not stand there; the tail
        token has what is behind the end, and all that is beyond the room."""
        scores, classes = self.masses.scores, automaton.classes
        with np.errstate(divide="ignore"):
            tilt = np.log(self.atom) - self.masses.node_mass[: len(self.atom), classes.leaf_of]
        tilt -= scores.normaliser[: len(self.atom), None]
        held = np.zeros_like(scores.logits)
        for row, logits, shift in zip(held, scores.logits, tilt.astype(np.float32), strict=False):
            np.add(logits, np.take(shift, classes.atom_of, mode="clip"), out=row)
            np.exp(row, out=row)
        held[: len(self.tail), automaton.tail_id] += self.tail
        held[len(self.tail) :, automaton.tail_id] = 1.0
        return held


def remaining(cursor: Cursor, masses: ClassMasses) -> Doubles:
    """[room + 1, nodes] log mass of all ways on from each node that close in time, as in `viterbi.completions`. `[0]` at
    the node of the cursor is the probability that the net, sampling every position by itself, keeps to the constraint.
    """
    return swept(cursor, masses.mass[: cursor.room(len(masses.mass))], LogAdder)


def marginals(cursor: Cursor, masses: ClassMasses, onward: Doubles) -> Marginals:
    """Marginals of a canvas; `onward` is what `remaining` gave."""
    room, classes = len(onward) - 1, cursor.automaton.classes
    used = _label_posterior(cursor, masses.mass[:room], onward)
    atom = _atom_posterior(classes, masses, used[:, :-1])
    tail = used[:, -1]
    entropy = (atom * masses.atom_entropy[:room]).sum(axis=1) - _xlogx(atom).sum(axis=1) - _xlogx(tail)
    return Marginals(masses=masses, atom=atom, tail=tail, entropy=np.maximum(entropy, 0.0))


def _label_posterior(cursor: Cursor, mass: Doubles, onward: Doubles) -> Doubles:
    """[room, classes + 1] probability that a position reads each class.

    Forwards over the positions, in probabilities: who stands at a node takes each of its ways as often as the way has a
    share of the mass that goes on from there. Nodes where hardly anybody stands are left out.
    """
    wiring, classes = wiring_of(cursor.automaton), cursor.automaton.classes.classes
    standing = np.zeros(wiring.nodes)
    standing[wiring.node_of[cursor.state]] = 1.0
    used = np.empty((len(mass), classes + 1))
    for position, score in enumerate(mass):
        after = onward[position + 1]
        label, target, flow = _flow(wiring, standing[: wiring.states], onward[position], score, after)
        standing = np.bincount(target, flow, minlength=wiring.nodes)
        if wiring.from_hubs is not None:
            is_read = target < wiring.states
            hub_label, target, more = _flow(wiring, standing[wiring.states:], after, score, after, first=wiring.states)
            standing += np.bincount(target, more, minlength=wiring.nodes)
            label, flow = np.concatenate([label[is_read], hub_label]), np.concatenate([flow[is_read], more])
        used[position] = np.bincount(label, flow, minlength=classes + 1)
    return used


def _flow(
    wiring: Wiring, standing: Doubles, value: Doubles, score: Doubles, after: Doubles, *, first: int = 0
) -> tuple[Indices, Indices, Doubles]:
    """Labels, targets and probabilities of the ways out of the nodes from `first` on where somebody stands."""
    where = np.flatnonzero(standing > _NOBODY)
    nodes = where + first
    ways, count = wiring.ways_of(nodes)
    label, target = wiring.ways_label.take(ways), wiring.ways_target.take(ways)
    flow = score.take(label)
    flow += after.take(target)
    flow += np.repeat(np.log(standing.take(where)) - value.take(nodes), count)
    return label, target, np.exp(flow, out=flow)


def _atom_posterior(classes: TokenClasses, masses: ClassMasses, used: Doubles) -> Doubles:
    """[room, atoms] probability of each atom: what its classes are used, times its share of them, down the tree."""
    room = len(used)
    position, label = np.nonzero(used)
    first, stop = classes.class_start[label], classes.class_start[label + 1]
    node, owner = classes.class_node[spans(first, stop)], np.repeat(np.arange(len(label)), stop - first)
    mass = masses.node_mass[:room]
    share = mass[position[owner], node] - masses.mass[position, label][owner]
    share = np.exp(np.minimum(share, 0.0)) * used[position, label][owner]
    place = position[owner] * classes.nodes + node
    posterior = np.bincount(place, share, minlength=room * classes.nodes).reshape(room, classes.nodes)
    for parents, children in reversed(list(levels(classes))):
        down = np.exp(np.minimum(mass[:, children] - np.repeat(mass[:, parents], 2, axis=1), 0.0))
        posterior[:, children] += np.repeat(posterior[:, parents], 2, axis=1) * down
    return posterior[:, classes.leaf_of]


class LogAdder:
    """Log of sums of exponentials over runs; a run of -inf alone gives -inf, without a warning."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._top = np.empty(runs.count)
        self._spread = np.empty(len(runs.owner))

    def __call__(self, values: Doubles, out: Doubles) -> Doubles:
        """[runs] from members in the layout of the runs, which are spent."""
        top = self._top
        np.maximum(self._runs.reduce(np.maximum, values, top), _LOWEST, out=top)
        values -= top.take(self._runs.owner, out=self._spread, mode="clip")
        np.exp(values, out=values)
        self._runs.reduce(np.add, values, out)
        with np.errstate(divide="ignore"):
            np.log(out, out=out)
        out += top
        return out


def _xlogx(values: Doubles) -> Doubles:
    """values * log(values), 0 at 0."""
    return values * np.log(np.maximum(values, np.finfo(np.float64).tiny))
