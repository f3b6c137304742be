"""A sampled path is a text that can close in time, with the correct probability."""

from collections import Counter
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_worker.constraints.automata.automaton import freeze
from diffusion_worker.constraints.inference import sample
from diffusion_worker.constraints.inference.marginals import backward_masses
from diffusion_worker.constraints.inference.matcher import open_matcher
from diffusion_worker.constraints.inference.sample import sample_path
from diffusion_worker.constraints.inference.token_set_scores import weigh_token_sets
from diffusion_worker.constraints.tokens.compilation import compile_tokens
from diffusion_worker.constraints.tokens.token_trie import build_token_trie
from diffusion_worker.denoise.truncation import likeliest_tokens
from diffusion_worker.types.requests import Truncation
from tests.worker.constraints.by_enumeration import Case, cases
from tests.worker.constraints.inference.test_viterbi import opened

uniforms = st.floats(0.0, 1.0, exclude_max=True)


@given(cases(), st.integers(1, 6), st.lists(uniforms, min_size=3, max_size=3))
def test_every_draw_is_allowed(case: Case, max_tokens: int, draws: list[float]) -> None:
    """For any random numbers, including 0 and the largest below 1; the same numbers give the same text."""
    matcher = opened(case, max_tokens)
    masses = weigh_token_sets(matcher.automaton.token_sets, case.logits)
    path = sample_path(matcher, masses, backward_masses(matcher, masses), np.array(draws))
    assert tuple(path.tokens[: path.length].tolist()) in case.texts(max_tokens)
    assert matcher.after(path.tokens.tolist()) == path.matcher
    again = sample_path(matcher, masses, backward_masses(matcher, masses), np.array(draws))
    assert (again.tokens == path.tokens).all()


@pytest.mark.slow
@given(cases(), st.integers(1, 6), st.integers(0, 2**32 - 1))
@settings(max_examples=10)  # fixed: the more often a statistic is drawn, the likelier one exceeds its bound
def test_texts_are_drawn_with_their_probability(case: Case, max_tokens: int, seed: int) -> None:
    """Pearson's statistic of 2000 draws stays within six deviations of what chance gives."""
    matcher = opened(case, max_tokens)
    logits = case.logits / max(1.0, float(np.abs(case.logits).max()) / 3.0)
    case = Case(case.language, case.tokens, logits)
    masses = weigh_token_sets(matcher.automaton.token_sets, logits)
    backward = backward_masses(matcher, masses)
    numbers = np.random.default_rng(seed).random((2000, len(logits)))
    paths = [sample_path(matcher, masses, backward, row) for row in numbers]
    counts = Counter(tuple(path.tokens[: path.length].tolist()) for path in paths)
    texts = case.texts(max_tokens)
    expected = np.exp(np.array(list(texts.values())) - np.logaddexp.reduce(list(texts.values()))) * 2000
    seen = np.array([counts[ids] for ids in texts])
    often = expected >= 5
    parts = [((seen[often] - expected[often]) ** 2 / expected[often]).sum()]
    rare = expected[~often].sum()
    parts.append((seen[~often].sum() - rare) ** 2 / rare if rare > 1 else 0.0)
    freedom = int(often.sum()) + 1
    assert sum(parts) < freedom + 6 * np.sqrt(2 * freedom)


@given(cases(), st.integers(1, 6), st.lists(uniforms, min_size=3, max_size=3))
def test_a_truncated_draw_is_allowed_and_takes_a_token_that_the_truncation_keeps(
    case: Case, max_tokens: int, draws: list[float]
) -> None:
    """Truncated to one token, each token is the most likely one after the tokens before it, by enumeration."""
    matcher = opened(case, max_tokens)
    masses = weigh_token_sets(matcher.automaton.token_sets, case.logits)
    truncate = partial(likeliest_tokens, truncation=Truncation(top_k=1))
    path = sample_path(matcher, masses, backward_masses(matcher, masses), np.array(draws), truncate)
    ids, texts = tuple(path.tokens[: path.length].tolist()), case.texts(max_tokens)
    assert ids in texts
    for position, token in enumerate(ids):
        mass: dict[int, float] = {}
        for text, weight in texts.items():
            if text[:position] == ids[:position] and len(text) > position:
                mass[text[position]] = np.logaddexp(mass.get(text[position], -np.inf), weight)
        assert mass[token] >= max(mass.values()) - 1e-4


