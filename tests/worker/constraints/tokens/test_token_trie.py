"""The trie holds every token once, at the node that its bytes lead to."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_worker.constraints.tokens.token_trie import TokenTrie, build_token_trie

spelled = st.lists(st.binary(min_size=1, max_size=5), min_size=1, max_size=40)


def node_of(vocabulary: TokenTrie, text: bytes) -> int:
    """The node that `text` leads to, by looking at one child after the other."""
    nodes, node = vocabulary.nodes, 0
    for byte in text:
        children = range(nodes.first_child[node], nodes.first_child[node] + nodes.children[node])
        node = next(child for child in children if nodes.byte[child] == byte)
    return node


@given(spelled)
def test_every_token_is_found_where_its_bytes_lead(tokens: list[bytes]) -> None:
    """Copies share a node, and a node's own tokens are the first of its range."""
    vocabulary = build_token_trie([b"", *tokens], (0,), 0)
    nodes = vocabulary.nodes
    for token, text in enumerate(tokens, start=1):
        node = node_of(vocabulary, text)
        own = vocabulary.order[nodes.low[node] : nodes.low[node] + nodes.own[node]]
        assert sorted(own) == [other for other, spelling in enumerate([b"", *tokens]) if spelling == text]
        assert vocabulary.order[vocabulary.rank[token]] == token


@given(spelled)
def test_a_subtree_is_one_range_with_its_byte_set(tokens: list[bytes]) -> None:
    """Token compilation relies on this when it skips subtrees."""
    vocabulary = build_token_trie([b"", *tokens], (0,), 0)
    nodes = vocabulary.nodes
    for text in tokens:
        for length in range(len(text) + 1):
            node = node_of(vocabulary, text[:length])
            inside = [token for token, other in enumerate([b"", *tokens]) if other and other.startswith(text[:length])]
            assert sorted(vocabulary.order[nodes.low[node] : nodes.high[node]]) == inside
            below = {byte for token in inside for byte in tokens[token - 1][length:]}
            bits = np.unpackbits(nodes.below[node].view(np.uint8), bitorder="little")
            assert set(np.flatnonzero(bits)) == below


def test_equal_vocabularies_have_equal_digests_and_others_do_not() -> None:
    """Borders between tokens count, and so do the end tokens."""
    first = build_token_trie([b"", b"", b"ab", b"c"], (0,), 0)
    assert build_token_trie([b"", b"", b"ab", b"c"], (0,), 0).digest == first.digest
    assert build_token_trie([b"", b"", b"a", b"bc"], (0,), 0).digest != first.digest
    assert build_token_trie([b"", b"", b"ab", b"c"], (0, 1), 0).digest != first.digest


@pytest.mark.parametrize(("end_ids", "padding_id"), [((), 0), ((1,), 0), ((0,), 1), ((2,), 0), ((-1,), 0)])
def test_an_end_token_that_is_text_is_refused(end_ids: tuple[int, ...], padding_id: int) -> None:
    """It would be read as part of an answer."""
    with pytest.raises(ValueError, match="control tokens"):
        build_token_trie([b"", b"a"], end_ids, padding_id)
