"""The cost model: predictions are always plausible, and are learnt from similar requests."""

import math
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from diffusion_worker.engine.cost_model import CostModel
from diffusion_worker.engine.sequence import Sequence
from diffusion_worker.types.observations import PredictedWait
from diffusion_worker.types.requests import DecodingMode, DenoisingParams, GenerationRequest
from diffusion_worker.types.step_batch import CanvasResult

DENOISING = DenoisingParams(steps=12, canvas_length=8)
REQUEST = GenerationRequest(prompt_ids=(9,) * 8, max_tokens=64, seed=0, denoising=DENOISING)
SECONDS = st.floats(0.0, 1e4)


def sequence(request: GenerationRequest = REQUEST) -> Sequence:
    return Sequence(id=1, request=request, submitted=0.0, prefill_chunks=[request.prompt_ids])


def canvas(number: int, ids: tuple[int, ...], *, entropy: float = 1.0, converged: bool = False) -> CanvasResult:
    return CanvasResult(
        sequence=number,
        ids=ids,
        logprobs=(-0.1,) * len(ids),
        mean_entropy=entropy,
        accepted=1,
        stable_prefix=0,
        has_converged=converged,
    )


@given(
    steps=st.lists(st.tuples(SECONDS, st.integers(1, 64)), min_size=1, max_size=30),
    errors=st.lists(st.tuples(SECONDS, SECONDS), max_size=60),
    rows=st.integers(1, 64),
    iterations=st.floats(0.0, 1e5) | st.just(math.inf),
)
@example(steps=[(0.0, 1)], errors=[(2.0, 5e-324)], rows=1, iterations=math.inf)
def test_times_are_finite_and_not_negative_and_experience_corrects_them_fourfold_at_most(
    steps: list[tuple[float, int]], errors: list[tuple[float, float]], rows: int, iterations: float
) -> None:
    it = CostModel()
    for seconds, together in steps:
        it.record_step(seconds, together)
    for plain_s, actual_s in errors:
        it.record_wait(PredictedWait(decoding_mode=DecodingMode.DIFFUSION, plain_s=plain_s, wait_s=plain_s), actual_s)
    predicted_wait = it.predict_wait(iterations, rows, DecodingMode.DIFFUSION)
    assert predicted_wait is not None
    assert predicted_wait.plain_s >= 0.0
    assert math.isfinite(predicted_wait.plain_s) == (math.isfinite(iterations) or not it.step_s(rows))
    assert predicted_wait.plain_s / 4.001 <= predicted_wait.wait_s <= predicted_wait.plain_s * 4.001


@given(
    entropies=st.lists(st.floats(0.0, 1e6), max_size=11),
    threshold=st.floats(0.0, math.inf),
    known=st.lists(st.integers(1, 200), max_size=4),
)
def test_a_sequence_needs_at_least_one_more_iteration_and_never_more_than_it_can(
    entropies: list[float], threshold: float, known: list[int]
) -> None:
    it = CostModel()
    for tokens in known:
        other = sequence()
        other.emitted = tokens
        it.record_finished(other)
    one = sequence(replace(REQUEST, denoising=replace(DENOISING, confidence_threshold=threshold)))
    for entropy in entropies:
        one.record_step(canvas(1, (5,) * 8, entropy=entropy), is_late=False)
        assert 1.0 <= it.iterations(one) <= one.iterations_at_most()


def test_the_price_of_a_row_is_learnt_and_more_rows_are_never_cheaper() -> None:
    it = CostModel()
    for _ in range(50):
        it.record_step(0.3, 1)
        it.record_step(0.5, 3)
    assert it.step_s(2) == pytest.approx(0.4)
    assert it.step_s(8) == pytest.approx(1.0)
    noisy = CostModel()
    noisy.record_step(0.5, 1)
    noisy.record_step(0.3, 3)
    assert (noisy.step_s(8) or 0.0) >= (noisy.step_s(1) or math.inf)


def test_answers_are_expected_to_be_as_long_as_those_of_similar_requests() -> None:
    it = CostModel()
    short, long = (replace(REQUEST, prompt_ids=(9,) * n, decoding_mode=DecodingMode.AUTOREGRESSIVE) for n in (8, 200))
    for request, tokens in ((short, 5), (long, 50)):
        done = sequence(request)
        done.emitted = tokens
        it.record_finished(done)
    assert it.iterations(sequence(short)) == 5
    assert it.iterations(sequence(long)) == 50
    assert 5 < it.iterations(sequence(replace(short, prompt_ids=(9,) * 40))) < 50, "the mean for an unknown bucket"


def test_verified_answers_are_expected_to_take_as_many_iterations_as_similar_ones() -> None:
    it, request = CostModel(), replace(REQUEST, decoding_mode=DecodingMode.VERIFIED)
    assert it.iterations(sequence(request)) == it.iterations(
        sequence(replace(request, decoding_mode=DecodingMode.AUTOREGRESSIVE))
    )
    done = sequence(request)
    done.emitted, done.block = 30, 2  # in three iterations
    it.record_finished(done)
    assert it.iterations(sequence(request)) == 3
    assert it.usual_iterations() == 3
    half = sequence(request)
    half.emitted = 20
    assert it.iterations(half) == 1


def test_a_falling_entropy_shortens_what_is_expected_of_a_canvas() -> None:
    it, flat, falling = CostModel(), sequence(), sequence()
    for before, after in ((1.0, 1.0), (1.0, 0.02)):
        flat.record_step(canvas(1, (5,) * 8, entropy=before), is_late=False)
        falling.record_step(canvas(1, (5,) * 8, entropy=after), is_late=False)
    assert it.iterations(falling) < it.iterations(flat)