@given(
    cases(),
    st.integers(1, 6),
    st.lists(uniforms, min_size=3, max_size=3),
    st.builds(
        Truncation,
        top_k=st.integers(0, 4),
        top_p=st.sampled_from((0.137, 0.613, 0.891, 1.0)),
        min_p=st.sampled_from((0.0, 1e-6, 0.137)),
    ),
    st.sampled_from((1.0, 100.0, 1e6)),
)
def test_a_truncated_draw_looks_at_few_tokens_but_draws_as_if_it_looked_at_all(
    case: Case, max_tokens: int, draws: list[float], truncation: Truncation, spread: float
) -> None:
    """Also where the most likely token is not allowed, and where logits are so far apart that their floor counts."""
    matcher = opened(case, max_tokens)
    logits = (case.logits * np.float32(spread)).astype(np.float32)
    masses = weigh_token_sets(matcher.automaton.token_sets, logits)
    truncate, backward = partial(likeliest_tokens, truncation=truncation), backward_masses(matcher, masses)
    few = sample_path(matcher, masses, backward, np.array(draws), truncate)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sample, "_GAPS", (np.inf,))
        every = sample_path(matcher, masses, backward, np.array(draws), truncate)
    assert few.tokens.tolist() == every.tokens.tolist()


def test_a_truncated_draw_weighs_few_of_many_tokens() -> None:
    """Ten thousand tokens are allowed, of which three can be among the most likely ones."""
    tokens = [b"", b"", *(b"a%d" % number for number in range(10_000))]
    language = freeze([[(ord("a"), ord("a"), 1)], [(byte, byte, 1) for byte in b"0123456789"]], [False, True], 0)
    automaton = compile_tokens(language, build_token_trie(tokens, (1,), 0))
    assert automaton is not None
    logits = np.zeros((2, len(tokens)), np.float32)
    logits[0, [7, 4000, 9000]], logits[0, 1] = (60.0, 61.0, 59.0), 90.0  # the last one is not allowed there
    masses, matcher = weigh_token_sets(automaton.token_sets, logits), open_matcher(automaton, 2)
    weighed: list[int] = []

    for truncation in (Truncation(top_k=2), Truncation(top_p=0.9), Truncation(min_p=0.1)):

        def counted(weights: Any, not_given: Any, truncation: Truncation = truncation) -> Any:
            weighed.append(len(weights))
            return likeliest_tokens(weights, truncation, not_given)

        path = sample_path(matcher, masses, backward_masses(matcher, masses), np.array([0.1, 0.5]), counted)
        assert path.tokens.tolist() == [7, 1]
        assert weighed.pop(0) <= 4
        weighed.clear()


def test_a_large_equivalence_class_is_sampled_exactly() -> None:
    """Ten thousand tokens in one equivalence class: a random number selects the token whose share contains it."""
    tokens = [b"", b"", *(b"a%d" % number for number in range(10_000))]
    language = freeze([[(ord("a"), ord("a"), 1)], [(byte, byte, 1) for byte in b"0123456789"]], [False, True], 0)
    automaton = compile_tokens(language, build_token_trie(tokens, (1,), 0))
    assert automaton is not None
    logits = np.random.default_rng(0).standard_normal((2, len(tokens))).astype(np.float32)
    masses = weigh_token_sets(automaton.token_sets, logits)
    matcher = open_matcher(automaton, 2)
    backward = backward_masses(matcher, masses)
    shares = np.exp(logits[0, 2:].astype(np.float64))
    ends = np.cumsum(shares) / shares.sum()
    for token in (0, 1, 255, 256, 5_000, 9_999):
        middle = ends[token] - shares[token] / shares.sum() / 2
        assert sample_path(matcher, masses, backward, np.array([middle, 0.5])).tokens.tolist() == [token + 2, 1]
