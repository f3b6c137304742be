"""The computed peak of a step is that of the real passes, run on `meta` tensors in the released width."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from diffusion_worker.denoise import score, truncation
from diffusion_worker.denoise.logit_reads import position_blocks
from diffusion_worker.engine.limits import Limits
from diffusion_worker.engine.warm_up import _WholeStepper, largest_batch
from diffusion_worker.memory import step_memory
from diffusion_worker.memory.kv_cache import KvCache
from diffusion_worker.memory.step_memory import StepWork, step_bytes
from diffusion_worker.models.diffusion_gemma import DiffusionGemmaModel, step_shape
from diffusion_worker.models.placement import meta_model, plain_config
from diffusion_worker.types.model_info import ModelInfo
from diffusion_worker.types.requests import DenoisingParams
from diffusion_worker.types.step_batch import Batch, StepResult
from tests.worker.live_bytes import FusedAttention, LiveBytes

RELEASED = Path(__file__).parents[1] / "models" / "released_26b_a4b.json"
META = torch.device("meta")


class WithoutFetching(_WholeStepper):
    """Runs the passes only; numbers on `meta` cannot be read."""

    def _fetch(self, _outcomes: Any) -> StepResult:
        return StepResult()


@cache
def released() -> DiffusionGemmaModel:
    """Two of its thirty layers, one of each kind: enough for every term of the computation."""
    content = json.loads(RELEASED.read_text())
    kinds = ["sliding_attention", "full_attention"]
    assert set(kinds) == set(content["text_config"]["layer_types"])
    content["text_config"] |= {"num_hidden_layers": len(kinds), "layer_types": kinds}
    config = plain_config(content)
    text = config.text_config
    info = ModelInfo(
        vocab_size=text.vocab_size,
        hidden_size=text.hidden_size,
        step=step_shape(text),
        max_context=text.max_position_embeddings,
        denoising=DenoisingParams(),
        end_ids=(1,),
        pad_id=0,
        parameters=0,
        dtype="bfloat16",
        weight_bytes=0,
    )
    return DiffusionGemmaModel(meta_model(config).to(torch.bfloat16), info)


def peak(batch: Batch, limits: Limits) -> int:
    model = released()
    cache = KvCache(
        model.kv_layers,
        slots=limits.max_num_seqs,
        slot_tokens=limits.max_context,
        dtype=torch.bfloat16,
        device=META,
    )
    known = (*model._model.parameters(), *model._model.buffers(), *cache.keys, *cache.values)
    with FusedAttention(), LiveBytes(known) as live:
        WithoutFetching(model, cache).step(batch)
    return live.peak


@pytest.mark.parametrize(
    ("rows", "context", "prefill"),
    [
        (1, 8192, 2048),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in ((2, 8192, 2048), (4, 2048, 8192), (8, 32_768, 2048), (8, 131_072, 2048))
        ),
    ],
)
def test_the_computed_peak_covers_the_real_one_and_hardly_more(
    rows: int, context: int, prefill: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Numbers that nobody reads: three bits are bisected, and three blocks of positions sampled, in the same memory.
    monkeypatch.setattr(truncation, "_ONE_BITS", 7)
    monkeypatch.setattr(score, "position_blocks", lambda *shape, **rows: list(position_blocks(*shape, **rows))[:3])
    model = released()
    limits = Limits(max_num_seqs=rows, max_waiting=0, max_context=context, max_prefill_tokens=prefill, is_mixed=True)
    whole = largest_batch(model.info, limits)
    work = StepWork(rows=rows, context=context, canvas_length=256, max_prefill_tokens=limits.max_prefill_tokens)
    shape, layers = model.info.step, model.kv_layers
    mixed = peak(Batch(prefills=whole.prefills, denoises=whole.denoises), limits)
    assert mixed <= step_memory._mixed_bytes(layers, shape, work, 2) <= 1.4 * mixed
    decoded = peak(Batch(decodes=whole.decodes), limits)
    assert decoded <= step_memory._padded_bytes(layers, shape, work, 2)
    everything = peak(whole, limits)
    assert everything <= step_bytes(layers, shape, work, 2) <= 1.4 * everything
