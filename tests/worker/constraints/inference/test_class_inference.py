"""Inference from scores of equivalence classes equals that from the logits: in C and in numpy."""

import itertools
from dataclasses import fields, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.vocabularies import shipped
from diffusion_worker.constraints.automata.automaton import freeze
from diffusion_worker.constraints.compile import compile_schema
from diffusion_worker.constraints.inference import class_inference
from diffusion_worker.constraints.inference.class_inference import (
    ALL_STATES,
    LIVE_STATES,
    Inferred,
    infer,
    infer_exactly,
    infer_natively,
)
from diffusion_worker.constraints.inference.class_reduction import ClassLayout, ClassScores, LogitReducer
from diffusion_worker.constraints.inference.equivalence_class_scores import EquivalenceClassScores
from diffusion_worker.constraints.inference.marginals import backward_masses, marginals
from diffusion_worker.constraints.inference.matcher import Matcher, open_matcher
from diffusion_worker.constraints.inference.native import NATIVE
from diffusion_worker.constraints.inference.sample import sample_path
from diffusion_worker.constraints.inference.token_set_scores import score_token_sets, weigh_token_sets
from diffusion_worker.constraints.inference.viterbi import best_path
from diffusion_worker.constraints.tokens.compilation import compile_tokens
from diffusion_worker.constraints.tokens.token_automaton import TokenAutomaton, TokenSets
from diffusion_worker.constraints.tokens.token_trie import build_token_trie
from tests.worker.constraints.by_enumeration import Case, cases
from tests.worker.constraints.inference.test_equivalence_class_scores import token_sets_of
from tests.worker.constraints.inference.test_viterbi import opened

needs_native = pytest.mark.skipif(NATIVE is None, reason="diffusion_worker.constraints.inference._native is not built")
# Rounding decides at 0, at 1 and at borders between classes.
uniforms = st.lists(st.floats(0.01, 0.99), min_size=3, max_size=3).map(np.array)


def scores_of(token_sets: TokenSets, logits: np.ndarray, temperature: float = 1.0) -> ClassScores:
    """By the engine that defines them."""
    found, warm = (EquivalenceClassScores(token_sets, each) for each in (logits, logits / np.float32(temperature)))
    found.read_masses()
    warm.read_masses()
    sampled = None if temperature == 1.0 else warm.peak + warm.logsum
    return ClassScores(peak=found.peak, mass=found.peak + found.logsum, entropy=found.entropy, sampled=sampled)


@pytest.mark.slow
@given(cases(), st.integers(1, 6), uniforms)
@settings(max_examples=40)
def test_classes_are_those_of_the_exact_tokens(case: Case, max_tokens: int, numbers: np.ndarray) -> None:
    """The best path has the same log-probability, marginals the same entropy, and the sample is of the same classes
    for the same uniform numbers."""
    matcher = opened(case, max_tokens)
    token_sets = matcher.automaton.token_sets
    found = infer_exactly(matcher, scores_of(token_sets, case.logits), numbers)
    masses = weigh_token_sets(token_sets, case.logits)
    backward = backward_masses(matcher, masses)
    best = best_path(matcher, score_token_sets(token_sets, case.logits))
    drawn = sample_path(matcher, masses, backward, numbers)
    scores = scores_of(token_sets, case.logits)
    mass = np.logaddexp.reduce(case.logits.astype(np.float64), axis=1)
    logprob = sum(scores.peak[at, index] - mass[at] for at, index in enumerate(found.best))
    assert logprob == pytest.approx(best.logprob, rel=1e-5, abs=1e-3)
    assert found.entropy == pytest.approx(marginals(matcher, masses, backward).entropy, abs=1e-5)
    assert found.drawn.tolist() == token_sets.class_of[drawn.tokens[: drawn.length]].tolist()
    assert found.states.tolist() == _states(matcher, best_tokens(matcher, found))


def best_tokens(matcher: Matcher, found: Inferred) -> list[int]:
    return [int(matcher.automaton.token_sets.tokens_of(index)[0]) for index in found.best.tolist()]


def _states(matcher: Matcher, tokens: list[int]) -> list[int]:
    states = [matcher.state]
    for token in tokens:
        states.append(matcher.automaton.after(states[-1], token))
    return states[:-1]


