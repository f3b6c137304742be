"""Sets of tokens, told apart: equal sets share one class, and tokens that no class tells apart share one atom.

Sets arrive as ranges of places: the ranks of the vocabulary, and behind them the same tokens once more, by length. They
are compared by 64-bit sums of hashes of their members: two of a million sets collide once in a hundred million
compilations. Knows no states.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffusion_worker.constraints.tokens.distance import spans
from diffusion_worker.constraints.tokens.token_automaton import TokenClasses
from diffusion_worker.constraints.tokens.token_trie import Vocabulary

Ints = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class RangeSets:
    """Sets of tokens: set i is the union of the ranges [low, high) of places from first[i] to first[i + 1]; no token is
    in two of them."""

    first: NDArray[np.int64]  # [sets + 1]
    low: Ints
    high: Ints


def places(vocabulary: Vocabulary) -> Ints:
    """[places] the rank at each place."""
    ranks = np.arange(vocabulary.size, dtype=np.int32)
    return np.concatenate([ranks, vocabulary.trie.lengths.order])


def intern_sets(sets: RangeSets, vocabulary: Vocabulary) -> tuple[Ints, RangeSets]:
    """[sets] the class of each set, and the different sets in the order of their classes."""
    sums = np.append(np.uint64(0), np.cumsum(_mixed(places(vocabulary).astype(np.uint64)), dtype=np.uint64))
    hashes = np.add.reduceat(sums[sets.high] - sums[sets.low], sets.first[:-1])
    _, examples, label = np.unique(hashes, return_index=True, return_inverse=True)
    chosen = spans(sets.first[examples], sets.first[examples + 1])
    counts = sets.first[examples + 1] - sets.first[examples]
    return label.astype(np.int32), RangeSets(np.append(0, np.cumsum(counts)), sets.low[chosen], sets.high[chosen])


def cut_into_atoms(classes: RangeSets, vocabulary: Vocabulary) -> TokenClasses:
    """The coarsest partition of the vocabulary that no class cuts, and every class as nodes of a tree over it."""
    rank_at = places(vocabulary)
    signature = _signatures(classes, rank_at, vocabulary.size)
    _, example, part, counts = np.unique(signature, return_index=True, return_inverse=True, return_counts=True)
    by_size = np.argsort(counts, kind="stable")  # single tokens first, the largest atom last
    name = np.empty(len(by_size), np.int32)
    name[by_size] = np.arange(len(by_size), dtype=np.int32)
    atom_of = np.empty(vocabulary.size, np.int32)
    atom_of[vocabulary.order] = name[part]
    owner, atom = _members(classes, rank_at, name[part], example)
    leaf_of = _leaves(owner, atom, signature[example[by_size]])
    atom_at = np.full(2 << max(len(name) - 1, 0).bit_length(), -1, np.int32)
    atom_at[leaf_of] = np.arange(len(name), dtype=np.int32)
    owner, node = _cover(owner, leaf_of[atom])
    return TokenClasses(
        order=np.argsort(atom_of, kind="stable").astype(np.int32),
        atom_start=np.append(0, np.cumsum(counts[by_size])).astype(np.int32),
        atom_of=atom_of,
        leaf_of=leaf_of,
        atom_at=atom_at,
        class_start=np.searchsorted(owner, np.arange(len(classes.first))).astype(np.int32),
        class_node=node,
    )


def _signatures(classes: RangeSets, rank_at: Ints, size: int) -> NDArray[np.uint64]:
    """[ranks] the sum of the hashes of all classes a rank is in; equal sums are equal memberships."""
    keys = _mixed(np.arange(1, len(classes.first), dtype=np.uint64) << np.uint64(32))
    keys = np.repeat(keys, np.diff(classes.first))
    steps = np.zeros(len(rank_at) + 1, np.uint64)
    np.add.at(steps, classes.low, keys)
    np.subtract.at(steps, classes.high, keys)
    at_place = np.cumsum(steps[:-1], dtype=np.uint64)
    signature = at_place[:size].copy()
    signature[rank_at[size:]] += at_place[size:]
    return signature


def _members(classes: RangeSets, rank_at: Ints, atom_of: Ints, example: NDArray[np.int64]) -> tuple[Ints, Ints]:
    """Pairs of a class and an atom in it: an atom is where its example is, at one of the example's places."""
    is_example = np.zeros(len(atom_of), np.bool_)
    is_example[example] = True
    spots = np.flatnonzero(is_example[rank_at])
    low, high = np.searchsorted(spots, classes.low), np.searchsorted(spots, classes.high)
    owner = np.repeat(np.arange(len(classes.first) - 1, dtype=np.int32), np.diff(classes.first))
    return np.repeat(owner, high - low), atom_of[rank_at[spots[spans(low, high)]]]


def _leaves(owner: Ints, atom: Ints, signature: NDArray[np.uint64]) -> Ints:
    """[atoms] a leaf for each atom; those that share the largest classes, or all, are neighbours."""
    atoms = len(signature)
    largest = np.argsort(-np.bincount(owner), kind="stable")[:64]
    bit = np.zeros(int(owner.max()) + 1, np.uint64)
    bit[largest] = np.uint64(1) << np.arange(63, 63 - len(largest), -1).astype(np.uint64)
    shared = np.zeros(atoms, np.uint64)
    np.bitwise_or.at(shared, atom, bit[owner])
    leaf_of = np.empty(atoms, np.int32)
    leaf_of[np.lexsort((signature, shared))] = np.arange(atoms, dtype=np.int32) + (1 << max(atoms - 1, 0).bit_length())
    return leaf_of


def _cover(owner: Ints, leaf: Ints) -> tuple[Ints, Ints]:
    """Pairs of a class and a node, sorted: the fewest nodes over the leaves of each class. Level by level, two siblings
    of one class become their parent."""
    pairs = np.sort(owner.astype(np.int64) << 32 | leaf)
    done = []
    while len(pairs):
        is_first = np.append((pairs[1:] == pairs[:-1] + 1) & (pairs[:-1] % 2 == 0), False)
        is_second = np.append(False, is_first[:-1])
        done.append(pairs[~(is_first | is_second)])
        parents = pairs[is_first]
        pairs = (parents >> 32 << 32) | ((parents & 0xFFFFFFFF) >> 1)
    covered = np.sort(np.concatenate(done))
    return (covered >> 32).astype(np.int32), (covered & 0xFFFFFFFF).astype(np.int32)


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
