"""The cost model: predictions are always plausible, and are learnt from similar requests."""

import math
from dataclasses import replace
from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from diffusion_worker.engine.cost_model import UNKNOWN_STEP_S, CostModel
from diffusion_worker.engine.sequence import Sequence
from diffusion_worker.engine.step_cost import StepFit, StepLoad, load_of, positions_of
from diffusion_worker.types.observations import PredictedWait
from diffusion_worker.types.requests import DecodingMode, DenoisingParams, GenerationRequest
from diffusion_worker.types.step_batch import Batch, CanvasResult, Decode, Denoise, Prefill, Verify

DENOISING = DenoisingParams(steps=12, canvas_length=8)
REQUEST = GenerationRequest(prompt_ids=(9,) * 8, max_tokens=64, seed=0, denoising=DENOISING)
SECONDS = st.floats(0.0, 1e4)


def sequence(request: GenerationRequest = REQUEST) -> Sequence:
    return Sequence(id=1, request=request, submitted=0.0, prefill_chunks=[request.prompt_ids])


def batch_of(*, denoised: int = 0, verified: int = 0, decoded: int = 0) -> Batch:
    """A batch with so many rows of each kind."""
    step = Denoise(sequence=1, slot=0, at=3, block=0, step=1, opens=True, denoising=DENOISING, seed=0)
    verify = Verify(sequence=2, slot=1, ids=(5,), at=9, seed=0, drafted=7, closes_with=8, draft=step)
    decode = Decode(sequence=3, slot=2, ids=(5,), at=4, seed=0)
    return Batch(denoises=(step,) * denoised, verifications=(verify,) * verified, decodes=(decode,) * decoded)


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
        it.record_step(seconds, batch_of(denoised=together))
    for plain_s, actual_s in errors:
        it.record_wait(PredictedWait(decoding_mode=DecodingMode.DIFFUSION, plain_s=plain_s, wait_s=plain_s), actual_s)
    step_s = it.step_s([sequence()] * rows)
    predicted_wait = it.predict_wait(iterations, step_s, DecodingMode.DIFFUSION)
    assert predicted_wait is not None
    assert predicted_wait.plain_s >= 0.0
    assert math.isfinite(predicted_wait.plain_s) == (math.isfinite(iterations) or not step_s)
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
    it, one = CostModel(), sequence()
    for _ in range(50):
        it.record_step(0.3, batch_of(denoised=1))
        it.record_step(0.5, batch_of(denoised=3))
    assert it.step_s([one] * 2) == pytest.approx(0.4)
    assert it.step_s([one] * 8) == pytest.approx(1.0)
    noisy = CostModel()
    noisy.record_step(0.5, batch_of(denoised=1))
    noisy.record_step(0.3, batch_of(denoised=3))
    assert (noisy.step_s([one] * 8) or 0.0) >= (noisy.step_s([one]) or math.inf)


def seconds_of(batch: Batch) -> float:
    """An artificial device: a millisecond, two for each pass, and a tenth for each position."""
    load = load_of(batch)
    return 0.001 + 0.002 * load.passes + 0.0001 * load.positions


def test_the_price_of_every_decoding_mode_is_learnt() -> None:
    """From batches of all kinds: a decode is cheap, and a verification costs a canvas and as much again."""
    it, dice = CostModel(), Random(0)
    for _ in range(200):
        batch = batch_of(denoised=dice.randint(0, 4), verified=dice.randint(0, 4), decoded=dice.randint(1, 4))
        it.record_step(seconds_of(batch), batch)
    diffused, verified, read = (sequence(replace(REQUEST, decoding_mode=mode)) for mode in DecodingMode)
    for sequences, batch in (
        ([diffused] * 3, batch_of(denoised=3)),
        ([verified] * 3, batch_of(verified=3)),
        ([read] * 3, batch_of(decoded=3)),
        ([read, verified, diffused, diffused], batch_of(denoised=2, verified=1, decoded=1)),
    ):
        assert it.step_s(sequences) == pytest.approx(seconds_of(batch), rel=0.02)


@pytest.mark.parametrize("mode", DecodingMode)
def test_a_worker_of_one_decoding_mode_learns_its_price(mode: DecodingMode) -> None:
    it, names = CostModel(), {"diffusion": "denoised", "verified": "verified", "autoregressive": "decoded"}
    for rows in (1, 2, 4) * 40:
        batch = batch_of(**{names[mode]: rows})
        it.record_step(seconds_of(batch), batch)
    one = sequence(replace(REQUEST, decoding_mode=mode))
    assert it.step_s([one] * 3) == pytest.approx(seconds_of(batch_of(**{names[mode]: 3})), rel=0.02)


def test_the_mean_iteration_of_a_queue_is_that_of_the_sequences_that_run_longest() -> None:
    it = CostModel()
    for rows in (1, 2, 4) * 40:
        for batch in (batch_of(denoised=rows), batch_of(decoded=rows)):
            it.record_step(seconds_of(batch), batch)
    long = sequence(replace(REQUEST, decoding_mode=DecodingMode.AUTOREGRESSIVE, max_tokens=4096))
    mixed, alone = it.usual_step_s([sequence(), long], 1), it.step_s([long])
    assert mixed is not None
    assert alone is not None
    assert mixed < it.step_s([sequence(), long])  # type: ignore[operator]
    assert mixed == pytest.approx(alone, rel=0.1)


@given(
    steps=st.lists(
        st.tuples(st.integers(1, 4), st.integers(1, 10**6), st.floats(1e-6, 100.0)), min_size=1, max_size=40
    ),
    passes=st.integers(1, 4),
    positions=st.integers(1, 10**6),
)
def test_more_work_is_never_cheaper_and_nothing_is_free(
    steps: list[tuple[int, int, float]], passes: int, positions: int
) -> None:
    it = StepFit()
    for some, many, seconds in steps:
        it.add(StepLoad(passes=some, positions=many), seconds)
    little, much = (it.at(StepLoad(passes=passes * n, positions=positions * n)) for n in (1, 2))
    assert little is not None
    assert much is not None
    assert 0.0 < little <= much * (1 + 1e-9)
    assert math.isfinite(much)


def test_the_work_of_a_batch_is_that_of_its_passes() -> None:
    assert load_of(Batch()) == StepLoad(passes=0, positions=0)
    prefill = Prefill(sequence=2, slot=1, ids=(5,) * 7, at=0)
    batch = replace(batch_of(denoised=2, decoded=3), prefills=(prefill,))
    assert load_of(batch) == StepLoad(passes=3, positions=7 + 2 * 8 + 3)
    assert load_of(batch_of(verified=2)) == StepLoad(passes=2, positions=2 * 8 + 2 * 8)
    unequal = [replace(batch_of(denoised=1).denoises[0], denoising=DenoisingParams(canvas_length=n)) for n in (16, 4)]
    assert positions_of(Batch(denoises=tuple(unequal))) == 32, "with padding"


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
    assert it.usual_work_s() == pytest.approx(3 * UNKNOWN_STEP_S)
    half = sequence(request)
    half.emitted = 20
    assert it.iterations(half) == 1


def test_a_falling_entropy_shortens_what_is_expected_of_a_canvas() -> None:
    it, flat, falling = CostModel(), sequence(), sequence()
    for before, after in ((1.0, 1.0), (1.0, 0.02)):
        flat.record_step(canvas(1, (5,) * 8, entropy=before), is_late=False)
        falling.record_step(canvas(1, (5,) * 8, entropy=after), is_late=False)
    assert it.iterations(falling) < it.iterations(flat)
