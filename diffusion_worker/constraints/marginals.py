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
from diffusion_worker.constraints.token_automaton import TokenAutomaton, TokenClasses
from diffusion_worker.constraints.viterbi import closing

Doubles = NDArray[np.float64]
Indices = NDArray[np.intp]
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
    label, target = automaton.label.astype(np.intp), automaton.target.astype(np.intp)
    add = LogAdder(automaton.first_edge)
    values = np.empty((len(mass) + 1, automaton.states))
    values[-1] = closing(cursor, len(mass))
    onward, step = np.empty(automaton.edges), np.empty(automaton.edges)
    for position in range(len(mass) - 1, -1, -1):
        np.take(values[position + 1], target, out=onward, mode="clip")
        np.take(mass[position], label, out=step, mode="clip")
        onward += step
        values[position] = add(onward)[0]
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
    order = np.argsort(automaton.target, kind="stable")
    label, source = automaton.label[order].astype(np.intp), automaton.source[order].astype(np.intp)
    entered, first = np.unique(automaton.target[order], return_index=True)
    add = LogAdder(np.append(first, len(order)))
    arrived = np.full(automaton.states, -np.inf)
    arrived[cursor.state] = 0.0
    used = np.empty((len(mass), automaton.classes.classes + 1))
    edge, step = np.empty(automaton.edges), np.empty(automaton.edges)
    for position in range(len(mass)):
        np.take(arrived, source, out=edge, mode="clip")
        np.take(mass[position], label, out=step, mode="clip")
        edge += step
        total, top, share = add(edge)
        arrived[:] = -np.inf
        arrived[entered] = total
        top += onward[position + 1, entered]
        top -= onward[0, cursor.state]
        share *= add.spread(np.exp(top))
        used[position] = np.bincount(label, share, minlength=used.shape[1])
    return used


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
    """Log of sums of exponentials over runs of an array; a run of -inf alone gives -inf, without a warning."""

    def __init__(self, first: NDArray[np.integer]) -> None:
        self._first = first[:-1].astype(np.intp)
        self._counts = np.diff(first)
        self._share = np.empty(int(first[-1]), np.float32)  # of the largest in its run: single precision is enough

    def spread(self, values: Doubles) -> Doubles:
        """[runs laid end to end] from [runs]."""
        return np.repeat(values, self._counts)

    def __call__(self, values: Doubles) -> tuple[Doubles, Doubles, NDArray[np.float32]]:
        """From [runs laid end to end], which are spent: the sums and the largest of [runs], and the exponentials
        relative to the largest, which stand until the next call."""
        top = np.maximum.reduceat(values, self._first)
        np.maximum(top, _LOWEST, out=top)
        np.subtract(values, self.spread(top), out=self._share, casting="same_kind")
        np.exp(self._share, out=self._share)
        with np.errstate(divide="ignore"):
            total = np.log(np.add.reduceat(self._share, self._first, dtype=np.float64))
        total += top
        return total, top, self._share


def _xlogx(values: Doubles) -> Doubles:
    """values * log(values), 0 at 0."""
    return values * np.log(np.maximum(values, np.finfo(np.float64).tiny))
