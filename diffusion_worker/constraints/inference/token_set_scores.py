"""Scores of token sets from logits: the most likely member and the total mass of every set, for all positions at once.

Reduces from the equivalence classes up the tree of classes, then from the covering nodes to the sets. Everything is in
log space, so nothing underflows, and nothing is a difference of large sums.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from diffusion_worker.constraints.inference.equivalence_class_scores import (
    ELSEWHERE,
    EquivalenceClassScores,
    Floats,
    Indices,
)
from diffusion_worker.constraints.tokens.distance import spans
from diffusion_worker.constraints.tokens.segmented_reduce import Segments
from diffusion_worker.constraints.tokens.token_automaton import TokenSets
from diffusion_worker.weak_cache import once_per_object

Doubles = NDArray[np.float64]
# lower bound of a set's log probability, so that there is a best path even where logits are -inf
FLOOR: Final = -1e4
_AT_ONCE: Final = 128  # positions per block, so that members stay in the processor's cache


@dataclass(frozen=True, kw_only=True)
class SetScores:
    """The log probability (nats) of the most likely member of every set. The last set is *any token, unscored*: 0."""

    best: Doubles  # [positions, sets + 1]
    node_best: Floats  # [nodes, positions]


@dataclass(frozen=True, kw_only=True)
class SetMasses:
    """The log mass (nats) of every set, and the scores. The last set is *any token, unscored*: 0."""

    scores: SetScores
    mass: Doubles  # [positions, sets + 1]
    node_mass: Floats  # [nodes, positions]
    class_entropy: Floats  # [positions, classes] entropy (nats) within each class


@dataclass(frozen=True, kw_only=True)
class TokenSetScores(SetScores):
    """The same with the logits that they are of."""

    logits: Floats  # [positions, vocab] unchanged
    normaliser: Floats  # [positions] log-sum-exp of the logits
    top_token: NDArray[np.int64]  # [positions] the most likely token, allowed or not


@dataclass(frozen=True, kw_only=True)
class TokenSetMasses(SetMasses):
    """The same with the logits that they are of."""

    scores: TokenSetScores
    large_chunks: Floats  # [positions, chunks] see `EquivalenceClassScores`


def score_token_sets(token_sets: TokenSets, logits: Floats, normaliser: Floats | None = None) -> TokenSetScores:
    """Scores of logits [positions, vocab], float32, without NaN or +inf: what the best path needs.

    `normaliser` [positions] is the log-sum-exp of the logits if it is known; computing it is half of the work. Raises
    ValueError when the logits have another vocabulary size.
    """
    classes = EquivalenceClassScores(token_sets, logits)
    classes.read_peaks(normaliser)
    return _scores(token_sets, classes)


def weigh_token_sets(token_sets: TokenSets, logits: Floats) -> TokenSetMasses:
    """Scores and masses of logits: what sampling and marginals need. See `score_token_sets`."""
    classes = EquivalenceClassScores(token_sets, logits)
    classes.read_masses()
    node_mass, mass = _masses(token_sets, classes.peak + classes.logsum, classes.normaliser)
    return TokenSetMasses(
        scores=_scores(token_sets, classes),
        mass=mass,
        node_mass=node_mass,
        class_entropy=classes.entropy,
        large_chunks=classes.large_chunks,
    )


def set_masses(token_sets: TokenSets, *, peak: Floats, mass: Floats, entropy: Floats) -> SetMasses:
    """Scores and masses from those of equivalence classes [positions, classes]: the largest logit, the log-sum-exp of
    the logits and the entropy within each class."""
    top = mass.max(axis=1)
    normaliser = top + np.log(np.exp(mass - top[:, None]).sum(axis=1))
    node_mass, of_sets = _masses(token_sets, mass, normaliser)
    node_best, best = _maxima_of(token_sets, peak, normaliser)
    scores = SetScores(best=best, node_best=node_best)
    return SetMasses(scores=scores, mass=of_sets, node_mass=node_mass, class_entropy=entropy)


def levels(token_sets: TokenSets) -> Iterator[tuple[slice, slice]]:
    """Parents and their children, from the leaves to the root."""
    first = token_sets.nodes // 4
    while first:
        yield slice(first, 2 * first), slice(2 * first, 4 * first)
        first //= 2


def _scores(token_sets: TokenSets, classes: EquivalenceClassScores) -> TokenSetScores:
    node_best, best = _maxima_of(token_sets, classes.peak, classes.normaliser)
    return TokenSetScores(
        logits=classes.logits,
        normaliser=classes.normaliser,
        best=best,
        node_best=node_best,
        top_token=classes.top_token,
    )


def _maxima_of(token_sets: TokenSets, peak: Floats, normaliser: Floats) -> tuple[Floats, Doubles]:
    """[nodes, positions] and [positions, sets + 1] from [positions, classes]."""
    node_best = _tree(token_sets, peak, normaliser)
    for parents, children in levels(token_sets):
        np.maximum(node_best[children][::2], node_best[children][1::2], out=node_best[parents])
    return node_best, _of_sets(token_sets, node_best, _maxima)


def _masses(token_sets: TokenSets, mass: Floats, normaliser: Floats) -> tuple[Floats, Doubles]:
    """The same of log masses."""
    node_mass = _tree(token_sets, mass, normaliser)
    for parents, children in levels(token_sets):
        node_mass[parents] = _log_added(node_mass[children][::2], node_mass[children][1::2])
    return node_mass, _of_sets(token_sets, node_mass, _log_sums)


def _tree(token_sets: TokenSets, classes: Floats, normaliser: Floats) -> Floats:
    """[nodes, positions] with the leaves filled from [positions, classes] and [positions]."""
    nodes = np.full((token_sets.nodes, len(classes)), ELSEWHERE)
    nodes[token_sets.leaf_of] = np.maximum(classes - normaliser[:, None], ELSEWHERE).T
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
    """Sets by the number of covering nodes: those with one, and those with more, whose nodes are in the layout of
    `segments`."""

    one: Indices
    node: Indices  # of each of `one`
    many: Indices
    members: Indices  # nodes
    segments: Segments | None


@once_per_object
def _members_of(token_sets: TokenSets) -> _Members:
    """Built on the first call."""
    start, counts = token_sets.set_start[:-1], np.diff(token_sets.set_start)
    one = np.flatnonzero(counts == 1)
    many = np.argsort(-counts, kind="stable")[: len(counts) - len(one)]
    members = token_sets.set_node[spans(start[many], start[many] + counts[many])].astype(np.intp)
    segments = Segments(counts[many], row_cost=0) if len(many) else None
    members = members if segments is None else members[segments.layout]
    return _Members(
        one=one, node=token_sets.set_node[start[one]].astype(np.intp), many=many, members=members, segments=segments
    )


def _of_sets(token_sets: TokenSets, nodes: Floats, join: Callable[[Segments, Floats, Floats], None]) -> Doubles:
    """[positions, sets + 1] from [nodes, positions]: `join` reduces the members of each segment into its last argument.
    Values are at least FLOOR; the last column, *any token, unscored*, is 0."""
    members, positions = _members_of(token_sets), nodes.shape[1]
    full = np.zeros((positions, token_sets.sets + 1))
    for first in range(0, positions, _AT_ONCE):
        part = np.ascontiguousarray(nodes[:, first : first + _AT_ONCE])
        values = np.empty((token_sets.sets, part.shape[1]), np.float32)
        values[members.one] = part[members.node]
        if members.segments is not None:
            joined = np.empty((members.segments.count, part.shape[1]), np.float32)
            join(members.segments, part.take(members.members, axis=0, mode="clip"), joined)
            values[members.many] = joined
        np.maximum(values.T, FLOOR, out=full[first : first + _AT_ONCE, :-1])
    return full


def _maxima(segments: Segments, values: Floats, out: Floats) -> None:
    segments.reduce(np.maximum, values, out)


def _log_sums(segments: Segments, values: Floats, out: Floats) -> None:
    """Log-sum-exp per segment; overwrites `values`."""
    top: Floats = np.empty_like(out)
    np.maximum(segments.reduce(np.maximum, values, top), np.float32(FLOOR), out=top)
    segments.subtract(values, top)
    np.exp(values, out=values)
    segments.reduce(np.add, values, out)
    with np.errstate(divide="ignore"):  # every member is -inf
        np.log(out, out=out)
    out += top