@pytest.mark.slow
@needs_native
@pytest.mark.parametrize("way", [LIVE_STATES, ALL_STATES])
@given(case=cases(), max_tokens=st.integers(1, 6), temperature=st.sampled_from([1.0, 0.5, 3.0, 0.01]), numbers=uniforms)
@settings(max_examples=40)
def test_inference_in_c_equals_that_in_numpy(
    way: str, case: Case, max_tokens: int, temperature: float, numbers: np.ndarray
) -> None:
    """Except where C declines: where probabilities leave the range of a double, or live states leave out too much."""
    matcher = opened(case, max_tokens)
    scores = scores_of(matcher.automaton.token_sets, case.logits, temperature)
    found, exact = infer_natively(way, matcher, scores, numbers), infer_exactly(matcher, scores, numbers)
    if found is not None:
        assert_same(matcher, scores, numbers, found, exact)


def assert_same(
    matcher: Matcher,
    scores: ClassScores,
    numbers: np.ndarray,
    found: Inferred,
    exact: Inferred,
    *,
    entropy: float = 1e-4,
) -> None:
    """Paths of the same probability, the same entropies, and the same sample except at borders between classes."""
    at = range(len(found.best))
    value = [sum(float(scores.peak[i, each.best[i]]) for i in at) for each in (found, exact)]
    assert len(found.best) == len(exact.best)
    assert value[0] == pytest.approx(value[1], rel=1e-6, abs=1e-4)  # ties may go either way
    assert found.entropy == pytest.approx(exact.entropy, abs=entropy)
    if _is_far_from_borders(matcher, scores, numbers):
        assert found.drawn.tolist() == exact.drawn.tolist()
        assert found.rests == pytest.approx(exact.rests, abs=1e-2)


_SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "kind": {"enum": ["one", "other"]},
        "counts": {"type": "array", "items": {"type": "integer"}},
        "part": {"type": "object", "properties": {"is_open": {"type": "boolean"}, "at": {"type": "number"}}},
    },
    "required": ["name"],
}
_THREE = {"type": "object", "properties": dict.fromkeys(("red", "green", "blue"), _SCHEMA), "required": ["red"]}


@cache
def automaton_of_schema() -> TokenAutomaton:
    """Thousands of states, over words of one to five bytes."""
    words = shipped()
    pairs = tuple(bytes(pair) for pair in itertools.product(b'abdeimnort":, {}[]0123', repeat=2))
    vocabulary = build_token_trie((*words.tokens, *pairs, b'"name', b'":"', b'","'), (words.end_id,), words.padding_id)
    automaton = compile_tokens(compile_schema(_THREE).automaton, vocabulary)
    assert automaton is not None
    return automaton


@needs_native
@pytest.mark.parametrize("spread", [0.3, 3.0, 12.0])
@pytest.mark.parametrize("spare", [None, 60, 3])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_few_live_states_give_what_all_states_give(spread: float, spare: int | None, temperature: float) -> None:
    """For confident and unsure models, without a binding limit and with one; only a tight one needs all states."""
    automaton = automaton_of_schema()
    assert automaton.edges > 30_000, "enough for a second attempt"
    tokens = 100_000 if spare is None else int(automaton.distance[automaton.start]) + spare
    matcher, random = open_matcher(automaton, tokens), np.random.default_rng(int(spread * 10))
    logits = (random.standard_normal((96, len(automaton.token_sets.order))) * spread).astype(np.float32)
    scores, numbers = scores_of(automaton.token_sets, logits, temperature), random.random(96)
    found = infer_natively(LIVE_STATES, matcher, scores, numbers)
    exact = infer_natively(ALL_STATES, matcher, scores, numbers)
    assert exact is not None
    assert found is not None or spare is not None
    if found is not None:
        assert_same(matcher, scores, numbers, found, exact, entropy=1e-5)


@needs_native
@pytest.mark.parametrize("way", [LIVE_STATES, ALL_STATES])
@pytest.mark.parametrize("canvas", [0, 1])
def test_a_canvas_of_no_or_one_position_is_inferred(way: str, canvas: int) -> None:
    """Before the end token, all of whose scratch is small."""
    automaton = compile_tokens(freeze([[]], [True], 0), build_token_trie((b"", b"", b"a"), (1,), 0))
    assert automaton is not None
    matcher, logits = open_matcher(automaton, 1), np.zeros((canvas, 3), np.float32)
    found = infer_natively(way, matcher, scores_of(automaton.token_sets, logits), np.full(canvas, 0.5))
    assert found is not None
    assert [automaton.token_sets.tokens_of(index).tolist() for index in found.best] == [[1]] * canvas
    assert found.drawn.tolist() == found.best.tolist()
    assert found.entropy == pytest.approx(np.zeros(canvas), abs=1e-6)


