"""Masses and marginals are the sums over all texts that can close in time."""

from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_worker.constraints.inference.marginals import backward_masses, marginals
from diffusion_worker.constraints.inference.token_set_scores import weigh_token_sets
from diffusion_worker.constraints.tokens.transition_graph import transition_graph_of
from tests.worker.constraints.by_enumeration import PADDING, Case, cases
from tests.worker.constraints.inference.test_viterbi import opened


def by_hand(case: Case, max_tokens: int) -> tuple[float, np.ndarray]:
    """Log mass of all texts, and [positions, vocab + 1] what each position holds; the last column is the padding."""
    texts = case.texts(max_tokens)
    total = float(np.logaddexp.reduce(list(texts.values())))
    held = np.zeros((min(len(case.logits), max_tokens), len(case.tokens) + 1))
    for ids, logprob in texts.items():
        for position in range(len(held)):
            held[position, ids[position] if position < len(ids) else -1] += np.exp(logprob - total)
    return total, held


@pytest.mark.slow
@given(cases(), st.integers(1, 6), st.booleans())
def test_marginals_are_sums_over_all_texts(case: Case, max_tokens: int, is_large: bool) -> None:
    """Mass, probability of every token at every position, and entropy; also by the algorithm for large automata."""
    matcher = opened(case, max_tokens)
    masses = weigh_token_sets(matcher.automaton.token_sets, case.logits)
    backward = backward_masses(matcher, masses)
    with patch("diffusion_worker.constraints.inference.marginals._FEW_EDGES", 0 if is_large else 512):
        found = marginals(matcher, masses, backward)
    total, held = by_hand(case, max_tokens)
    assert backward[0, transition_graph_of(matcher.automaton).node_of[matcher.state]] == pytest.approx(
        total, rel=1e-5, abs=1e-3
    )
    for token in range(len(case.tokens)):
        expected = held[:, token] + (held[:, -1] if token == PADDING else 0.0)
        tokens = np.full(len(case.logits), token, np.int32)
        assert found.probability(tokens, matcher.automaton) == pytest.approx(expected, abs=2e-3)
    token_probabilities = found.token_probabilities(matcher.automaton)
    held_by_tokens = held[:, :-1].copy()
    held_by_tokens[:, PADDING] += held[:, -1]
    assert token_probabilities[: len(held)] == pytest.approx(held_by_tokens, abs=2e-3)
    assert ((held_by_tokens > 0) | (token_probabilities[: len(held)] == 0)).all()
    assert (token_probabilities[len(held) :].argmax(axis=1) == PADDING).all()
    assert found.padding == pytest.approx(held[:, -1], abs=2e-3)
    entropy = -(held * np.log(np.maximum(held, 1e-300))).sum(axis=1)
    assert found.entropy == pytest.approx(entropy, abs=1e-2)


@given(cases(), st.integers(1, 6))
def test_tiny_masses_do_not_underflow(case: Case, max_tokens: int) -> None:
    """The model is certain of a token that is not allowed: all allowed texts have probability e^-2000, and still have
    marginals."""
    matcher = opened(case, max_tokens)
    logits = case.logits / 100.0
    logits[:, PADDING] = 2000.0
    masses = weigh_token_sets(matcher.automaton.token_sets, logits)
    found = marginals(matcher, masses, backward_masses(matcher, masses))
    held = by_hand(Case(case.language, case.tokens, logits), max_tokens)[1]
    assert np.isfinite(found.entropy).all()
    assert found.padding == pytest.approx(held[:, -1], abs=2e-3)


@pytest.mark.parametrize("few", [0, 512])
@given(cases())
def test_no_remaining_tokens_give_empty_marginals(few: int, case: Case) -> None:
    """A text that ended with the last token it had: no position, no entropy."""
    matcher = opened(case, 6)
    ended = replace(matcher, state=matcher.automaton.done, tokens_left=0)
    masses = weigh_token_sets(matcher.automaton.token_sets, case.logits)
    with patch("diffusion_worker.constraints.inference.marginals._FEW_EDGES", few):
        found = marginals(ended, masses, backward_masses(ended, masses))
    assert found.entropy.shape == found.padding.shape == (0,)
