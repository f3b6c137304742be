"""A step over rows with different parameters gives each row the result that it has alone."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from diffusion_worker.denoise.canvas import Canvas, fresh
from diffusion_worker.denoise.draws import CounterDraws
from diffusion_worker.denoise.step import Advanced, advance, canvas_result, inputs_of
from diffusion_worker.memory.kv_cache import KvCache
from diffusion_worker.types.requests import DenoisingParams
from diffusion_worker.types.step_batch import Denoise

BASE = DenoisingParams(steps=8, canvas_length=12)
ITEMS = [
    Denoise(
        sequence=n,
        slot=n,
        at=3 + 9 * n,
        block=n,
        step=8 - n,
        opens=False,
        denoising=denoising,
        seed=100 + n,
        temperature=temperature,
    )
    for n, (denoising, temperature) in enumerate(
        (
            (BASE, None),
            (replace(BASE, entropy_bound=9.0), 0.0),
            (replace(BASE, steps=40, t_max=1.5), 1.7),
            (replace(BASE, stability=0, confidence_threshold=99.0), 1.0),
        )
    )
]


@pytest.fixture
def setting(make_model: Any) -> tuple[Any, KvCache]:
    model = make_model(window=8)
    cache = KvCache(model.kv_layers, slots=4, slot_tokens=64, dtype=model.dtype, device=model.device)
    for item in ITEMS:
        view = cache.prefill_view([item.slot], [0], [item.at])
        with torch.inference_mode():
            model.encode(torch.arange(6, 6 + item.at)[None], view)
        cache.seal(view)
    return model, cache


def step(model: Any, items: list[Denoise], canvases: list[Canvas], cache: KvCache) -> Advanced:
    inputs = inputs_of(items, canvases)
    context = cache.canvas_view([item.slot for item in items], [item.at for item in items], 12)
    return advance(model, inputs, model.denoise(inputs.ids, inputs.soft, context), CounterDraws(model.device))


@torch.inference_mode()
def test_rows_together_advance_as_rows_alone(setting: tuple[Any, KvCache]) -> None:
    model, cache = setting
    canvases = [fresh(torch.arange(12) + n, model.info.hidden_size, model.dtype) for n in range(4)]
    together = step(model, ITEMS, canvases, cache)
    for row, (item, canvas) in enumerate(zip(ITEMS, canvases, strict=True)):
        alone = step(model, [item], [canvas], cache)
        assert torch.equal(alone.canvases[0].ids, together.canvases[row].ids)
        assert torch.equal(alone.canvases[0].surest, together.canvases[row].surest)
        torch.testing.assert_close(alone.canvases[0].soft, together.canvases[row].soft, atol=1e-6, rtol=0)
        mine, ours = (
            canvas_result(item, report) for report in (alone.report[0].tolist(), together.report[row].tolist())
        )
        assert mine.ids == ours.ids
        assert mine.logprobs == pytest.approx(ours.logprobs, abs=1e-5)
        assert (mine.accepted, mine.stable_prefix, mine.has_converged) == (
            ours.accepted,
            ours.stable_prefix,
            ours.has_converged,
        )
        assert ours.has_converged == (row == 3)


@torch.inference_mode()
def test_a_row_at_temperature_zero_puts_its_most_likely_tokens_on_the_canvas(setting: tuple[Any, KvCache]) -> None:
    model, cache = setting
    items = [replace(ITEMS[0], temperature=0.0, denoising=replace(BASE, entropy_bound=1e6))]
    done = step(
        model,
        items,
        [fresh(torch.arange(12), model.info.hidden_size, model.dtype)],
        cache,
    )
    assert canvas_result(items[0], done.report[0].tolist()).accepted == 12
    assert torch.equal(done.canvases[0].ids, done.canvases[0].surest)