@needs_native
@pytest.mark.parametrize("behind", [20.0, 38.0, 70.0, 200.0])
def test_a_text_that_looks_impossible_at_first_is_not_lost(behind: float) -> None:
    """The text `bmy` is `behind` in its first token, but the other one, `amx`, ends in a token that is less likely."""
    language = freeze(
        [[(97, 97, 1), (98, 98, 4)], [(109, 109, 2)], [(120, 120, 3)], [], [(109, 109, 5)], [(121, 121, 3)]],
        [False, False, False, True, False, False],
        0,
    )
    automaton = compile_tokens(language, build_token_trie((b"", b"", b"a", b"b", b"m", b"x", b"y"), (1,), 0))
    assert automaton is not None
    logits = np.zeros((4, 7), np.float32)
    logits[0, 3], logits[2, 5] = -behind, -behind - 30.0
    matcher, scores, numbers = open_matcher(automaton, 9), scores_of(automaton.token_sets, logits), np.full(4, 0.5)
    found, exact = infer_natively(LIVE_STATES, matcher, scores, numbers), infer_exactly(matcher, scores, numbers)
    assert found is not None
    assert found.best.tolist() == exact.best.tolist()
    assert found.drawn.tolist() == exact.drawn.tolist() == found.best.tolist()
    assert found.entropy == pytest.approx(exact.entropy, abs=1e-6)


def _is_far_from_borders(matcher: Matcher, scores: ClassScores, numbers: np.ndarray) -> bool:
    """Whether slightly other numbers draw the same: at a border, rounding decides."""
    near = [infer_exactly(matcher, scores, numbers + by) for by in (-1e-4, 1e-4)]
    return near[0].drawn.tolist() == near[1].drawn.tolist()


@needs_native
@given(cases(), st.integers(1, 6), st.lists(st.sampled_from([0.0, 1e-300, 1.0 - 2.0**-53]), min_size=3, max_size=3))
@settings(max_examples=20)
def test_the_smallest_and_largest_numbers_draw_allowed_texts(case: Case, max_tokens: int, numbers: list[float]) -> None:
    matcher = opened(case, max_tokens)
    token_sets = matcher.automaton.token_sets
    found = infer(matcher, scores_of(token_sets, case.logits), np.array(numbers))
    drawn = [int(token_sets.tokens_of(index)[0]) for index in found.drawn.tolist()]
    assert matcher.after([*drawn, *[0] * (3 - len(drawn))]).tokens_left >= 0
    assert ((found.rests >= 0.0) & (found.rests < 1.0)).all()


@needs_native
def test_probabilities_beyond_a_double_are_left_to_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A set of mass e^-900 is the only way on: C declines, and the answer is that of numpy."""
    matcher, scores = unlikely(-900.0, temperature=1.0)
    calls: list[Any] = []
    monkeypatch.setattr(class_inference, "infer_exactly", lambda *args: calls.append(args) or infer_exactly(*args))
    found = infer(matcher, scores, np.array([0.5, 0.5, 0.5]))
    assert len(calls) == 1
    exact = infer_exactly(matcher, scores, np.array([0.5, 0.5, 0.5]))
    for field in fields(Inferred):
        assert getattr(found, field.name).tolist() == getattr(exact, field.name).tolist()


def unlikely(logit: float, temperature: float) -> tuple[Matcher, ClassScores]:
    """The only text begins with a token of this logit; those of others are 0."""
    language = freeze([[(97, 97, 1)], [(98, 98, 2)], []], [False, False, True], 0)
    automaton = compile_tokens(language, build_token_trie((b"", b"", b"a", b"b"), (1,), 0))
    assert automaton is not None
    logits = np.zeros((3, 4), np.float32)
    logits[:, 2] = logit
    return open_matcher(automaton, 4), scores_of(automaton.token_sets, logits, temperature)


@needs_native
def test_a_low_temperature_leaves_only_the_sample_to_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mass of e^-90 fits a double, but not at the temperature 0.1: the best path and the entropies are those of C."""
    matcher, scores = unlikely(-90.0, temperature=0.1)
    numbers = np.array([0.5, 0.5, 0.5])
    exact = infer_exactly(matcher, scores, numbers)
    monkeypatch.setattr(class_inference, "infer_exactly", None)
    found = infer(matcher, scores, numbers)
    for field in fields(Inferred):
        assert getattr(found, field.name) == pytest.approx(getattr(exact, field.name), abs=1e-6)


