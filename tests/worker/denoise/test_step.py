"""One step over rows whose parameters all differ gives each row what it would get alone."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from diffusion_worker.denoise.canvas import fresh
from diffusion_worker.denoise.draws import CounterDraws
from diffusion_worker.denoise.step import step, told
from diffusion_worker.memory.cache_views import CanvasView
from diffusion_worker.memory.kv_cache import KvCache
from diffusion_worker.types.generation import DenoisingParams
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
def setting(make_net: Any) -> tuple[Any, KvCache]:
    net = make_net(window=8)
    cache = KvCache(net.kv_layers, slots=4, slot_tokens=64, dtype=net.dtype, device=net.device)
    for item in ITEMS:
        view = cache.appending([item.slot], [0], [item.at])
        with torch.inference_mode():
            net.encode(torch.arange(6, 6 + item.at)[None], view)
        cache.seal(view)
    return net, cache


def context(cache: KvCache, items: list[Denoise]) -> CanvasView:
    return cache.decoding_mode([item.slot for item in items], [item.at for item in items], 12)


@torch.inference_mode()
def test_rows_together_advance_as_rows_alone(setting: tuple[Any, KvCache]) -> None:
    net, cache = setting
    draws = CounterDraws(net.device)
    canvases = [fresh(torch.arange(12) + n, net.info.hidden_size, net.dtype) for n in range(4)]
    together = step(net, ITEMS, canvases, context(cache, ITEMS), draws)
    for row, (item, canvas) in enumerate(zip(ITEMS, canvases, strict=True)):
        alone = step(net, [item], [canvas], context(cache, [item]), draws)
        assert torch.equal(alone.canvases[0].ids, together.canvases[row].ids)
        assert torch.equal(alone.canvases[0].surest, together.canvases[row].surest)
        torch.testing.assert_close(alone.canvases[0].soft, together.canvases[row].soft, atol=1e-6, rtol=0)
        mine, ours = (told(item, report) for report in (alone.report[0].tolist(), together.report[row].tolist()))
        assert mine.ids == ours.ids
        assert mine.logprobs == pytest.approx(ours.logprobs, abs=1e-5)
        assert (mine.accepted, mine.steady, mine.is_settled) == (ours.accepted, ours.steady, ours.is_settled)
        assert ours.is_settled == (row == 3)


@torch.inference_mode()
def test_a_row_at_temperature_zero_puts_its_surest_tokens_on_the_canvas(setting: tuple[Any, KvCache]) -> None:
    net, cache = setting
    items = [replace(ITEMS[0], temperature=0.0, denoising=replace(BASE, entropy_bound=1e6))]
    done = step(
        net,
        items,
        [fresh(torch.arange(12), net.info.hidden_size, net.dtype)],
        context(cache, items),
        CounterDraws(net.device),
    )
    assert told(items[0], done.report[0].tolist()).accepted == 12
    assert torch.equal(done.canvases[0].ids, done.canvases[0].surest)
