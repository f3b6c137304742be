"""What the logits say of every class of tokens: its likeliest member, its whole mass, the uncertainty within.

One pass over the logits, a few rows at a time so that they stay in the processor's cache. Everything is in log space
and relative to the largest logit of its own atom, so nothing underflows and nothing is a difference of large sums.
Knows classes, no states.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from diffusion_worker.constraints.distance import spans
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
    node_best: Floats  # [positions, nodes]
    surest: NDArray[np.int64]  # [positions] the likeliest token of all, allowed or not


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassMasses:
    """The mass of every class, as log probability (nats), beside the scores. The last class is *any token*: 0."""

    scores: ClassScores
    mass: Doubles  # [positions, classes + 1]
    node_mass: Floats  # [positions, nodes]
    atom_entropy: Floats  # [positions, atoms] nats, of a token known to be in the atom


def score_classes(classes: TokenClasses, logits: Floats, normaliser: Floats | None = None) -> ClassScores:
    """Scores of logits [positions, vocab], float32, without NaN or +inf: all that a best path needs.

    `normaliser` [positions] is the log of the sum of their exponentials, where it is known; finding it is half of the
    work. Raises ValueError when the logits are of another vocabulary.
    """
    reader = _Reader(classes, logits)
    for block in reader.blocks:
        reader.read_peaks(block)
        if normaliser is None:
            reader.read_normaliser(block)
    if normaliser is not None:
        reader.normaliser[:] = normaliser
    return _scores(classes, reader)


def weigh_classes(classes: TokenClasses, logits: Floats) -> ClassMasses:
    """Scores and masses of logits, as `score_classes`; for sampling and marginals."""
    reader = _Reader(classes, logits)
    for block in reader.blocks:
        reader.read_peaks(block, weighed=True)
        reader.read_masses(block)
    mass = reader.peak + reader.logsum
    top = mass.max(axis=1, initial=-np.inf)
    reader.normaliser[:] = top + np.log(np.exp(mass - top[:, None]).sum(axis=1))
    node_mass = _tree(classes, mass - reader.normaliser[:, None])
    for parents, children in levels(classes):
        node_mass[:, parents] = _log_added(node_mass[:, children][:, ::2], node_mass[:, children][:, 1::2])
    return ClassMasses(
        scores=_scores(classes, reader),
        mass=_with_unscored(_log_sums(classes, node_mass)),
        node_mass=node_mass,
        atom_entropy=reader.entropy,
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
        self.logits = logits
        self.surest = np.empty(len(logits), np.int64)
        self.normaliser = np.empty(len(logits), np.float32)
        self.peak, self.logsum, self.entropy = np.zeros((3, len(logits), classes.atoms), np.float32)
        rows = max(1, _AT_ONCE // vocab)
        self.blocks = [slice(first, first + rows) for first in range(0, len(logits), rows)]

        self._has_large = bool(sizes[-1] > vocab // 2)
        last = classes.atoms - self._has_large
        self._singles = int((sizes[:last] == 1).sum())
        self._groups = slice(self._singles, last)  # atoms of several tokens that are gathered
        self._gathered = classes.order[: classes.atom_start[last]].astype(np.intp)
        self._group_sizes = sizes[self._groups]
        self._group_first = (classes.atom_start[self._groups] - self._singles).astype(np.intp)
        self._elsewhere = np.zeros(vocab, np.float32)
        self._elsewhere[self._gathered] = _ELSEWHERE
        self._rows, self._share = np.empty((2, rows, vocab), np.float32)
        self._ones = np.ones(vocab, np.float32)  # a product with ones is the quickest sum
        self._values = np.empty((rows, len(self._gathered)), np.float32)

    def read_peaks(self, block: slice, *, weighed: bool = False) -> None:
        """The surest token of the rows and the largest logit of each atom. `weighed`: `read_masses` follows."""
        logits, peak, singles = self.logits[block], self.peak[block], self._singles
        surest = logits.argmax(axis=1, out=self.surest[block])
        if self._has_large:
            peak[:, -1] = logits[np.arange(len(logits)), surest]
            if weighed or self._elsewhere[surest].any():  # the surest token is of another atom
                values = np.add(logits, self._elsewhere, out=self._rows[: len(logits)])
                values.max(axis=1, out=peak[:, -1])
        values = np.take(logits, self._gathered, axis=1, mode="clip", out=self._values[: len(logits)])
        peak[:, :singles] = values[:, :singles]
        if len(self._group_first):
            np.maximum.reduceat(values[:, singles:], self._group_first, axis=1, out=peak[:, self._groups])

    def read_normaliser(self, block: slice) -> None:
        """Behind `read_peaks`: the log of the sum of exponentials."""
        logits, normaliser = self.logits[block], self.normaliser[block]
        normaliser[:] = logits[np.arange(len(logits)), self.surest[block]]
        share = np.subtract(logits, normaliser[:, None], out=self._share[: len(logits)])
        np.exp(share, out=share)
        normaliser += np.log(np.vecdot(share, self._ones))

    def read_masses(self, block: slice) -> None:
        """Behind `read_peaks`, whose rows are spent: log of the sum of exponentials of each atom, relative to its peak,
        and the entropy within. Both stay 0 for single tokens."""
        peak, logsum, entropy = self.peak[block], self.logsum[block], self.entropy[block]
        if self._has_large:
            values, share = self._rows[: len(peak)], self._share[: len(peak)]
            values -= peak[:, -1:]
            np.exp(values, out=share)
            total = np.vecdot(share, self._ones)
            logsum[:, -1] = np.log(total)
            entropy[:, -1] = logsum[:, -1] - np.vecdot(share, values) / total
        if len(self._group_first):
            groups, first = self._groups, self._group_first
            values = self._values[: len(peak), self._singles :]
            values -= np.repeat(peak[:, groups], self._group_sizes, axis=1)
            share = np.exp(values)
            totals = np.add.reduceat(share, first, axis=1)
            share *= values
            logsum[:, groups] = np.log(totals)
            entropy[:, groups] = logsum[:, groups] - np.add.reduceat(share, first, axis=1) / totals


def _scores(classes: TokenClasses, reader: _Reader) -> ClassScores:
    node_best = _tree(classes, reader.peak - reader.normaliser[:, None])
    for parents, children in levels(classes):
        np.maximum(node_best[:, children][:, ::2], node_best[:, children][:, 1::2], out=node_best[:, parents])
    best, many, members, first = _of_classes(classes, node_best)
    if len(many):
        best[:, many] = np.maximum.reduceat(members, first, axis=1)
    return ClassScores(
        logits=reader.logits,
        normaliser=reader.normaliser,
        best=_with_unscored(best),
        node_best=node_best,
        surest=reader.surest,
    )


def _tree(classes: TokenClasses, atoms: Floats) -> Floats:
    """[positions, nodes] with the leaves filled from [positions, atoms]."""
    nodes = np.full((len(atoms), classes.nodes), _ELSEWHERE)
    nodes[:, classes.leaf_of] = np.maximum(atoms, _ELSEWHERE)
    return nodes


def _log_added(first: Floats, second: Floats) -> Floats:
    """np.logaddexp of finite numbers, vectorised."""
    share: Floats = np.exp(-np.abs(first - second))
    share += np.float32(1.0)
    np.log(share, out=share)
    share += np.maximum(first, second)
    return share


def levels(classes: TokenClasses) -> Iterator[tuple[slice, slice]]:
    """Parents and their children, from the leaves to the root."""
    first = classes.nodes // 4
    while first:
        yield slice(first, 2 * first), slice(2 * first, 4 * first)
        first //= 2


def _of_classes(classes: TokenClasses, nodes: Floats) -> tuple[Floats, NDArray[np.int64], Floats, NDArray[np.int64]]:
    """[positions, classes] the value of the first node of each class, from [positions, nodes]; which classes have more
    nodes, the values of all of theirs, class after class, and where each begins."""
    start, counts = classes.class_start[:-1], np.diff(classes.class_start)
    many = np.flatnonzero(counts > 1)
    members = spans(start[many], start[many] + counts[many])
    return (
        np.take(nodes, classes.class_node[start], axis=1, mode="clip"),
        many,
        np.take(nodes, classes.class_node[members], axis=1, mode="clip"),
        np.cumsum(counts[many]) - counts[many],
    )


def _log_sums(classes: TokenClasses, node_mass: Floats) -> Floats:
    """[positions, classes] the log of the sum of exponentials of the nodes of each class."""
    sums, many, members, first = _of_classes(classes, node_mass)
    if not len(many):
        return sums
    top = np.maximum(np.maximum.reduceat(members, first, axis=1), np.float32(FLOOR))
    members -= np.repeat(top, np.diff(np.append(first, members.shape[1])), axis=1)
    total = np.add.reduceat(np.exp(members, out=members), first, axis=1)
    with np.errstate(divide="ignore"):  # a class of nothing but -inf
        sums[:, many] = top + np.log(total)
    return sums


def _with_unscored(scores: Floats) -> Doubles:
    """One more class, *any token*, and no class below the floor."""
    full = np.zeros((len(scores), scores.shape[1] + 1))
    np.maximum(scores, FLOOR, out=full[:, :-1])
    return full
