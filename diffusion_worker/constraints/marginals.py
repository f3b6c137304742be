"""All texts that the constraint allows on a canvas, weighed: what is left to write, what each position may hold.

Sums where `viterbi` takes maxima, forwards and backwards, in log space: an automaton times independent positions is a
hidden Markov model (Dang and Ermon 2026, arXiv 2607.07026), so masses, marginals and joint samples are exact. Knows
class masses and states.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from diffusion_worker.constraints.class_scores import ClassMasses
from diffusion_worker.constraints.cursor import Cursor
from diffusion_worker.constraints.token_automaton import TokenAutomaton
from diffusion_worker.constraints.viterbi import closing

Doubles = NDArray[np.float64]
Indices = NDArray[np.intp]
_AT_ONCE: Final = 65536  # pairs of position and edge
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
        within = np.exp(logprob - self.masses.atom_mass[positions, atoms])
        probability: Doubles = self.atom[positions, atoms] * within
        return probability + np.where(tokens == automaton.tail_id, self.tail, 0.0)


def remaining(cursor: Cursor, masses: ClassMasses) -> Doubles:
    """[room + 1, states] log mass of all ways on from each state that close in time. `[0, cursor.state]` is the
    probability that the net, sampling every position by itself, keeps to the constraint."""
    automaton = cursor.automaton
    mass = masses.mass[: cursor.room(len(masses.mass))]
    label, target = automaton.label.astype(np.intp), automaton.target.astype(np.intp)
    add = _LogAdder(automaton.first_edge)
    values = np.empty((len(mass) + 1, automaton.states))
    values[-1] = closing(cursor, len(mass))
    onward, step = np.empty(automaton.edges), np.empty(automaton.edges)
    for position in range(len(mass) - 1, -1, -1):
        np.take(values[position + 1], target, out=onward, mode="clip")
        np.take(mass[position], label, out=step, mode="clip")
        onward += step
        values[position] = add(onward)
    return values


def marginals(cursor: Cursor, masses: ClassMasses, onward: Doubles) -> Marginals:
    """Marginals of a canvas; `onward` is what `remaining` gave."""
    automaton = cursor.automaton
    room = len(onward) - 1
    used = _label_posterior(automaton, masses.mass[:room], _arrivals(cursor, masses.mass[:room]), onward, cursor.state)
    atom = _atom_posterior(automaton, masses, used[:, :-1])
    tail = used[:, -1]
    entropy = (atom * masses.atom_entropy[:room]).sum(axis=1) - _xlogx(atom).sum(axis=1) - _xlogx(tail)
    return Marginals(masses=masses, atom=atom, tail=tail, entropy=np.maximum(entropy, 0.0))


def _arrivals(cursor: Cursor, mass: Doubles) -> Doubles:
    """[room + 1, states] log mass of all ways from the cursor to each state."""
    automaton = cursor.automaton
    order = np.argsort(automaton.target, kind="stable")
    label, source = automaton.label[order].astype(np.intp), automaton.source[order].astype(np.intp)
    entered, first = np.unique(automaton.target[order], return_index=True)
    add = _LogAdder(np.append(first, len(order)))
    values = np.full((len(mass) + 1, automaton.states), -np.inf)
    values[0, cursor.state] = 0.0
    onward, step = np.empty(automaton.edges), np.empty(automaton.edges)
    for position in range(len(mass)):
        np.take(values[position], source, out=onward, mode="clip")
        np.take(mass[position], label, out=step, mode="clip")
        onward += step
        values[position + 1, entered] = add(onward)
    return values


class _LogAdder:
    """Log of sums of exponentials over runs of an array; a run of -inf alone gives -inf, without a warning."""

    def __init__(self, first: NDArray[np.integer]) -> None:
        self._first = first[:-1].astype(np.intp)
        self._counts = np.diff(first)

    def __call__(self, values: Doubles) -> Doubles:
        """[runs] from [runs laid end to end]; `values` are spent."""
        top = np.maximum.reduceat(values, self._first)
        finite = np.maximum(top, _LOWEST)
        values -= np.repeat(finite, self._counts)
        np.exp(values, out=values)
        total = np.add.reduceat(values, self._first)
        with np.errstate(divide="ignore"):
            np.log(total, out=total)
        total += finite
        return total


def _label_posterior(
    automaton: TokenAutomaton, mass: Doubles, arrived: Doubles, onward: Doubles, state: int
) -> Doubles:
    """[room, classes + 1] probability that a position takes an edge of each class."""
    order = np.argsort(automaton.label, kind="stable")
    source, target = automaton.source[order], automaton.target[order]
    label, first = (
        automaton.label[order],
        np.searchsorted(automaton.label[order], np.arange(automaton.classes.classes + 1)),
    )
    used = np.empty((len(mass), automaton.classes.classes + 1))
    rows = max(1, _AT_ONCE // automaton.edges)
    for start in range(0, len(mass), rows):
        block = slice(start, min(start + rows, len(mass)))
        log_posterior = arrived[block][:, source] + mass[block][:, label] - onward[0, state]
        log_posterior += onward[block.start + 1 : block.stop + 1][:, target]
        used[block] = np.add.reduceat(np.exp(log_posterior, out=log_posterior), first, axis=1)
    return used


def _atom_posterior(automaton: TokenAutomaton, masses: ClassMasses, used: Doubles) -> Doubles:
    """[room, atoms] probability of each atom: what its classes are used, times its share of them."""
    classes = automaton.classes
    label_of = np.repeat(np.arange(classes.classes), np.diff(classes.class_start))
    order = np.argsort(classes.class_atom, kind="stable")
    atoms, labels = classes.class_atom[order], label_of[order]
    present, first = np.unique(atoms, return_index=True)
    posterior = np.zeros((len(used), classes.atoms))
    rows = max(1, _AT_ONCE // len(order))
    for start in range(0, len(used), rows):
        block = slice(start, min(start + rows, len(used)))
        share = masses.atom_mass[block][:, atoms] - masses.mass[block][:, labels]
        np.exp(np.minimum(share, 0.0, out=share), out=share)
        share *= used[block][:, labels]
        posterior[block, present] = np.add.reduceat(share, first, axis=1)
    return posterior


def _xlogx(values: Doubles) -> Doubles:
    """values * log(values), 0 at 0."""
    return values * np.log(np.maximum(values, np.finfo(np.float64).tiny))
