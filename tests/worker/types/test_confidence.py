"""The confidence of an answer: a probability that can only fall as the answer goes on."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_worker.types.confidence import (
    MEASUREMENTS,
    WEAKEST,
    ConfidenceWeights,
    Evidence,
    surprise,
    weakest_of,
)

LOGPROBS = st.lists(st.floats(-60.0, 0.0), max_size=30)
AMOUNTS = st.floats(0.0, 1e6)
WEIGHTS = st.dictionaries(st.sampled_from(MEASUREMENTS), st.floats(-1e3, 0.0))


@given(LOGPROBS, LOGPROBS)
def test_the_weakest_tokens_do_not_depend_on_how_the_answer_was_cut_into_blocks(
    first: list[float], second: list[float]
) -> None:
    together = weakest_of((), (*first, *second))
    assert weakest_of(weakest_of((), first), second) == together == tuple(sorted((*first, *second))[:WEAKEST])


@given(LOGPROBS, st.floats(-60.0, 0.0))
def test_a_further_token_never_lowers_the_surprise(logprobs: list[float], further: float) -> None:
    before, after = surprise(weakest_of((), logprobs)), surprise(weakest_of((), (*logprobs, further)))
    assert 0.0 <= before <= after + 1e-12


@given(WEIGHTS, st.floats(-1e3, 1e3), st.sampled_from(MEASUREMENTS), AMOUNTS, AMOUNTS)
def test_more_of_any_measurement_never_raises_the_confidence(
    weights: dict[str, float], intercept: float, name: str, amount: float, more: float
) -> None:
    model = ConfidenceWeights(intercept=intercept, weights=weights)
    before = model.confidence(Evidence(**{name: amount}))
    after = model.confidence(Evidence(**{name: amount + more}))
    assert 0.0 <= after <= before <= 1.0


def test_without_evidence_the_intercept_decides() -> None:
    assert ConfidenceWeights(intercept=0.0).confidence(Evidence()) == 0.5
    assert math.isclose(ConfidenceWeights(intercept=2.0).confidence(Evidence()), 1 / (1 + math.exp(-2)))


@pytest.mark.parametrize(
    ("intercept", "weights"),
    [
        (0.0, {"prompt_surprise": 0.1}),
        (0.0, {"prompt_surprise": math.nan}),
        (0.0, {"prompt_surprise": -math.inf}),
        (0.0, {"luck": -1.0}),
        (math.inf, {}),
        (math.nan, {}),
    ],
)
def test_weights_under_which_the_confidence_could_rise_are_refused(intercept: float, weights: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"weight|intercept|measurement"):
        ConfidenceWeights(intercept=intercept, weights=weights)


def test_prompts_are_read_only_if_they_count() -> None:
    assert ConfidenceWeights(intercept=0.0, weights={"prompt_surprise": -1.0}).reads_prompts
    assert not ConfidenceWeights(intercept=0.0, weights={"prompt_surprise": 0.0, "steps": -1.0}).reads_prompts
