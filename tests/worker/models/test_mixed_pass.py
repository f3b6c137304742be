"""One pass over causal rows and canvases has the results of separate ones, and of the library, with fewer launches."""

import json
from collections.abc import Callable, Sequence
from typing import Any, Final

import pytest
import torch

from benchmarks.gpu.dispatch_counts import DispatchCounts
from diffusion_worker.memory import mixed_view
from diffusion_worker.memory.kv_cache import KvCache
from diffusion_worker.memory.mixed_view import Canvases, MixedView, NewTokens
from diffusion_worker.models.diffusion_gemma import DiffusionGemmaModel
from diffusion_worker.models.interface import capped
from diffusion_worker.models.mixed_pass import shares_layers
from diffusion_worker.models.placement import meta_model, plain_config
from tests.worker.denoise.test_step_memory import META, RELEASED, released
from tests.worker.live_bytes import FusedAttention

CANVAS: Final = 12
CONTEXTS: Final = (40, 18, 3, 0)  # cached tokens by slot
NEW = NewTokens(slots=(2, 0, 3), lengths=(3, 40, 0), counts=(1, 20, 25))
CANVASES = Canvases(slots=(1, 0, 2), lengths=(18, 60, 4), widths=(CANVAS, CANVAS, 7), width=CANVAS)


def prompt(count: int) -> torch.Tensor:
    return torch.arange(6, 6 + count) % 50 + 6


def cache_of(model: Any) -> KvCache:
    cache = KvCache(model.kv_layers, slots=len(CONTEXTS), slot_tokens=80, dtype=model.dtype, device=model.device)
    for slot, count in enumerate(CONTEXTS):
        if count:
            view = cache.prefill_view([slot], [0], [count])
            model.encode(prompt(count)[None], view)
            cache.seal(view)
    return cache


def distinct(model: DiffusionGemmaModel) -> DiffusionGemmaModel:
    """With other scalars on each side and in each layer."""
    for side, first in ((model._encoder, 0.8), (model._decoder, 1.1)):
        for number, layer in enumerate(side.layers):
            layer.layer_scalar.fill_(first + 0.05 * number)
    for layer in model._decoder.layers:
        layer.router.per_expert_scale.uniform_(0.5, 2.0)
    return model


