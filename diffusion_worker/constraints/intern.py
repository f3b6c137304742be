"""Sets of tokens, told apart: equal sets share one class, and tokens that no class tells apart share one atom.

Sets arrive as ranges of ranks. They are compared by 64-bit hashes: two of a million sets collide once in a hundred
million compilations. Knows no states.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffusion_worker.constraints.distance import spans
from diffusion_worker.constraints.token_automaton import TokenClasses
from diffusion_worker.constraints.vocabulary import Vocabulary

Ints = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class RangeSets:
    """Sets of ranks: set i is the union of the ranges [low, high) from first[i] to first[i + 1], sorted and apart."""

    first: NDArray[np.int64]  # [sets + 1]
    low: Ints
    high: Ints


def intern_sets(sets: RangeSets) -> tuple[Ints, RangeSets]:
    """[sets] the class of each set, and the different sets in the order of their classes."""
    hashes = np.add.reduceat(
        _mixed(sets.low.astype(np.uint64) << np.uint64(32) | sets.high.astype(np.uint64)), sets.first[:-1]
    )
    _, examples, label = np.unique(hashes, return_index=True, return_inverse=True)
    chosen = spans(sets.first[examples], sets.first[examples + 1])
    counts = sets.first[examples + 1] - sets.first[examples]
    return label.astype(np.int32), RangeSets(np.append(0, np.cumsum(counts)), sets.low[chosen], sets.high[chosen])


def cut_into_atoms(classes: RangeSets, vocabulary: Vocabulary) -> TokenClasses:
    """The coarsest partition of the vocabulary that no class cuts, and every class as a list of its parts."""
    signature = _signatures(classes, vocabulary.size)
    _, example, part, counts = np.unique(signature, return_index=True, return_inverse=True, return_counts=True)
    by_size = np.argsort(counts, kind="stable")  # single tokens first, the largest atom last
    name = np.empty(len(by_size), np.int32)
    name[by_size] = np.arange(len(by_size), dtype=np.int32)
    atom_of = np.empty(vocabulary.size, np.int32)
    atom_of[vocabulary.order] = name[part]
    class_start, class_atom = _members(classes, example, name)
    return TokenClasses(
        order=np.argsort(atom_of, kind="stable").astype(np.int32),
        atom_start=np.append(0, np.cumsum(counts[by_size])).astype(np.int32),
        atom_of=atom_of,
        class_start=class_start,
        class_atom=class_atom,
    )


def _signatures(classes: RangeSets, size: int) -> NDArray[np.uint64]:
    """[ranks] the sum of the hashes of all classes a rank is in; equal sums are equal memberships."""
    keys = _mixed(np.arange(1, len(classes.first), dtype=np.uint64) << np.uint64(32))
    keys = np.repeat(keys, np.diff(classes.first))
    steps = np.zeros(size + 1, np.uint64)
    np.add.at(steps, classes.low, keys)
    np.subtract.at(steps, classes.high, keys)
    return np.cumsum(steps[:-1], dtype=np.uint64)


def _members(classes: RangeSets, example: NDArray[np.int64], name: Ints) -> tuple[Ints, Ints]:
    """Which atoms are in which class: those whose example is. Returns class_start and class_atom."""
    by_rank = np.argsort(example)
    examples = example[by_rank]
    low, high = np.searchsorted(examples, classes.low), np.searchsorted(examples, classes.high)
    atoms = name[by_rank][spans(low, high)]
    inside = np.append(0, np.cumsum(high - low))[classes.first]  # [classes + 1]
    label = np.repeat(np.arange(len(inside) - 1), np.diff(inside))
    return inside.astype(np.int32), atoms[np.lexsort((atoms, label))]


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
