"""Sampling parameters through the engine, in every decoding mode."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from diffusion_worker.engine.loop import run
from diffusion_worker.memory.kv_cache import KvCache
from diffusion_worker.types.requests import DecodingMode, DenoisingParams, GenerationRequest, Penalties, Truncation
from tests.worker.denoise.test_penalties import by_vllm

VOCAB = 11
DENOISING = DenoisingParams(steps=6, canvas_length=12, entropy_bound=2.0)
PROMPT = (6, 7, 8, 7)
DIFFUSION = GenerationRequest(prompt_ids=PROMPT, max_tokens=24, seed=5, denoising=DENOISING)
AUTOREGRESSIVE = replace(DIFFUSION, decoding_mode=DecodingMode.AUTOREGRESSIVE, temperature=1.0)
VERIFIED = replace(AUTOREGRESSIVE, decoding_mode=DecodingMode.VERIFIED)
PENALTIES = Penalties(presence=0.7, frequency=0.4, repetition=1.3, logit_bias=((9, 1.5),))


@pytest.fixture(scope="module", params=[torch.float32, torch.float64], ids=str)
def model(make_model: Any, request: Any) -> Any:
    """A small vocabulary, so that tokens repeat, without an end."""
    return make_model(vocab=VOCAB, end_ids=(), dtype=request.param)


def ids_of(model: Any, *requests: GenerationRequest) -> list[tuple[int, ...]]:
    return [answer.ids for answer in run(model, requests)]


@pytest.mark.parametrize("request_", [DIFFUSION, AUTOREGRESSIVE, VERIFIED])
@pytest.mark.parametrize("wanted", [Truncation(top_k=1), Truncation(top_p=1e-6), Truncation(min_p=1.0)])
def test_truncation_to_one_token_is_the_argmax(model: Any, request_: GenerationRequest, wanted: Truncation) -> None:
    [truncated, greedy, free] = ids_of(
        model, replace(request_, truncation=wanted), replace(request_, temperature=0.0), request_
    )
    assert truncated == greedy
    assert free != greedy, "otherwise the model is too certain for this test"


@pytest.mark.parametrize("request_", [DIFFUSION, AUTOREGRESSIVE, VERIFIED])
def test_a_bias_bans_and_forces_tokens(model: Any, request_: GenerationRequest) -> None:
    banned = Penalties(logit_bias=tuple((token, -100.0) for token in range(1, VOCAB, 2)))
    forced = Penalties(logit_bias=((4, 100.0),))
    [without, only] = ids_of(model, replace(request_, penalties=banned), replace(request_, penalties=forced))
    assert not any(token % 2 for token in without)
    assert set(only) == {4}


def test_reading_left_to_right_equals_vllms_formulas_token_by_token(model: Any) -> None:
    [found] = ids_of(model, replace(AUTOREGRESSIVE, temperature=0.0, penalties=PENALTIES))
    output: list[int] = []
    for token in found:
        logits = next_logits(model, (*PROMPT, *output))
        assert by_vllm(logits, PENALTIES, list(PROMPT), output).argmax().item() == token
        output.append(token)
    assert found != ids_of(model, replace(AUTOREGRESSIVE, temperature=0.0))[0]


@torch.inference_mode()
def next_logits(model: Any, ids: tuple[int, ...]) -> torch.Tensor:
    cache = KvCache(model.kv_layers, slots=1, slot_tokens=64, dtype=model.dtype, device=model.device)
    hidden = model.encode(torch.tensor([ids]), cache.prefill_view([0], [0], [len(ids)]))
    logits: torch.Tensor = model.logits(hidden[:, -1])[0]
    return logits


def test_later_canvases_count_the_tokens_of_earlier_ones(model: Any) -> None:
    """A frequency penalty spreads the output over more of the vocabulary than the model alone would."""
    long = replace(DIFFUSION, max_tokens=60, temperature=0.0)
    [plain, spread] = ids_of(model, long, replace(long, penalties=Penalties(frequency=2.0)))
    assert len(set(spread)) > len(set(plain))
    most_often = max(spread.count(token) for token in spread)
    assert most_often < max(plain.count(token) for token in plain)


@pytest.mark.parametrize("request_", [DIFFUSION, AUTOREGRESSIVE])
def test_a_row_that_asks_does_not_change_its_neighbours(model: Any, request_: GenerationRequest) -> None:
    asking = replace(request_, seed=9, truncation=Truncation(top_p=0.5), penalties=PENALTIES)
    [alone] = ids_of(model, request_)
    assert ids_of(model, request_, asking)[0] == alone
    assert ids_of(model, asking) == ids_of(model, asking, request_)[:1]
