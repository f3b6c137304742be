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
from diffusion_worker.constraints.runs import Runs
from diffusion_worker.constraints.token_automaton import TokenAutomaton, TokenClasses
from diffusion_worker.constraints.viterbi import closing

Doubles = NDArray[np.float64]
_LOWEST: Final = -1e300  # stands for -inf where a difference is taken


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
    """[room + 1, states] log mass of all ways on from each state that close in time. `[0, cursor.state]` is the
    probability that the net, sampling every position by itself, keeps to the constraint."""
    automaton = cursor.automaton
    mass = masses.mass[: cursor.room(len(masses.mass))]
    add = LogAdder(np.diff(automaton.first_edge))
    label, target = automaton.label[add.layout].astype(np.intp), automaton.target[add.layout].astype(np.intp)
    values = np.empty((len(mass) + 1, automaton.states))
    values[-1] = closing(cursor, len(mass))
    onward, step = np.empty((2, automaton.edges))
    for position in range(len(mass) - 1, -1, -1):
        values[position + 1].take(target, out=onward, mode="clip")
        mass[position].take(label, out=step, mode="clip")
        onward += step
        values[position], _ = add(onward)
    return values


def marginals(cursor: Cursor, masses: ClassMasses, onward: Doubles) -> Marginals:
    """Marginals of a canvas; `onward` is what `remaining` gave."""
    room = len(onward) - 1
    used = _label_posterior(cursor, masses.mass[:room], onward)
    atom = _atom_posterior(cursor.automaton.classes, masses, used[:, :-1])
    tail = used[:, -1]
    entropy = (atom * masses.atom_entropy[:room]).sum(axis=1) - _xlogx(atom).sum(axis=1) - _xlogx(tail)
    return Marginals(masses=masses, atom=atom, tail=tail, entropy=np.maximum(entropy, 0.0))


def _label_posterior(cursor: Cursor, mass: Doubles, onward: Doubles) -> Doubles:
    """[room, classes + 1] probability that a position takes an edge of each class.

    Forwards over the positions: what arrives at a state, times what goes on from it. Both are relative to the largest
    edge into that state, so exponentials are taken once per edge.
    """
    automaton = cursor.automaton
    entered, order, add = _by_target(automaton)
    label, source = automaton.label[order].astype(np.intp), automaton.source[order].astype(np.intp)
    arrived = np.full(automaton.states, -np.inf)
    arrived[cursor.state] = 0.0
    used = np.empty((len(mass), automaton.classes.classes + 1))
    edge, step = np.empty((2, automaton.edges))
    for position in range(len(mass)):
        arrived.take(source, out=edge, mode="clip")
        mass[position].take(label, out=step, mode="clip")
        edge += step
        total, top = add(edge)
        arrived[:] = -np.inf
        arrived[entered] = total
        top += onward[position + 1, entered]
        top -= onward[0, cursor.state]
        edge *= np.exp(top).take(add.owner, out=step, mode="clip")
        used[position] = np.bincount(label, edge, minlength=used.shape[1])
    return used


def _by_target(automaton: TokenAutomaton) -> tuple[NDArray[np.int64], NDArray[np.int64], "LogAdder"]:
    """The states that edges enter, most first; the edges in the layout of their sums, and what adds them."""
    entering = np.bincount(automaton.target, minlength=automaton.states)
    entered = np.argsort(-entering, kind="stable")[: np.count_nonzero(entering)]
    place = np.empty(automaton.states, np.int64)
    place[entered] = np.arange(len(entered))
    add = LogAdder(entering[entered])
    return entered, np.argsort(place[automaton.target], kind="stable")[add.layout], add


def _atom_posterior(classes: TokenClasses, masses: ClassMasses, used: Doubles) -> Doubles:
    """[room, atoms] probability of each atom: what its classes are used, times its share of them, down the tree."""
    owner = np.repeat(np.arange(classes.classes), np.diff(classes.class_start))
    order = np.argsort(classes.class_node, kind="stable")
    node, label = classes.class_node[order], owner[order]
    present, first = np.unique(node, return_index=True)
    room = len(used)
    mass = masses.node_mass[:room]
    share = np.exp(np.minimum(mass[:, node] - masses.mass[:room, label], 0.0))
    posterior = np.zeros((room, classes.nodes))
    posterior[:, present] = np.add.reduceat(share * used[:, label], first, axis=1)
    for parents, children in reversed(list(levels(classes))):
        down = np.exp(np.minimum(mass[:, children] - np.repeat(mass[:, parents], 2, axis=1), 0.0))
        posterior[:, children] += np.repeat(posterior[:, parents], 2, axis=1) * down
    return posterior[:, classes.leaf_of]


class LogAdder:
    """Log of sums of exponentials over runs; a run of -inf alone gives -inf, without a warning."""

    def __init__(self, lengths: NDArray[np.integer]) -> None:
        self._runs = Runs(lengths)
        self.layout, self.owner = self._runs.layout, self._runs.owner
        self._top, self._total = np.empty((2, len(lengths)))
        self._spread = np.empty(len(self.owner))

    def __call__(self, values: Doubles) -> tuple[Doubles, Doubles]:
        """From members in the layout of `Runs`: sums and largest of [runs], which stand until the next call. What
        `values` holds then are the exponentials relative to the largest."""
        top, total = self._top, self._total
        np.maximum(self._runs.reduce(np.maximum, values, top), _LOWEST, out=top)
        values -= top.take(self.owner, out=self._spread, mode="clip")
        np.exp(values, out=values)
        self._runs.reduce(np.add, values, total)
        with np.errstate(divide="ignore"):
            np.log(total, out=total)
        total += top
        return total, top


def _xlogx(values: Doubles) -> Doubles:
    """values * log(values), 0 at 0."""
    return values * np.log(np.maximum(values, np.finfo(np.float64).tiny))
