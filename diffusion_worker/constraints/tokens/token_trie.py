"""The token trie: the vocabulary of a tokenizer as a trie over bytes, built once and walked by every token compilation.

Tokens that spell text are ranked by their bytes, so all tokens below a node are one range of ranks. Tokens that spell
no text (control tokens) come last and are not in the trie.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffusion_worker.constraints.automata.control_tokens import FIRST_PLACEHOLDER
from diffusion_worker.constraints.automata.native import NATIVE
from diffusion_worker.constraints.tokens.distance import spans
from diffusion_worker.constraints.tokens.vocabulary_bytes import VocabularyBytes, make_vocabulary_bytes

Ints = NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrieNodes:
    """Nodes in breadth-first order, siblings adjacent. The ranks [low, high) are the tokens at and below a node, the
    first `own` of them end at the node itself; `below` is the set of bytes on the edges under it."""

    byte: NDArray[np.uint8]  # [nodes] of the edge into the node
    first_child: Ints  # [nodes]
    children: Ints  # [nodes] count
    low: Ints  # [nodes]
    high: Ints  # [nodes]
    own: Ints  # [nodes]
    below: NDArray[np.uint64]  # [nodes, 4] 256 bits
    lengths: "TokenLengths"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLengths:
    """The tokens below each node grouped by remaining bytes, as ranges of a second order of the tokens: by length, then
    by rank. In it the tokens of one length below one node are adjacent. Its indices follow the ranks."""

    order: Ints  # [tokens that spell] -> rank
    first: Ints  # [nodes + 1] into the entries
    steps: Ints  # [entries] bytes below the node, ascending within one
    low: Ints  # [entries] into the second order
    high: Ints  # [entries]
    height: Ints  # [nodes] maximum steps


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenTrie:
    """What token compilation needs of a tokenizer. Equal digests give equal token automata."""

    size: int
    order: Ints  # [size] rank -> id
    rank: Ints  # [size] id -> rank
    nodes: TrieNodes
    text: Ints  # ranks of tokens that are text of a string, grouped by the end of their last character; empty in Python
    end_ids: tuple[int, ...]  # any of them ends an answer
    padding_id: int  # fills the canvas after the end token
    digest: str

    @property
    def text_ranks(self) -> int:
        """The number of ranks that spell text; placeholders of control tokens, and tokens that spell nothing,
        follow."""
        first, nodes = int(self.nodes.first_child[0]), self.nodes
        siblings = nodes.byte[first : first + int(nodes.children[0])]
        at = int(np.searchsorted(siblings, FIRST_PLACEHOLDER))
        return int(nodes.low[first + at] if at < len(siblings) else nodes.high[0])


def build_token_trie(tokens: Sequence[bytes], end_ids: Sequence[int], padding_id: int) -> TokenTrie:
    """From the bytes of every id (empty for control tokens). Raises ValueError when an end token spells text or does
    not exist."""
    return token_trie_of(make_vocabulary_bytes(tokens, end_ids, padding_id))


def token_trie_of(vocabulary_bytes: VocabularyBytes) -> TokenTrie:
    """Build the trie: about 0.1 s for 50,000 tokens."""
    tokens = vocabulary_bytes.tokens
    order = sorted(range(len(tokens)), key=lambda token: (not tokens[token], tokens[token]))
    spelled = [tokens[token] for token in order if tokens[token]]
    rank = np.empty(len(tokens), np.int32)
    rank[order] = np.arange(len(tokens), dtype=np.int32)
    nodes = _trie(spelled, len(tokens))
    return TokenTrie(
        size=len(tokens),
        order=np.array(order, np.int32),
        rank=rank,
        nodes=nodes,
        text=_text(nodes),
        end_ids=vocabulary_bytes.end_ids,
        padding_id=vocabulary_bytes.padding_id,
        digest=vocabulary_bytes.digest,
    )


def _text(nodes: TrieNodes) -> Ints:
    if NATIVE is None:
        return np.empty(0, np.int32)
    arrays = (nodes.byte, nodes.first_child, nodes.children, nodes.low, nodes.own)
    return np.frombuffer(NATIVE.text_order(arrays), np.int32)


def _trie(spelled: Sequence[bytes], size: int) -> TrieNodes:
    """Build the trie of sorted byte strings, one level at a time; `size` counts the control tokens too."""
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
    return _concatenate(levels, labels, lengths, size)


@dataclass(frozen=True, slots=True)
class _Level:
    low: Ints
    high: Ints
    own: Ints


def _shared_prefixes(spelled: Sequence[bytes]) -> Ints:
    """[tokens] the length of the prefix shared with the preceding token; -1 for the first."""
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


def _concatenate(levels: Sequence[_Level], labels: Sequence[NDArray[np.uint8]], lengths: Ints, size: int) -> TrieNodes:
    """Concatenate the levels and link each node to its children."""
    starts = np.cumsum([0, *(len(level.low) for level in levels)])
    joined = _Level(*(np.concatenate([getattr(level, name) for level in levels]) for name in ("low", "high", "own")))
    depth = np.repeat(np.arange(len(levels), dtype=np.int32), np.diff(starts))
    first_child, children = [], []
    for level, after, start in zip(levels, [*levels[1:], None], starts[1:], strict=True):
        below = after.low if after else np.zeros(0, np.int32)
        first = np.searchsorted(below, level.low).astype(np.int32)
        children.append((np.searchsorted(below, level.high) - first).astype(np.int32))
        first_child.append((first + start).astype(np.int32))
    nodes = TrieNodes(
        byte=np.concatenate(labels),
        first_child=np.concatenate(first_child),
        children=np.concatenate(children),
        low=joined.low,
        high=joined.high,
        own=joined.own,
        below=np.zeros((int(starts[-1]), 4), np.uint64),
        lengths=_lengths(joined, depth, lengths, size),
    )
    _fill_below(nodes, starts)
    return nodes


def _lengths(joined: _Level, depth: Ints, lengths: Ints, offset: int) -> TokenLengths:
    """Every (node, token length) that occurs: a token counts once for each of its ancestors."""
    node = np.repeat(np.arange(len(depth), dtype=np.int64), joined.high - joined.low)
    longest = int(lengths.max(initial=0)) + 1
    pairs, counts = np.unique(node * longest + lengths[spans(joined.low, joined.high)], return_counts=True)
    owner, length = (pairs // longest).astype(np.int32), (pairs % longest).astype(np.int32)
    order = np.argsort(lengths, kind="stable").astype(np.int32)
    stride = np.int64(len(lengths) + 1)
    low = np.searchsorted(lengths[order] * stride + order, length * stride + joined.low[owner])
    first = np.searchsorted(owner, np.arange(len(depth) + 1)).astype(np.int32)
    steps = length - depth[owner]
    height = np.zeros(len(depth), np.int32)
    has_entries = first[1:] > first[:-1]
    height[has_entries] = steps[first[1:][has_entries] - 1]
    return TokenLengths(
        order=order,
        first=first,
        steps=steps,
        low=(offset + low).astype(np.int32),
        high=(offset + low + counts).astype(np.int32),
        height=height,
    )


def _fill_below(nodes: TrieNodes, starts: NDArray[np.int64]) -> None:
    """Compute the byte sets bottom-up."""
    bits = np.zeros((256, 4), np.uint64)
    values = np.arange(256)
    bits[values, values // 64] = np.uint64(1) << (values % 64).astype(np.uint64)
    for start, stop in reversed(list(itertools.pairwise(starts))):
        parents = np.arange(start, stop)[nodes.children[start:stop] > 0]
        if len(parents):
            first = nodes.first_child[parents[0]]
            last = nodes.first_child[parents[-1]] + nodes.children[parents[-1]]
            sets = nodes.below[first:last] | bits[nodes.byte[first:last]]
            nodes.below[parents] = np.bitwise_or.reduceat(sets, nodes.first_child[parents] - first, axis=0)
