"""What the logits say of every class of tokens: its likeliest member, its whole mass, the uncertainty within.

One pass over the logits, a few rows at a time so that they stay in the processor's cache. Everything is in log space
and relative to the largest logit of its own atom, so nothing underflows and nothing is a difference of large sums.
Knows classes, no states.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from diffusion_worker.constraints.token_automaton import TokenClasses

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
_AT_ONCE: Final = 65536  # logits, as long as that is a row or more
_ELSEWHERE: Final = np.float32(-1e30)  # added to logits of other atoms: their exponential is 0, and 0 * -1e30 no NaN
# No class is less likely than this, so that there is a best path even where logits are -inf.
FLOOR: Final = -1e4


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassScores:
    """The likeliest member of every class, as log probability (nats). The last class is *any token, unscored*: 0."""

    logits: Floats  # [positions, vocab] as they came
    normaliser: Floats  # [positions] log of the sum of their exponentials
    best: Doubles  # [positions, classes + 1]
    atom_best: Floats  # [positions, atoms]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassMasses:
    """The mass of every class, as log probability (nats), beside the scores. The last class is *any token*: 0."""

    scores: ClassScores
    mass: Doubles  # [positions, classes + 1]
    atom_mass: Floats  # [positions, atoms]
    atom_entropy: Floats  # [positions, atoms] nats, of a token known to be in the atom


def score_classes(classes: TokenClasses, logits: Floats) -> ClassScores:
    """Scores of logits [positions, vocab], float32, without NaN or +inf: all that a best path needs.

    Raises ValueError when the logits are of another vocabulary.
    """
    peak = np.empty((len(logits), classes.atoms), np.float32)
    normaliser = np.empty(len(logits), np.float32)
    reader = _Reader(classes, logits)
    for block in reader.blocks:
        reader.read_peaks(logits[block], peak[block])
        reader.read_normaliser(logits[block], normaliser[block])
    return _scores(classes, logits, normaliser, peak)


def weigh_classes(classes: TokenClasses, logits: Floats) -> ClassMasses:
    """Scores and masses of logits, as `score_classes`; for sampling and marginals."""
    peak, logsum, entropy = (np.empty((len(logits), classes.atoms), np.float32) for _ in range(3))
    reader = _Reader(classes, logits)
    for block in reader.blocks:
        reader.read_peaks(logits[block], peak[block])
        reader.read_masses(peak[block], logsum[block], entropy[block])
    mass = peak + logsum
    top = mass.max(axis=1, initial=-np.inf)
    normaliser = top + np.log(np.exp(mass - top[:, None]).sum(axis=1))
    mass -= normaliser[:, None]
    return ClassMasses(
        scores=_scores(classes, logits, normaliser, peak),
        mass=_class_mass(classes, mass),
        atom_mass=mass,
        atom_entropy=entropy,
    )


class _Reader:
    """Reads some rows of logits at a time, atom by atom, in buffers of its own.

    The largest atom is read in place when it is most of the vocabulary, with the others weighed down; gathering it
    would cost more than its exponentials.
    """

    def __init__(self, classes: TokenClasses, logits: Floats) -> None:
        vocab, sizes = len(classes.order), np.diff(classes.atom_start)
        if logits.shape[1] != vocab:
            raise ValueError(f"logits of {logits.shape[1]} words for a constraint over {vocab}")
        rows = max(1, _AT_ONCE // vocab)
        self.blocks = [slice(first, first + rows) for first in range(0, len(logits), rows)]
        self._has_large = bool(sizes[-1] > vocab // 2)
        last = classes.atoms - self._has_large
        self._singles = int((sizes[:last] == 1).sum())
        self._gathered = classes.order[: classes.atom_start[last]].astype(np.intp)
        self._group_sizes = sizes[self._singles : last]
        self._group_first = (classes.atom_start[self._singles : last] - self._singles).astype(np.intp)
        self._elsewhere = np.zeros(vocab, np.float32)
        self._elsewhere[self._gathered] = _ELSEWHERE
        self._rows, self._share = np.empty((2, rows, vocab), np.float32)
        self._values = np.empty((rows, len(self._gathered)), np.float32)

    def read_peaks(self, logits: Floats, peak: Floats) -> None:
        """Fill [rows, atoms] with the largest logit of each atom."""
        rows, singles = len(logits), self._singles
        if self._has_large:
            values = np.add(logits, self._elsewhere, out=self._rows[:rows])
            values.max(axis=1, out=peak[:, -1])
        values = np.take(logits, self._gathered, axis=1, mode="clip", out=self._values[:rows])
        peak[:, :singles] = values[:, :singles]
        if len(self._group_first):
            groups = slice(singles, singles + len(self._group_first))
            np.maximum.reduceat(values[:, singles:], self._group_first, axis=1, out=peak[:, groups])

    def read_normaliser(self, logits: Floats, normaliser: Floats) -> None:
        """Fill [rows] with the log of the sum of exponentials."""
        share = self._share[: len(logits)]
        logits.max(axis=1, out=normaliser)
        np.subtract(logits, normaliser[:, None], out=share)
        np.exp(share, out=share)
        normaliser += np.log(share.sum(axis=1))

    def read_masses(self, peak: Floats, logsum: Floats, entropy: Floats) -> None:
        """Behind `read_peaks`, whose rows are spent: log of the sum of exponentials, relative to the peak of the atom,
        and the entropy within it."""
        rows, singles = len(peak), self._singles
        logsum[:, :singles] = 0.0
        entropy[:, :singles] = 0.0
        if self._has_large:
            values, share = self._rows[:rows], self._share[:rows]
            values -= peak[:, -1:]
            np.exp(values, out=share)
            total = share.sum(axis=1)
            np.log(total, out=logsum[:, -1])
            np.subtract(logsum[:, -1], np.vecdot(share, values) / total, out=entropy[:, -1])
        if len(self._group_first):
            groups = slice(singles, singles + len(self._group_first))
            values = self._values[:rows, singles:]
            values -= np.repeat(peak[:, groups], self._group_sizes, axis=1)
            share = np.exp(values)
            sums = np.add.reduceat(share, self._group_first, axis=1)
            share *= values
            np.log(sums, out=logsum[:, groups])
            moments = np.add.reduceat(share, self._group_first, axis=1)
            np.subtract(logsum[:, groups], moments / sums, out=entropy[:, groups])


def _scores(classes: TokenClasses, logits: Floats, normaliser: Floats, peak: Floats) -> ClassScores:
    peak -= normaliser[:, None]
    members = np.take(peak, classes.class_atom, axis=1, mode="clip")
    best = np.maximum.reduceat(members, classes.class_start[:-1], axis=1)
    return ClassScores(logits=logits, normaliser=normaliser, best=_with_unscored(best), atom_best=peak)


def _class_mass(classes: TokenClasses, mass: Floats) -> Doubles:
    """[positions, classes + 1] from the masses of atoms."""
    members = np.take(mass, classes.class_atom, axis=1, mode="clip")
    top = np.maximum(np.maximum.reduceat(members, classes.class_start[:-1], axis=1), np.float32(FLOOR))
    members -= np.repeat(top, np.diff(classes.class_start), axis=1)
    total = np.add.reduceat(np.exp(members, out=members), classes.class_start[:-1], axis=1)
    with np.errstate(divide="ignore"):  # a class of nothing but -inf
        return _with_unscored(top + np.log(total))


def _with_unscored(scores: Floats) -> Doubles:
    """One more class, *any token*, and no class below the floor."""
    full = np.zeros((len(scores), scores.shape[1] + 1))
    np.maximum(scores, FLOOR, out=full[:, :-1])
    return full
