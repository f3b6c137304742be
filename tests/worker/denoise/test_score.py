"""Scores are those of the annealed logits; the log-probability alone is that of the raw ones. A large batch, which is
read in place and in blocks, has the scores of a small one."""

import math
from array import array
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_worker.denoise import logit_reads
from diffusion_worker.denoise import score as module
from diffusion_worker.denoise.canvas import fresh
from diffusion_worker.denoise.draws import CounterDraws, DrawKey
from diffusion_worker.denoise.penalties import CanvasText, adjustments
from diffusion_worker.denoise.pins import pinned_places, pins_of
from diffusion_worker.denoise.score import CanvasLogits, Sampling, Scores, annealed_temperature, sample, score
from diffusion_worker.types.requests import DenoisingParams, Penalties, Truncation
from diffusion_worker.types.step_batch import Denoise, PenaltyInputs

LOGITS = torch.tensor([[[3.0, 1.0, 0.0], [0.0, 0.0, 0.0]]])
DRAWS = CounterDraws(torch.device("cpu"))


def sampling_of(rows: int, canvas: int, asked: dict[int, tuple[float, Truncation | None]] | None = None) -> Sampling:
    keys = [DrawKey(sequence=row, seed=row, block=0, step=2) for row in range(rows)]
    return Sampling(keys=keys, uniforms=DRAWS.uniforms(keys, canvas), asked=asked or {})


def scored(logits: torch.Tensor, *temperatures: float) -> Scores:
    held = CanvasLogits(raw=logits.clone(), cap=0.0, temperature=torch.tensor(temperatures))
    return score(held, sampling_of(*logits.shape[:2]))


@pytest.fixture(params=[1 << 20, 0], ids=["small", "large"])
def batch_size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SMALL", request.param)


def test_the_temperature_falls_from_t_max_to_almost_t_min() -> None:
    steps = torch.tensor([48, 48, 48])
    found = annealed_temperature(torch.full((3,), 0.4), torch.full((3,), 0.4), torch.tensor([48, 24, 1]), steps)
    torch.testing.assert_close(found, torch.tensor([0.8, 0.6, 0.4 + 0.4 / 48]))


@pytest.mark.usefixtures("batch_size")
def test_the_entropy_is_in_nats_and_of_the_annealed_logits() -> None:
    found = scored(LOGITS, 0.5)
    expected = torch.distributions.Categorical(logits=LOGITS / 0.5).entropy()
    torch.testing.assert_close(found.entropy, expected)
    assert math.isclose(found.entropy[0, 1].item(), math.log(3), rel_tol=1e-6)


@pytest.mark.usefixtures("batch_size")
def test_the_log_probability_of_the_most_likely_is_at_temperature_one() -> None:
    found = scored(LOGITS, 0.4)
    torch.testing.assert_close(found.logprob, LOGITS.log_softmax(-1).max(-1).values)
    assert found.surest[0, 0].item() == 0


@pytest.mark.usefixtures("batch_size")
def test_a_soft_cap_bounds_the_logits_before_the_temperature() -> None:
    held = CanvasLogits(raw=torch.tensor([[[90.0, 20.0]]]), cap=30.0, temperature=torch.tensor([0.5]))
    expected = (30.0 * torch.tanh(torch.tensor([90.0, 20.0]) / 30.0) / 0.5).softmax(-1)
    torch.testing.assert_close(score(held, sampling_of(1, 1)).weights()[0, 0], expected)


@pytest.mark.usefixtures("batch_size")
def test_logits_that_are_not_finite_show_in_the_entropy() -> None:
    for poison in (math.nan, math.inf):
        logits = LOGITS.clone()
        logits[0, 1, 2] = poison
        assert not scored(logits, 0.8).entropy.mean(-1).isfinite().any()


@dataclass(frozen=True)
class Case:
    """Rows that ask for different things."""

    logits: CanvasLogits
    sampling: Sampling


