"""Our two passes over the library's classes give the library's own results, and avoid its known pitfalls."""

from typing import Any

import pytest
import torch

from diffusion_worker.memory.kv_cache import KvCache
from diffusion_worker.models.diffusion_gemma import SINGLE_EXPERT, experts_implementation
from diffusion_worker.models.interface import capped

PROMPT = torch.arange(6, 46)[None]
CANVAS = torch.arange(20, 32)[None]


def cache_of(model: Any, prompt: torch.Tensor = PROMPT) -> KvCache:
    cache = KvCache(model.kv_layers, slots=1, slot_tokens=64, dtype=model.dtype, device=model.device)
    view = cache.prefill_view([0], [0], [prompt.shape[1]])
    model.encode(prompt, view)
    cache.seal(view)
    return cache


def zeros(model: Any) -> torch.Tensor:
    return torch.zeros(1, CANVAS.shape[1], model.info.hidden_size, dtype=model.dtype)


@torch.no_grad()
@pytest.mark.parametrize("experts", [1, 4])
@pytest.mark.parametrize("window", [5, 16, 64])
def test_a_first_step_gives_the_librarys_logits(make_model: Any, experts: int, window: int) -> None:
    """Also with zero self-conditioning the canvas goes through the last norm of that module."""
    model = make_model(experts=experts, window=window)
    expected = model._model(input_ids=PROMPT, decoder_input_ids=CANVAS).logits
    found = model.denoise(CANVAS, zeros(model), cache_of(model).canvas_view([0], [40], 12))
    torch.testing.assert_close(capped(found, 30.0), expected, atol=1e-6, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_mean_embeddings_say_exactly_what_logits_say_to_the_library(make_model: Any, dtype: torch.dtype) -> None:
    model = make_model(dtype=dtype)
    view = cache_of(model).canvas_view([0], [40], 12)
    z = capped(model.denoise(CANVAS, zeros(model), view), 30.0) / 0.7
    found = capped(model.denoise(CANVAS, model.soften(z.softmax(-1)), view), 30.0)
    expected = model._model(
        decoder_input_ids=CANVAS,
        cache=view,
        decoder_attention_mask=view.masks,
        decoder_position_ids=view.positions,
        self_conditioning_logits=z.to(dtype),
    ).logits
    assert torch.equal(found, expected), "bit for bit: the step reuses the softmax that the library would repeat"
    assert not torch.equal(found, capped(model.denoise(CANVAS, zeros(model), view), 30.0)), (
        "self-conditioning does something"
    )


@torch.no_grad()
def test_every_position_of_a_canvas_sees_the_same_window_of_context(make_model: Any) -> None:
    """In sliding-window layers all positions attend to the last window - 1 tokens, not to a window per position. Tested
    after the first layer, before the canvas positions can exchange information."""
    model = make_model(window=6)
    seen: list[torch.Tensor] = []
    model._decoder.layers[0].register_forward_hook(lambda _module, _inputs, output: seen.append(output[0]))
    cache = cache_of(model)
    assert cache.canvas_view([0], [40], 12).layers[0].keys.shape[2] == 5
    model.denoise(CANVAS, zeros(model), cache.canvas_view([0], [40], 12))
    for kept in range(5):
        cache.keys[0][0, :, kept] += 1.0
        cache.copy(0, 0, 0)  # drops the view, which holds a copy
        model.denoise(CANVAS, zeros(model), cache.canvas_view([0], [40], 12))
        assert bool((seen[-1] != seen[-2]).any(-1).all()), "each kept token is seen by every position"


@torch.no_grad()
def test_the_causal_pass_is_causal(make_model: Any) -> None:
    """By default the library builds no mask for an unknown attention implementation, so tokens would attend to later
    ones."""
    model = make_model()
    changed = PROMPT.clone()
    changed[0, -1] = 50

    def hidden(ids: torch.Tensor) -> torch.Tensor:
        cache = KvCache(model.kv_layers, slots=1, slot_tokens=64, dtype=model.dtype, device=model.device)
        return model.encode(ids, cache.prefill_view([0], [0], [ids.shape[1]]))

    assert torch.equal(hidden(PROMPT)[:, :-1], hidden(changed)[:, :-1])
    torch.testing.assert_close(
        model.logits(hidden(PROMPT)),
        model.logits(model._model.model.encoder(input_ids=PROMPT).last_hidden_state),
        atol=1e-6,
        rtol=0,
    )


@torch.no_grad()
def test_logits_of_a_canvas_are_those_of_the_head_and_the_cap_makes_them_fp32(make_model: Any) -> None:
    """A copy in fp32 of 256 x 262,144 logits would take 256 MiB a row."""
    model = make_model(dtype=torch.bfloat16)
    found = model.denoise(CANVAS, zeros(model), cache_of(model).canvas_view([0], [40], 12))
    assert found.dtype == torch.bfloat16
    after = capped(found, model.info.logit_cap)
    assert after.dtype == torch.float32
    assert float(after.abs().max()) <= 30.0


@torch.no_grad()
def test_a_single_expert_without_dispatch_equals_the_librarys_dispatch(make_model: Any) -> None:
    model = make_model(dtype=torch.float64)
    for layer in model._decoder.layers:  # tied: the encoder has the same
        layer.router.per_expert_scale.fill_(1.7)
    view = cache_of(model).canvas_view([0], [40], 12)
    direct = model.denoise(CANVAS, zeros(model), view)
    model._model.set_experts_implementation("eager")
    torch.testing.assert_close(direct, model.denoise(CANVAS, zeros(model), view), atol=1e-9, rtol=0)


def test_experts_are_run_in_the_fastest_way_that_fits_them(make_library_model: Any) -> None:
    one, four = (make_library_model(experts=count).config.text_config for count in (1, 4))
    assert experts_implementation(one, torch.float64) == SINGLE_EXPERT
    assert experts_implementation(four, torch.float32) == "grouped_mm"
    assert experts_implementation(four, torch.float64) == "eager", "grouped products do not know fp64"


def test_the_models_own_generate_still_works_beside_ours(make_model: Any) -> None:
    model = make_model()
    out = model._model.generate(PROMPT, max_new_tokens=12, max_denoising_steps=2)
    assert out.sequences.shape == (1, PROMPT.shape[1] + 12)


def test_the_cache_is_shaped_by_the_layers(make_model: Any) -> None:
    sliding, _, full = make_model(window=16).kv_layers
    assert (sliding.heads, sliding.head_dim, sliding.window) == (2, 8, 16)
    assert (full.heads, full.head_dim, full.window) == (1, 16, None)
