"""Equivalence class scores equal those of each class gathered and summed in double precision."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_worker.constraints.automata.automaton import freeze
from diffusion_worker.constraints.inference.equivalence_class_scores import EquivalenceClassScores
from diffusion_worker.constraints.tokens.compilation import compile_tokens
from diffusion_worker.constraints.tokens.token_automaton import TokenSets
from diffusion_worker.constraints.tokens.token_trie import build_token_trie

TOKENS = (b"", b"", *(bytes([byte]) for byte in b"abcdefghijklmnop"), *(b"x%d" % number for number in range(60)))


def token_sets_of(sizes: tuple[int, int]) -> TokenSets:
    """A language of one letter, then any token but some: equivalence classes of one, of several, and perhaps of most
    tokens."""
    first, several = sizes
    rows = [
        [(ord("a") + offset, ord("a") + offset, 1) for offset in range(first)],
        [(ord("a"), ord("a") + several, 2), (ord("x"), ord("x"), 1), (ord("0"), ord("9"), 1)],
        [],
    ]
    automaton = compile_tokens(freeze(rows, [False, False, True], 0), build_token_trie(TOKENS, (1,), 0))
    assert automaton is not None
    return automaton.token_sets


@pytest.mark.slow
@given(
    st.tuples(st.integers(1, 5), st.integers(1, 9)),
    st.sampled_from([0.0, 1.0, 25.0, 300.0]),
    st.floats(-150.0, 150.0),
    st.integers(0, 2**32 - 1),
)
def test_peak_mass_and_entropy_are_those_of_the_members(
    sizes: tuple[int, int], scale: float, offset: float, seed: int
) -> None:
    """With and without a shift of exponentials: logits that are flat, peaked, all high or all low."""
    token_sets = token_sets_of(sizes)
    logits = (np.random.default_rng(seed).standard_normal((3, len(TOKENS))) * scale + offset).astype(np.float32)
    found = EquivalenceClassScores(token_sets, logits)
    found.read_masses()
    for index in range(token_sets.classes):
        values = logits[:, token_sets.tokens_of(index)].astype(np.float64)
        mass = np.logaddexp.reduce(values, axis=1)
        share = np.exp(values - mass[:, None])
        assert found.peak[:, index] == pytest.approx(values.max(axis=1), abs=1e-4)
        assert (found.peak + found.logsum)[:, index] == pytest.approx(mass, rel=1e-6, abs=1e-4)
        surprise = np.where(share > 0, share * (mass[:, None] - values), 0.0).sum(axis=1)
        assert found.entropy[:, index] == pytest.approx(surprise, abs=2e-3)
    assert found.normaliser == pytest.approx(np.logaddexp.reduce(logits.astype(np.float64), axis=1), rel=1e-6, abs=1e-4)


@given(st.sampled_from([1.0, 300.0]), st.floats(-150.0, 150.0), st.integers(0, 2**32 - 1))
def test_peaks_alone_are_the_same_peaks(scale: float, offset: float, seed: int) -> None:
    """The normaliser is computed, or used if it is given."""
    token_sets = token_sets_of((3, 5))
    logits = (np.random.default_rng(seed).standard_normal((3, len(TOKENS))) * scale + offset).astype(np.float32)
    whole, quick, told = (EquivalenceClassScores(token_sets, logits) for _ in range(3))
    whole.read_masses()
    quick.read_peaks()
    told.read_peaks(whole.normaliser)
    for other in (quick, told):
        assert (other.peak == whole.peak).all()
        assert (other.top_token == whole.top_token).all()
        assert other.normaliser == pytest.approx(whole.normaliser, rel=1e-6, abs=1e-4)


def test_logits_of_another_vocabulary_are_refused() -> None:
    with pytest.raises(ValueError, match="logits over 7 tokens"):
        EquivalenceClassScores(token_sets_of((1, 1)), np.zeros((2, 7), np.float32))