@torch.inference_mode()
@pytest.mark.parametrize("window", [5, 16, 64])
@pytest.mark.parametrize(
    ("experts", "dtype", "tolerance"),
    [(1, torch.float64, 1e-9), (4, torch.float64, 1e-9), (1, torch.float32, 5e-5), (4, torch.float32, 5e-5)],
)
def test_rows_and_canvases_have_the_results_of_passes_of_their_own(
    make_model: Any, experts: int, dtype: torch.dtype, tolerance: float, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Contexts that the window has left behind, that are continued, denoised or both; keys are the same, too."""
    monkeypatch.setattr(mixed_view, "QUERY_BLOCK", 6)
    model = distinct(make_model(experts=experts, dtype=dtype, window=window, spread=0.1))
    together, apart = cache_of(model), cache_of(model)
    ids, canvas = torch.randint(6, 60, (sum(NEW.counts),)), torch.randint(6, 60, (3, CANVAS))
    soft = torch.randn(3, CANVAS, model.info.hidden_size, dtype=dtype)
    read = []
    for slot, length, some in zip(NEW.slots, NEW.lengths, ids.split(NEW.counts), strict=True):
        view = apart.prefill_view([slot], [length], [len(some)])
        read.append(model.encode(some[None], view)[0])
        apart.seal(view)
    context = apart.canvas_view(CANVASES.slots, CANVASES.lengths, CANVAS, canvases=CANVASES.widths)
    expected = model.denoise(canvas, soft, context)
    mixed = MixedView(together, NEW, CANVASES)
    assert model.mixed_pass is not None
    hidden, logits = model.mixed_pass(ids, canvas, soft, mixed)
    torch.testing.assert_close(hidden, torch.cat(read), atol=tolerance, rtol=0)
    is_text = torch.arange(CANVAS) < torch.tensor(CANVASES.widths)[:, None]
    assert logits is not None
    torch.testing.assert_close(logits[is_text], expected[is_text], atol=tolerance, rtol=0)
    together.seal(mixed)
    stores = zip((*together.keys, *together.values), (*apart.keys, *apart.values), strict=True)
    for mine, theirs in stores:
        torch.testing.assert_close(mine, theirs, atol=tolerance, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("window", [16, 64])
def test_a_prompt_and_its_canvas_in_one_pass_have_the_logits_of_the_library(make_model: Any, window: int) -> None:
    model = distinct(make_model(experts=4, window=window))
    cache = KvCache(model.kv_layers, slots=1, slot_tokens=64, dtype=model.dtype, device=model.device)
    canvas = torch.arange(20, 20 + CANVAS)[None]
    view = MixedView(
        cache,
        NewTokens(slots=(0,), lengths=(0,), counts=(40,)),
        Canvases(slots=(0,), lengths=(40,), widths=(CANVAS,), width=CANVAS),
    )
    assert model.mixed_pass is not None
    _, logits = model.mixed_pass(prompt(40), canvas, torch.zeros(1, CANVAS, 32, dtype=model.dtype), view)
    assert logits is not None
    library = model._model(input_ids=prompt(40)[None], decoder_input_ids=canvas).logits
    torch.testing.assert_close(capped(logits, model.info.logit_cap), library, atol=1e-6, rtol=0)


def _untie(model: Any) -> None:
    layer = model.model.encoder.language_model.layers[1]
    layer.mlp.up_proj.weight = torch.nn.Parameter(layer.mlp.up_proj.weight.clone())


def _hook(model: Any) -> None:
    model.model.decoder.layers[0].mlp._hf_hook = object()  # as accelerate places layers on several devices


@pytest.mark.parametrize(("change", "is_shared"), [(lambda _: None, True), (_untie, False), (_hook, False)])
def test_layers_with_weights_of_their_own_or_hooks_are_not_shared(
    make_library_model: Any, change: Callable[[Any], None], is_shared: bool
) -> None:
    model = make_library_model()
    change(model)
    assert shares_layers(model.model.encoder.language_model, model.model.decoder) is is_shared


def test_exact_mode_has_passes_of_constant_shape_instead(make_model: Any) -> None:
    assert make_model(is_exact=True).mixed_pass is None


class CountedAttention(FusedAttention):
    """Counts the calls, and the elements of the largest mask."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = self.largest_mask = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.scaled_dot_product_attention:
            self.calls += 1
            mask = kwargs.get("attn_mask")
            self.largest_mask = max(self.largest_mask, 0 if mask is None else mask.shape[-2] * mask.shape[-1])
        return super().__torch_function__(func, types, args, kwargs)


def launches(run: Callable[[], object]) -> tuple[int, int]:
    """(Launches of a run on `meta`, elements of its largest mask)."""
    with torch.inference_mode(), CountedAttention() as attention, DispatchCounts("meta") as counts:
        run()
    return counts.launches.total() + attention.calls, attention.largest_mask


def iteration(model: DiffusionGemmaModel, canvases: int) -> tuple[Callable[[], None], Callable[[], None]]:
    """A prompt of 2,048 tokens, a sealed canvas and canvases, of which one is behind the seal: in one pass, and
    apart."""
    cache = KvCache(model.kv_layers, slots=canvases + 1, slot_tokens=4096, dtype=torch.bfloat16, device=META)
    new = NewTokens(slots=(canvases, 0), lengths=(1024, 1100), counts=(2048, 256))
    lengths = tuple(1356 if row == 0 else 1000 + row for row in range(canvases))
    rows = Canvases(slots=tuple(range(canvases)), lengths=lengths, widths=(256,) * canvases, width=256)
    ids = torch.zeros(canvases, 256, dtype=torch.long, device=META)
    soft = torch.zeros(canvases, 256, model.info.hidden_size, dtype=torch.bfloat16, device=META)

    def mixed() -> None:
        view = MixedView(cache, new, rows)
        assert model.mixed_pass is not None
        model.mixed_pass(torch.zeros(2304, dtype=torch.long, device=META), ids, soft, view)
        cache.seal(view)

    def apart() -> None:
        for slot, length, count in zip(new.slots, new.lengths, new.counts, strict=True):
            view = cache.prefill_view([slot], [length], [count])
            model.encode(torch.zeros(1, count, dtype=torch.long, device=META), view)
            cache.seal(view)
        model.denoise(ids, soft, cache.canvas_view(rows.slots, rows.lengths, 256))

    return mixed, apart


def shares(model: DiffusionGemmaModel, canvases: Sequence[int]) -> list[float]:
    """Launches of one pass as a share of those apart, by number of canvases."""
    return [launches(mixed)[0] / launches(apart)[0] for mixed, apart in (iteration(model, n) for n in canvases)]


@pytest.mark.slow
def test_a_mixed_iteration_launches_less_than_half_of_separate_passes_and_no_mask_is_dense() -> None:
    assert max(shares(released(), (1, 4))) < 0.5
    mixed, _ = iteration(released(), 4)
    assert launches(mixed)[1] <= mixed_view.QUERY_BLOCK * 4096


@pytest.mark.slow
def test_a_mixed_iteration_of_the_released_depth_launches_little_more_than_one_pass() -> None:
    config = plain_config(json.loads(RELEASED.read_text()))
    model = DiffusionGemmaModel(meta_model(config).to(torch.bfloat16), released().info)
    mixed, apart = (launches(run)[0] for run in iteration(model, 4))
    assert mixed <= 2_900, (mixed, apart)
    assert apart >= 5_000