@needs_native
@given(
    st.tuples(st.integers(1, 5), st.integers(1, 9)),
    st.sampled_from([0.0, 1.0, 25.0, 300.0]),
    st.floats(-150.0, 150.0),
    st.sampled_from([1.0, 0.4, 2.0]),
    st.integers(0, 2**32 - 1),
)
def test_logits_reduced_in_c_are_those_of_the_members(
    sizes: tuple[int, int], scale: float, offset: float, temperature: float, seed: int
) -> None:
    """Peaks, masses, entropies, and masses at a temperature of sampling, of logits divided by an annealing one."""
    token_sets = token_sets_of(sizes)
    vocab = len(token_sets.order)
    logits = (np.random.default_rng(seed).standard_normal((3, vocab)) * scale + offset).astype(np.float32)
    reducer = LogitReducer(ClassLayout(token_sets), 3, temperature, annealing=0.5)
    assert reducer.read(0, logits[:2] / 2)
    assert reducer.read(2, logits[2:] / 2)
    exact = scores_of(token_sets, logits, temperature)
    assert np.array_equal(reducer.scores.peak, exact.peak)
    assert reducer.scores.mass == pytest.approx(exact.mass, rel=1e-6, abs=1e-4)
    assert reducer.scores.entropy == pytest.approx(exact.entropy, abs=2e-3)
    if exact.sampled is not None:
        assert reducer.scores.sampled == pytest.approx(exact.sampled, rel=1e-5, abs=1e-3)


@needs_native
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("token", [0, 3, 20, 77])
def test_logits_that_are_not_finite_are_reported(value: float, token: int) -> None:
    token_sets = token_sets_of((3, 5))
    logits = np.zeros((2, len(token_sets.order)), np.float32)
    logits[1, token] = value
    assert not LogitReducer(ClassLayout(token_sets), 2, 0.7).read(0, logits)


@needs_native
def test_logits_of_another_vocabulary_are_refused() -> None:
    with pytest.raises(ValueError, match="logits over 5 tokens"):
        LogitReducer(ClassLayout(token_sets_of((3, 5))), 2).read(0, np.zeros((2, 5), np.float32))


@pytest.mark.parametrize("sizes", [(1, 1), (5, 9)])
def test_every_token_has_one_slot(sizes: tuple[int, int]) -> None:
    """Tokens of a class are in its chunks, in ascending order; the largest class keeps its ids' places."""
    token_sets = token_sets_of(sizes)
    layout = ClassLayout(token_sets)
    assert [token_sets.class_of[token] for token in layout.single] == list(range(layout.singles))
    for index in range(layout.singles, layout.classes):
        first, stop = layout.first_chunk[index - layout.singles : index - layout.singles + 2]
        slots = layout.slots[first:stop].ravel()
        assert slots[slots >= 0].tolist() == token_sets.tokens_of(index).tolist()
    assert len(layout.single) + (layout.slots >= 0).sum() == len(token_sets.order)


@needs_native
@pytest.mark.parametrize(
    "damage", ["a set without tokens", "a state without edges", "a negative distance", "any token"]
)
def test_an_automaton_that_inference_would_read_out_of_bounds_is_refused(damage: str) -> None:
    """As a damaged file in a cache of automata may hold it."""
    language = freeze([[(97, 97, 1)], [(98, 98, 2)], []], [False, False, True], 0)
    automaton = compile_tokens(language, build_token_trie((b"", b"", b"a", b"b"), (1,), 0))
    assert automaton is not None
    token_sets, label = automaton.token_sets, automaton.label.copy()
    if damage == "a set without tokens":
        token_sets = replace(token_sets, set_start=_with_second(token_sets.set_start, 0))
    elif damage == "a state without edges":
        automaton = replace(automaton, first_edge=_with_second(automaton.first_edge, 0))
    elif damage == "a negative distance":
        automaton = replace(automaton, distance=_with_second(automaton.distance, -1_000_000))
    else:
        label[automaton.start] = token_sets.sets
    damaged = replace(automaton, token_sets=token_sets, label=label)
    with pytest.raises(ValueError, match="do not fit each other"):
        class_inference._program_of(damaged)


def _with_second(offsets: np.ndarray, value: int) -> np.ndarray:
    changed = offsets.copy()
    changed[1] = value
    return changed
