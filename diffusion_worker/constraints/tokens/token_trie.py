"""One vocabulary as a trie of bytes, made once and walked by every constraint that is lifted onto it.

Tokens that spell text are ranked by their bytes, so everything below a node of the trie is one range of ranks; tokens
that spell nothing (control tokens) come last and are in no text. Knows no schema, no net and no tokenizer file.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffusion_worker.constraints.automata.control_tokens import FIRST_MARK
from diffusion_worker.constraints.tokens.distance import spans
from diffusion_worker.constraints.tokens.vocabulary_bytes import VocabularyBytes, read_lexicon

Ints = NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trie:
    """Nodes level by level from the root, siblings side by side. `low` to `high` are the ranks of a node and of all
    below it, of which the first `own` end at the node itself; `below` is the set of bytes on the edges under it."""

    byte: NDArray[np.uint8]  # [nodes] of the edge into the node
    first_child: Ints  # [nodes]
    children: Ints  # [nodes] how many
    low: Ints  # [nodes]
    high: Ints  # [nodes]
    own: Ints  # [nodes]
    below: NDArray[np.uint64]  # [nodes, 4] 256 bits
    lengths: "Lengths"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """The tokens below each node by how many bytes they go on, as ranges of a second order of the tokens: by length,
    then by rank. There, those of one length below one node are neighbours. Its places are numbered behind the ranks."""

    order: Ints  # [tokens that spell] -> rank
    first: Ints  # [nodes + 1] into the entries
    steps: Ints  # [entries] bytes below the node, ascending within one
    low: Ints  # [entries] places
    high: Ints  # [entries]
    height: Ints  # [nodes] the most steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """What lifting needs to know of a tokenizer. `digest` names the content: equal digests lift equally."""

    size: int
    order: Ints  # [size] rank -> id
    rank: Ints  # [size] id -> rank
    trie: Trie
    end_ids: tuple[int, ...]  # any of them ends an answer
    tail_id: int  # written behind the end
    digest: str

    @property
    def text_ranks(self) -> int:
        """How many ranks spell text; from there on come marks, and what spells nothing."""
        first, trie = int(self.trie.first_child[0]), self.trie
        siblings = trie.byte[first : first + int(trie.children[0])]
        at = int(np.searchsorted(siblings, FIRST_MARK))
        return int(trie.low[first + at] if at < len(siblings) else trie.high[0])


def read_vocabulary(tokens: Sequence[bytes], end_ids: Sequence[int], tail_id: int) -> Vocabulary:
    """From the bytes of every id (empty for control tokens). Raises ValueError when an end token is text, or none."""
    return vocabulary_of(read_lexicon(tokens, end_ids, tail_id))


def vocabulary_of(lexicon: VocabularyBytes) -> Vocabulary:
    """About 0.1 s for 50,000 tokens."""
    tokens = lexicon.tokens
    order = sorted(range(len(tokens)), key=lambda token: (not tokens[token], tokens[token]))
    spelled = [tokens[token] for token in order if tokens[token]]
    rank = np.empty(len(tokens), np.int32)
    rank[order] = np.arange(len(tokens), dtype=np.int32)
    return Vocabulary(
        size=len(tokens),
        order=np.array(order, np.int32),
        rank=rank,
        trie=_trie(spelled, len(tokens)),
        end_ids=lexicon.end_ids,
        tail_id=lexicon.tail_id,
        digest=lexicon.digest,
    )


def _trie(spelled: Sequence[bytes], size: int) -> Trie:
    """The trie of sorted byte strings, one level at a time; `size` counts the control tokens too."""
    lengths = np.array([len(token) for token in spelled], np.int32)
    shared = _shared_prefixes(spelled)
    levels = [_Level(np.zeros(1, np.int32), np.array([len(spelled)], np.int32), np.zeros(1, np.int32))]
    labels = [np.zeros(1, np.uint8)]
    for depth in range(int(lengths.max(initial=0))):
        edges = np.flatnonzero(shared <= depth).astype(np.int32)  # ranks where the prefix of depth + 1 bytes changes
        high = np.append(edges[1:], len(spelled)).astype(np.int32)
        is_node = lengths[edges] > depth
        low, high = edges[is_node], high[is_node]
        ends_here = np.append(0, np.cumsum(lengths == depth + 1))
        levels.append(_Level(low, high, (ends_here[high] - ends_here[low]).astype(np.int32)))
        labels.append(np.array([spelled[rank][depth] for rank in low.tolist()], np.uint8))
    return _joined(levels, labels, lengths, size)


@dataclass(frozen=True, slots=True)
class _Level:
    low: Ints
    high: Ints
    own: Ints


def _shared_prefixes(spelled: Sequence[bytes]) -> Ints:
    """[tokens] how many bytes a token shares with the one before it; -1 for the first and none for copies."""
    shared = np.empty(len(spelled), np.int32)
    previous = b""
    for rank, token in enumerate(spelled):
        count = 0
        for mine, other in zip(token, previous, strict=False):
            if mine != other:
                break
            count += 1
        shared[rank] = count if rank else -1
        previous = token
    return shared


def _joined(levels: Sequence[_Level], labels: Sequence[NDArray[np.uint8]], lengths: Ints, size: int) -> Trie:
    """All levels as one numbering, with the links from each level to the next."""
    starts = np.cumsum([0, *(len(level.low) for level in levels)])
    nodes = _Level(*(np.concatenate([getattr(level, name) for level in levels]) for name in ("low", "high", "own")))
    depth = np.repeat(np.arange(len(levels), dtype=np.int32), np.diff(starts))
    first_child, children = [], []
    for level, after, start in zip(levels, [*levels[1:], None], starts[1:], strict=True):
        below = after.low if after else np.zeros(0, np.int32)
        first = np.searchsorted(below, level.low).astype(np.int32)
        children.append((np.searchsorted(below, level.high) - first).astype(np.int32))
        first_child.append((first + start).astype(np.int32))
    trie = Trie(
        byte=np.concatenate(labels),
        first_child=np.concatenate(first_child),
        children=np.concatenate(children),
        low=nodes.low,
        high=nodes.high,
        own=nodes.own,
        below=np.zeros((int(starts[-1]), 4), np.uint64),
        lengths=_lengths(nodes, depth, lengths, size),
    )
    _fill_below(trie, starts)
    return trie


def _lengths(nodes: _Level, depth: Ints, lengths: Ints, place: int) -> Lengths:
    """Every (node, token length) that occurs: tokens are told once per ancestor, as often as they have bytes."""
    node = np.repeat(np.arange(len(depth), dtype=np.int64), nodes.high - nodes.low)
    longest = int(lengths.max(initial=0)) + 1
    pairs, counts = np.unique(node * longest + lengths[spans(nodes.low, nodes.high)], return_counts=True)
    owner, length = (pairs // longest).astype(np.int32), (pairs % longest).astype(np.int32)
    order = np.argsort(lengths, kind="stable").astype(np.int32)
    stride = np.int64(len(lengths) + 1)
    low = np.searchsorted(lengths[order] * stride + order, length * stride + nodes.low[owner])
    first = np.searchsorted(owner, np.arange(len(depth) + 1)).astype(np.int32)
    steps = length - depth[owner]
    height = np.zeros(len(depth), np.int32)
    has_entries = first[1:] > first[:-1]
    height[has_entries] = steps[first[1:][has_entries] - 1]
    return Lengths(
        order=order,
        first=first,
        steps=steps,
        low=(place + low).astype(np.int32),
        high=(place + low + counts).astype(np.int32),
        height=height,
    )


def _fill_below(trie: Trie, starts: NDArray[np.int64]) -> None:
    """Byte sets from the leaves up."""
    bits = np.zeros((256, 4), np.uint64)
    values = np.arange(256)
    bits[values, values // 64] = np.uint64(1) << (values % 64).astype(np.uint64)
    for start, stop in reversed(list(itertools.pairwise(starts))):
        parents = np.arange(start, stop)[trie.children[start:stop] > 0]
        if len(parents):
            first = trie.first_child[parents[0]]
            last = trie.first_child[parents[-1]] + trie.children[parents[-1]]
            sets = trie.below[first:last] | bits[trie.byte[first:last]]
            trie.below[parents] = np.bitwise_or.reduceat(sets, trie.first_child[parents] - first, axis=0)