def case_of(seed: int, vocab: int, dtype: torch.dtype) -> Case:
    """Rows without wishes, with pins, a temperature, penalties, a truncation, and all of them."""
    canvas, generator = 4, torch.Generator().manual_seed(seed)
    raw = (torch.randn(6, canvas, vocab, generator=generator, dtype=torch.double) * 12).to(dtype)
    wanted = PenaltyInputs(
        penalties=Penalties(presence=0.7, frequency=0.3, repetition=1.3, logit_bias=((3, 9.0), (vocab - 1, -4.0))),
        prompt=array("q", range(0, vocab, 3)),
        output=((1, 2), (5, 1)),
    )
    truncation = Truncation(top_k=9, top_p=0.9, min_p=0.001)
    changes: list[dict[str, Any]] = [
        {},
        {"pinned_prefix": (4, 2), "pinned_suffix": (6,)},
        {"temperature": 0.6},
        {"penalties": wanted},
        {"truncation": truncation},
        {"penalties": wanted, "truncation": truncation, "temperature": 1.4, "pinned_prefix": (5,)},
    ]
    items = [
        Denoise(
            sequence=row,
            slot=row,
            at=0,
            block=0,
            step=2,
            opens=False,
            denoising=DenoisingParams(canvas_length=canvas),
            seed=row,
            **change,
        )
        for row, change in enumerate(changes)
    ]
    ids = torch.randint(2, vocab, (len(items), canvas), generator=generator)
    canvases = [fresh(row, 1, torch.float32, is_anchored=True) for row in ids]
    pins = pins_of(items, canvas, raw.device)
    text = CanvasText(ids=ids, canvases=canvases, pins=pins, uncounted=(1, 0))
    logits = CanvasLogits(
        raw=raw,
        cap=30.0,
        temperature=torch.linspace(0.4, 0.8, len(items)),
        pins=pins,
        places=pinned_places(items, canvas, raw.device),
        adjust=adjustments(items, text, vocab),
    )
    asked = {
        row: (item.temperature or 1.0, item.truncation)
        for row, item in enumerate(items)
        if item.temperature or item.truncation
    }
    return Case(logits=logits, sampling=sampling_of(len(items), canvas, asked))


@settings(max_examples=20)
@given(st.integers(0, 2**31), st.sampled_from([11, 512, 513, 1500]), st.sampled_from([torch.float32, torch.bfloat16]))
def test_a_large_batch_has_the_scores_samples_and_weights_of_a_small_one(
    seed: int, vocab: int, dtype: torch.dtype
) -> None:
    """For rows that ask for nothing, and for every kind of wish, in several blocks of positions."""
    found = []
    for small, at_once in ((1 << 20, 1 << 19), (0, vocab // 3)):
        case = case_of(seed, vocab, dtype)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(module, "SMALL", small)
            patched.setattr(logit_reads, "AT_ONCE", at_once)
            scores = score(case.logits, case.sampling)
            found.append((scores, sample(scores, case.sampling, DRAWS), scores.weights()))
    (small_scores, small_ids, small_weights), (scores, ids, weights) = found
    assert torch.equal(scores.surest, small_scores.surest)
    for name in ("entropy", "likeliest", "logprob", "normaliser"):
        expected = getattr(small_scores, name)
        torch.testing.assert_close(getattr(scores, name), expected, atol=2e-5, rtol=2e-5)
    assert weights.dtype == dtype
    tolerance = 0.004 if dtype is torch.bfloat16 else 1e-4
    torch.testing.assert_close(weights.float(), small_weights, atol=1e-5, rtol=tolerance)
    assert (ids != small_ids).sum() <= 1, "rounding moves a sample at a border of two tokens"


@pytest.mark.usefixtures("batch_size")
def test_a_pinned_position_is_certain_and_feeds_its_token_back() -> None:
    case = case_of(3, 600, torch.float32)
    scores = score(case.logits, case.sampling)
    sampled, weights = sample(scores, case.sampling, DRAWS), scores.weights()
    for row, prefix in ((1, [4, 2]), (5, [5])):
        count = len(prefix)
        assert scores.surest[row, :count].tolist() == sampled[row, :count].tolist() == prefix
        assert scores.entropy[row, :count].tolist() == [0.0] * count
        assert weights[row, range(count), prefix].tolist() == [1.0] * count
        assert weights[row, :count].sum().item() == count
