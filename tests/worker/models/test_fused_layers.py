"""The library's layers run fused: few launches, and the results of the library's own."""

import json
from typing import Any, Final

import pytest
import torch

from benchmarks.gpu.dispatch_counts import DispatchCounts
from diffusion_worker.memory.kv_cache import KvCache
from diffusion_worker.models.diffusion_gemma import DiffusionGemmaModel
from diffusion_worker.models.interface import capped
from diffusion_worker.models.placement import meta_model, plain_config
from tests.worker.denoise.test_step_memory import META, RELEASED, released
from tests.worker.live_bytes import FusedAttention

MOST_LAUNCHES: Final = 1_900  # of a decoder pass of the released checkpoint
PROMPTS = [list(range(6, 46)), list(range(9, 27))]


def cache_of(model: Any, slots: list[int]) -> KvCache:
    """Contexts of unlike length in these slots."""
    cache = KvCache(model.kv_layers, slots=4, slot_tokens=64, dtype=model.dtype, device=model.device)
    for slot, prompt in zip(slots, PROMPTS, strict=True):
        view = cache.prefill_view([slot], [0], [len(prompt)])
        model.encode(torch.tensor([prompt]), view)
        cache.seal(view)
    return cache


@torch.inference_mode()
@pytest.mark.parametrize("slots", [[0, 1], [2, 0]], ids=["neighbours", "gathered"])
@pytest.mark.parametrize(
    ("experts", "dtype", "tolerance"),
    [
        (1, torch.float64, 1e-6),
        (4, torch.float64, 1e-6),
        (4, torch.float32, 2e-5),
        (1, torch.bfloat16, 0.5),  # with more experts, rounding may choose another one
    ],
)
def test_rows_of_unlike_length_have_the_logits_of_the_librarys_layers(
    make_model: Any, slots: list[int], experts: int, dtype: torch.dtype, tolerance: float
) -> None:
    """Each row alone through the unmodified classes, encoder included."""
    model = make_model(experts=experts, dtype=dtype, window=16, spread=0.1)
    for layer in model._decoder.layers:  # tied: the encoder has the same weights, but scalars of its own
        layer.router.per_expert_scale.uniform_(0.5, 2.0)
        layer.layer_scalar.fill_(0.9)
    canvas = torch.arange(20, 44).reshape(2, 12)
    view = cache_of(model, slots).canvas_view(slots, [len(prompt) for prompt in PROMPTS], 12)
    found = capped(model.denoise(canvas, torch.zeros(2, 12, 32, dtype=dtype), view), model.info.logit_cap)
    for row, prompt in enumerate(PROMPTS):
        library = model._model(input_ids=torch.tensor([prompt]), decoder_input_ids=canvas[row : row + 1]).logits
        torch.testing.assert_close(found[row : row + 1], library, atol=tolerance, rtol=0)


@torch.inference_mode()
def test_steps_of_one_view_share_its_buffers(make_model: Any) -> None:
    """A second step overwrites the keys of the first; the context stays."""
    model = make_model()
    view = cache_of(model, [0, 1]).canvas_view([0, 1], [40, 18], 12)
    soft = torch.zeros(2, 12, 32, dtype=model.dtype)
    first, other = torch.arange(20, 44).reshape(2, 12), torch.full((2, 12), 7)
    before = model.denoise(first, soft, view)
    model.denoise(other, soft, view)
    assert torch.equal(model.denoise(first, soft, view), before)


@pytest.mark.slow
@torch.inference_mode()
def test_a_pass_of_the_released_depth_launches_few_kernels() -> None:
    config = plain_config(json.loads(RELEASED.read_text()))
    model = DiffusionGemmaModel(meta_model(config).to(torch.bfloat16), released().info)
    depth = len(model.kv_layers)
    cache = KvCache(model.kv_layers, slots=2, slot_tokens=2048, dtype=torch.bfloat16, device=META)
    view = cache.canvas_view([1, 0], [1000, 900], 256)
    ids = torch.zeros(2, 256, dtype=torch.long, device=META)
    soft = torch.zeros(2, 256, model.info.hidden_size, dtype=torch.bfloat16, device=META)
    with FusedAttention(), DispatchCounts("meta") as counts:
        model.denoise(ids, soft, view)
    assert depth == 30
    assert counts.launches["cat"] <= 2, "only the angles of the two kinds of layers are concatenated"
    assert counts.launches.total() + depth <= MOST_LAUNCHES, counts.launches  # attention is a kernel per layer
