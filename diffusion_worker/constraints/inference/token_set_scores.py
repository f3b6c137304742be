"""What the logits say of every class of tokens: its likeliest member, and its whole mass.

From the atoms up their tree, and from the nodes to the classes, all positions side by side. Everything is in log space,
so nothing underflows and nothing is a difference of large sums. Knows classes, no states.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from diffusion_worker.constraints.inference.equivalence_class_scores import ELSEWHERE, AtomScores, Floats, Indices
from diffusion_worker.constraints.tokens.distance import spans
from diffusion_worker.constraints.tokens.segmented_reduce import Runs
from diffusion_worker.constraints.tokens.token_automaton import TokenClasses

Doubles = NDArray[np.float64]
# No class is less likely than this, so that there is a best path even where logits are -inf.
FLOOR: Final = -1e4
_AT_ONCE: Final = 128  # positions whose members stay in the processor's cache


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassScores:
    """The likeliest member of every class, as log probability (nats). The last class is *any token, unscored*: 0."""

    logits: Floats  # [positions, vocab] as they came
    normaliser: Floats  # [positions] log of the sum of their exponentials
    best: Doubles  # [positions, classes + 1]
    node_best: Floats  # [nodes, positions]
    surest: NDArray[np.int64]  # [positions] the likeliest token of all, allowed or not


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassMasses:
    """The mass of every class, as log probability (nats), beside the scores. The last class is *any token*: 0."""

    scores: ClassScores
    mass: Doubles  # [positions, classes + 1]
    node_mass: Floats  # [nodes, positions]
    atom_entropy: Floats  # [positions, atoms] nats, of a token known to be in the atom
    large_runs: Floats  # [positions, runs] of the largest atom, see `AtomScores`


def score_classes(classes: TokenClasses, logits: Floats, normaliser: Floats | None = None) -> ClassScores:
    """Scores of logits [positions, vocab], float32, without NaN or +inf: all that a best path needs.

    `normaliser` [positions] is the log of the sum of their exponentials, where it is known; finding it is half of the
    work. Raises ValueError when the logits are of another vocabulary.
    """
    atoms = AtomScores(classes, logits)
    atoms.read_peaks(normaliser)
    return _scores(classes, atoms)


def weigh_classes(classes: TokenClasses, logits: Floats) -> ClassMasses:
    """Scores and masses of logits, as `score_classes`; for sampling and marginals."""
    atoms = AtomScores(classes, logits)
    atoms.read_masses()
    node_mass = _tree(classes, atoms.peak + atoms.logsum, atoms.normaliser)
    for parents, children in levels(classes):
        node_mass[parents] = _log_added(node_mass[children][::2], node_mass[children][1::2])
    return ClassMasses(
        scores=_scores(classes, atoms),
        mass=_of_classes(classes, node_mass, _log_sums),
        node_mass=node_mass,
        atom_entropy=atoms.entropy,
        large_runs=atoms.large_runs,
    )


def levels(classes: TokenClasses) -> Iterator[tuple[slice, slice]]:
    """Parents and their children, from the leaves to the root."""
    first = classes.nodes // 4
    while first:
        yield slice(first, 2 * first), slice(2 * first, 4 * first)
        first //= 2


def _scores(classes: TokenClasses, atoms: AtomScores) -> ClassScores:
    node_best = _tree(classes, atoms.peak, atoms.normaliser)
    for parents, children in levels(classes):
        np.maximum(node_best[children][::2], node_best[children][1::2], out=node_best[parents])
    return ClassScores(
        logits=atoms.logits,
        normaliser=atoms.normaliser,
        best=_of_classes(classes, node_best, _maxima),
        node_best=node_best,
        surest=atoms.surest,
    )


def _tree(classes: TokenClasses, atoms: Floats, normaliser: Floats) -> Floats:
    """[nodes, positions] with the leaves filled from [positions, atoms] and [positions]."""
    nodes = np.full((classes.nodes, len(atoms)), ELSEWHERE)
    nodes[classes.leaf_of] = np.maximum(atoms - normaliser[:, None], ELSEWHERE).T
    return nodes


def _log_added(first: Floats, second: Floats) -> Floats:
    """np.logaddexp of finite numbers, vectorised."""
    share: Floats = np.exp(-np.abs(first - second))
    share += np.float32(1.0)
    np.log(share, out=share)
    share += np.maximum(first, second)
    return share


@dataclass(frozen=True, slots=True, kw_only=True)
class _Members:
    """Classes by how many nodes cover them: those of one, and those of more with their nodes in the layout of runs."""

    one: Indices
    node: Indices  # of each of `one`
    many: Indices
    members: Indices  # nodes
    runs: Runs | None


_KEPT: Final[WeakKeyDictionary[TokenClasses, _Members]] = WeakKeyDictionary()


def _members_of(classes: TokenClasses) -> _Members:
    """Made at the first call."""
    if classes not in _KEPT:
        start, counts = classes.class_start[:-1], np.diff(classes.class_start)
        one = np.flatnonzero(counts == 1)
        many = np.argsort(-counts, kind="stable")[: len(counts) - len(one)]
        members = classes.class_node[spans(start[many], start[many] + counts[many])].astype(np.intp)
        runs = Runs(counts[many], row_cost=0) if len(many) else None
        members = members if runs is None else members[runs.layout]
        _KEPT[classes] = _Members(
            one=one, node=classes.class_node[start[one]].astype(np.intp), many=many, members=members, runs=runs
        )
    return _KEPT[classes]


def _of_classes(classes: TokenClasses, nodes: Floats, join: Callable[[Runs, Floats, Floats], None]) -> Doubles:
    """[positions, classes + 1] from [nodes, positions]: `join` makes one value per run of the values of its members, in
    place of the last argument. No class is below the floor; one more is *any token*, 0."""
    members, positions = _members_of(classes), nodes.shape[1]
    full = np.zeros((positions, classes.classes + 1))
    for first in range(0, positions, _AT_ONCE):
        part = np.ascontiguousarray(nodes[:, first : first + _AT_ONCE])
        values = np.empty((classes.classes, part.shape[1]), np.float32)
        values[members.one] = part[members.node]
        if members.runs is not None:
            joined = np.empty((members.runs.count, part.shape[1]), np.float32)
            join(members.runs, part.take(members.members, axis=0, mode="clip"), joined)
            values[members.many] = joined
        np.maximum(values.T, FLOOR, out=full[first : first + _AT_ONCE, :-1])
    return full


def _maxima(runs: Runs, values: Floats, out: Floats) -> None:
    runs.reduce(np.maximum, values, out)


def _log_sums(runs: Runs, values: Floats, out: Floats) -> None:
    """Log of sums of exponentials; `values` are spent."""
    top: Floats = np.empty_like(out)
    np.maximum(runs.reduce(np.maximum, values, top), np.float32(FLOOR), out=top)
    runs.lower(values, top)
    np.exp(values, out=values)
    runs.reduce(np.add, values, out)
    with np.errstate(divide="ignore"):  # a class of nothing but -inf
        np.log(out, out=out)
    out += top
