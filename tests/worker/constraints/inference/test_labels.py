"""The probability of a label is the sum over all tokenizations of it."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from diffusion_worker.constraints.inference.labels import compile_labels, index_tokens, label_logprobs
from diffusion_worker.constraints.tokens.vocabulary_bytes import make_vocabulary_bytes
from diffusion_worker.errors import AnswerDoesNotFit, InvalidRequest

TOKENS = (b"", b"", b"", b"a", b"b", b"ab", b"ba", b"a")
ENDS = (1, 2)
CANVAS = 4
WORDS = index_tokens(make_vocabulary_bytes(TOKENS, ENDS, 0))


def by_hand(text: bytes, logprobs: np.ndarray) -> float:
    """The probability that a canvas spells the text and then ends, by enumerating all tokenizations."""
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
def test_masses_are_sums_over_all_tokenizations(texts: list[bytes], seed: int, scale: float) -> None:
    """Normalised over the labels; 0 for one that is too long for the canvas."""
    logits = (np.random.default_rng(seed).standard_normal((CANVAS, len(TOKENS))) * scale).astype(np.float32)
    logprobs = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    masses = np.array([by_hand(text, logprobs) for text in texts])
    assume(masses.any())
    labels = compile_labels([[text.decode()] for text in texts], WORDS)
    found = np.exp(label_logprobs(labels, logprobs[: labels.positions, labels.tokens].astype(np.float64)))
    assert found == pytest.approx(masses / masses.sum(), abs=1e-4)
    assert found.sum() == pytest.approx(1.0)


def test_a_label_has_the_mass_of_all_its_layouts() -> None:
    """Its answer is the first layout in the fewest tokens."""
    labels = compile_labels([["ab", "a"], ["b"]], WORDS)
    assert labels.answers == ((5,), (4,))
    logprobs = np.log(np.full((3, len(TOKENS)), 1 / 8))[:, labels.tokens]
    by_text = {"ab": 2 * 2 / 8**3 + 2 / 8**2, "a": 2 * 2 / 8**2, "b": 2 / 8**2}  # two tokens are "a", two end
    masses = np.array([by_text["ab"] + by_text["a"], by_text["b"]])
    assert np.exp(label_logprobs(labels, logprobs)) == pytest.approx(masses / masses.sum())


def test_empty_and_unspellable_labels_are_refused() -> None:
    """Also those that need more tokens than there are positions, including the end token."""
    with pytest.raises(InvalidRequest, match="is empty"):
        compile_labels([["a"], [""]], WORDS)
    with pytest.raises(InvalidRequest, match="cannot spell the label 'abc'"):
        compile_labels([["a"], ["abc"]], WORDS)
    labels = compile_labels([["a"], ["abab"]], WORDS)
    labels.check_length(3)
    with pytest.raises(AnswerDoesNotFit, match="takes 3 tokens; at most 2 fit"):
        labels.check_length(2)


def test_labels_longer_than_the_canvas_get_uniform_probabilities() -> None:
    """The probabilities are uniform, not NaN."""
    labels = compile_labels([["a"], ["b"]], WORDS)
    assert np.exp(label_logprobs(labels, np.full((2, len(labels.tokens)), -np.inf))) == pytest.approx([0.5, 0.5])
