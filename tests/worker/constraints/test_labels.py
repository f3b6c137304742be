"""Labels are as likely as all the ways to write them together."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from diffusion_worker.constraints.labels import label_probabilities
from diffusion_worker.constraints.vocabulary import read_vocabulary

TOKENS = (b"", b"", b"", b"a", b"b", b"ab", b"ba", b"a")
ENDS = (1, 2)
CANVAS = 4


def by_hand(text: bytes, logprobs: np.ndarray) -> float:
    """The probability that a canvas spells the text and then ends, every way to do so written out."""
    return sum(
        float(np.exp(sum(logprobs[position, token] for position, token in enumerate((*ids, end)))))
        for length in range(1, CANVAS)
        for ids in itertools.product(range(3, len(TOKENS)), repeat=length)
        if b"".join(TOKENS[token] for token in ids) == text
        for end in ENDS
    )


@given(
    st.lists(st.text("ab", min_size=1, max_size=4).map(str.encode), min_size=1, max_size=4, unique=True),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.0, 1.0, 5.0]),
)
def test_they_are_the_sums_over_all_spellings(texts: list[bytes], seed: int, scale: float) -> None:
    """Normalised over the labels; 0 for one that is too long for the canvas."""
    logits = (np.random.default_rng(seed).standard_normal((CANVAS, len(TOKENS))) * scale).astype(np.float32)
    logprobs = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    masses = np.array([by_hand(text, logprobs) for text in texts])
    assume(masses.any())
    found = label_probabilities(texts, read_vocabulary(TOKENS, ENDS, 0), logits)
    assert found == pytest.approx(masses / masses.sum(), abs=1e-4)


def test_labels_that_are_empty_or_cannot_be_spelled_are_refused() -> None:
    """Instead of probabilities of nothing."""
    vocabulary, logits = read_vocabulary(TOKENS, ENDS, 0), np.zeros((2, len(TOKENS)), np.float32)
    with pytest.raises(ValueError, match="must not be empty"):
        label_probabilities([b"a", b""], vocabulary, logits)
    with pytest.raises(ValueError, match="in 2 tokens"):
        label_probabilities([b"c", b"aaa"], vocabulary, logits)
