"""Token sets and token equivalence classes: equal sets become one label, and the vocabulary is partitioned by
membership.

Sets arrive as ranges of indices: the ranks of the vocabulary, then the same tokens ordered by length, then
those of text. They are compared
by 64-bit sums of member hashes (Zobrist hashing): among a million sets the probability of a collision is about one in
40 million per compilation.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffusion_worker.constraints.tokens.distance import spans
from diffusion_worker.constraints.tokens.token_automaton import TokenSets
from diffusion_worker.constraints.tokens.token_trie import TokenTrie

Ints = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class RangeSets:
    """Sets of tokens: set i is the union of the index ranges [low, high) numbered first[i] to first[i + 1], which are
    disjoint."""

    first: NDArray[np.int64]  # [sets + 1]
    low: Ints
    high: Ints


def ranks_by_index(vocabulary: TokenTrie) -> Ints:
    """[indices] the rank at each index."""
    ranks = np.arange(vocabulary.size, dtype=np.int32)
    return np.concatenate([ranks, vocabulary.nodes.lengths.order, vocabulary.text])


def intern_sets(sets: RangeSets, vocabulary: TokenTrie) -> tuple[Ints, RangeSets]:
    """[sets] the label of each set, and the distinct sets in the order of their labels."""
    sums = np.append(np.uint64(0), np.cumsum(_mixed(ranks_by_index(vocabulary).astype(np.uint64)), dtype=np.uint64))
    hashes = np.add.reduceat(sums[sets.high] - sums[sets.low], sets.first[:-1])
    _, examples, label = np.unique(hashes, return_index=True, return_inverse=True)
    chosen = spans(sets.first[examples], sets.first[examples + 1])
    counts = sets.first[examples + 1] - sets.first[examples]
    return label.astype(np.int32), RangeSets(np.append(0, np.cumsum(counts)), sets.low[chosen], sets.high[chosen])


def partition_vocabulary(sets: RangeSets, vocabulary: TokenTrie) -> TokenSets:
    """The coarsest partition of the vocabulary of which every set is a union, and every set as nodes of a tree over
    it."""
    rank_at = ranks_by_index(vocabulary)
    signature = _signatures(sets, rank_at, vocabulary.size)
    _, example, part, counts = np.unique(signature, return_index=True, return_inverse=True, return_counts=True)
    by_size = np.argsort(counts, kind="stable")  # single tokens first, the largest equivalence class last
    name = np.empty(len(by_size), np.int32)
    name[by_size] = np.arange(len(by_size), dtype=np.int32)
    class_of = np.empty(vocabulary.size, np.int32)
    class_of[vocabulary.order] = name[part]
    owner, member_class = _members(sets, rank_at, name[part], example)
    leaf_of = _leaves(owner, member_class, signature[example[by_size]])
    class_at = np.full(2 << max(len(name) - 1, 0).bit_length(), -1, np.int32)
    class_at[leaf_of] = np.arange(len(name), dtype=np.int32)
    owner, node = _cover(owner, leaf_of[member_class])
    return TokenSets(
        order=np.argsort(class_of, kind="stable").astype(np.int32),
        class_start=np.append(0, np.cumsum(counts[by_size])).astype(np.int32),
        class_of=class_of,
        leaf_of=leaf_of,
        class_at=class_at,
        set_start=np.searchsorted(owner, np.arange(len(sets.first))).astype(np.int32),
        set_node=node,
    )


def _signatures(sets: RangeSets, rank_at: Ints, size: int) -> NDArray[np.uint64]:
    """[ranks] the sum of the hashes of all sets that contain the rank; equal sums mean equal memberships."""
    keys = _mixed(np.arange(1, len(sets.first), dtype=np.uint64) << np.uint64(32))
    keys = np.repeat(keys, np.diff(sets.first))
    steps = np.zeros(len(rank_at) + 1, np.uint64)
    np.add.at(steps, sets.low, keys)
    np.subtract.at(steps, sets.high, keys)
    at_index = np.cumsum(steps[:-1], dtype=np.uint64)
    signature = at_index[:size].copy()
    np.add.at(signature, rank_at[size:], at_index[size:])  # a rank may have several indices
    return signature


def _members(sets: RangeSets, rank_at: Ints, class_of: Ints, example: NDArray[np.int64]) -> tuple[Ints, Ints]:
    """Pairs of a set and an equivalence class in it: a class is in a set if its example token is, at one of the token's
    indices."""
    is_example = np.zeros(len(class_of), np.bool_)
    is_example[example] = True
    examples_at = np.flatnonzero(is_example[rank_at])
    low, high = np.searchsorted(examples_at, sets.low), np.searchsorted(examples_at, sets.high)
    owner = np.repeat(np.arange(len(sets.first) - 1, dtype=np.int32), np.diff(sets.first))
    return np.repeat(owner, high - low), class_of[rank_at[examples_at[spans(low, high)]]]


def _leaves(owner: Ints, member_class: Ints, signature: NDArray[np.uint64]) -> Ints:
    """[classes] the leaf of each equivalence class; classes with equal membership in the largest sets are adjacent."""
    classes = len(signature)
    largest = np.argsort(-np.bincount(owner), kind="stable")[:64]
    bit = np.zeros(int(owner.max()) + 1, np.uint64)
    bit[largest] = np.uint64(1) << np.arange(63, 63 - len(largest), -1).astype(np.uint64)
    shared = np.zeros(classes, np.uint64)
    np.bitwise_or.at(shared, member_class, bit[owner])
    leaf_of = np.empty(classes, np.int32)
    leaf_of[np.lexsort((signature, shared))] = np.arange(classes, dtype=np.int32) + (
        1 << max(classes - 1, 0).bit_length()
    )
    return leaf_of


def _cover(owner: Ints, leaf: Ints) -> tuple[Ints, Ints]:
    """Sorted pairs of a set and a node: the fewest nodes that cover the leaves of each set. Level by level, two
    siblings in one set are replaced by their parent."""
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
