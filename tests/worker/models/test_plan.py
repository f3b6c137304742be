"""The size of a model follows from its config alone."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import pytest
import torch

from diffusion_worker.errors import CheckpointBroken, CheckpointError, CheckpointForeign, CheckpointMissing
from diffusion_worker.memory.kv_cache import KvCache
from diffusion_worker.memory.plan import PlanOptions, plan
from diffusion_worker.models.loader import LoadOptions, load
from diffusion_worker.models.plan import measure
from diffusion_worker.types.model_info import ModelSize

RELEASED = Path(__file__).with_name("released_26b_a4b.json")
TINY = Path(__file__).parents[3] / "checkpoints" / "twolane-tiny"


def test_the_released_shape_has_26_billion_parameters_of_which_4_are_active() -> None:
    """Computed by hand: the parameters that a token does not use are 120 of 128 experts in 30 layers, three matrices of
    2816 x 704 each, and the vision tower: 16 layers of width 768, positions, patches and the projection into the
    text."""
    size = measure(RELEASED)
    idle = 30 * (128 - 8) * 3 * 2816 * 704
    layer = 3 * 768 * 3072 + 4 * 768 * 768 + 4 * 768 + 2 * 64
    images = 16 * layer + 2 * 10_240 * 768 + 3 * 16 * 16 * 768 + 768 * 2816
    assert 25e9 <= size.parameters <= 27e9
    assert 3.75e9 <= size.active_parameters <= 3.85e9
    assert size.parameters - size.active_parameters - idle == images
    assert (size.canvas_length, size.max_context, size.dtype, size.quantised) == (256, 262_144, "bfloat16", None)


def test_the_released_shape_keeps_five_whole_and_25_sliding_layers() -> None:
    shapes = [(layer.heads, layer.head_dim, layer.window) for layer in measure(RELEASED).kv_layers]
    assert shapes == ([(8, 256, 1024)] * 5 + [(2, 512, None)]) * 5


def test_the_plan_of_the_shipped_checkpoint_is_what_the_loaded_model_takes() -> None:
    """Parameters, bytes of weights, and bytes that a cache of three slots really allocates."""
    model = load(str(TINY), LoadOptions(device="cpu"))
    size = measure(TINY)
    found = plan(size)
    weights = list(model._model.parameters())
    assert size.parameters == model.info.parameters == sum(weight.numel() for weight in weights)
    assert found.weight_bytes[model.info.dtype] == sum(weight.numel() * weight.element_size() for weight in weights)
    assert size.kv_layers == model.kv_layers
    assert (found.dtype, size.max_context, found.canvas_length) == (
        model.info.dtype,
        model.info.max_context,
        model.info.denoising.canvas_length,
    )
    cache = KvCache(
        model.kv_layers, slots=3, slot_tokens=size.max_context, dtype=model.dtype, device=torch.device("cpu")
    )
    stored = sum(store.numel() * store.element_size() for store in (*cache.keys, *cache.values))
    assert 3 * found.contexts[-1].kv_bytes == stored


def test_with_one_expert_all_but_the_tower_for_images_is_active() -> None:
    model = load(str(TINY), LoadOptions(device="cpu"))
    encoder = model._model.model.encoder
    images = sum(
        weight.numel() for part in (encoder.vision_tower, encoder.embed_vision) for weight in part.parameters()
    )
    size = measure(TINY)
    assert size.active_parameters == size.parameters - images


def set_text(name: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda config: config["text_config"].update({name: value})


@pytest.mark.parametrize(
    ("invalidate", "kind", "named"),
    [
        (lambda config: config.update(model_type="llama"), CheckpointForeign, "'llama'"),
        (lambda config: config.update(canvas_length=0), CheckpointBroken, "canvas_length"),
        (lambda config: config.update(canvas_length="long"), CheckpointBroken, "config.json"),
        (lambda config: config.update(text_config=[]), CheckpointBroken, "config.json"),
        (set_text("hidden_size", "wide"), CheckpointBroken, "hidden_size"),
        (set_text("hidden_size", -8), CheckpointBroken, "config.json"),
        (set_text("num_experts", 0), CheckpointBroken, "num_experts 0"),
        (lambda config: config.update(quantization_config={"ignore": ["re:("]}), CheckpointBroken, "subpattern"),
        (set_text("num_experts", None), CheckpointBroken, "num_experts None"),
        (set_text("layer_types", ["full_attention"]), CheckpointBroken, "config.json"),
    ],
)
def test_a_config_that_describes_no_model_is_refused_with_its_file(
    tmp_path: Path, invalidate: Callable[[dict[str, Any]], object], kind: type[CheckpointError], named: str
) -> None:
    config = json.loads((TINY / "config.json").read_text())
    invalidate(config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(kind) as refused:
        measure(tmp_path)
    assert str(tmp_path / "config.json") in refused.value.message
    assert named in refused.value.message


def test_a_missing_config_and_one_that_is_not_json_are_distinguished(tmp_path: Path) -> None:
    with pytest.raises(CheckpointMissing):
        measure(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointBroken):
        measure(tmp_path)


@pytest.mark.parametrize(
    ("said", "bits", "gigabytes"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, 8 + 16 / 128**2, (26.0, 28.0)),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4", "exclude_modules": ["vision_tower"]}, 4.5, (15.0, 17.0)),
    ],
)
def test_quantised_weights_are_planned_by_the_bits_that_the_config_declares(
    tmp_path: Path, said: dict[str, Any], bits: float, gigabytes: tuple[float, float]
) -> None:
    """The released shape: matrices of layers and experts in the given number of bits, embeddings and norms unquantised.
    The number of parameters is unchanged, and the saved memory is available for contexts."""
    content = {**json.loads(RELEASED.read_text()), "quantization_config": said}
    (tmp_path / "config.json").write_text(json.dumps(content))
    plain, size = measure(RELEASED), measure(tmp_path)
    assert (size.parameters, size.active_parameters) == (plain.parameters, plain.active_parameters)
    assert size.quantised is not None
    assert (size.quantised.method, size.quantised.bits) == (said["quant_method"], bits)
    table = 262_144 * 2816
    assert 0.9 * (size.parameters - table) < size.quantised.parameters < size.parameters - table
    stored = plan(size).stored_weight_bytes
    assert stored is not None
    rest = size.parameters - size.quantised.parameters
    assert abs(stored - (rest * 2 + size.quantised.parameters * bits / 8)) <= 1
    assert gigabytes[0] < stored / 1e9 < gigabytes[1]
    limit = 80 * 10**9
    slots = [plan(it, PlanOptions(memory_limit_bytes=limit)).contexts[1].slots or 0 for it in (plain, size)]
    assert slots[1] > slots[0] > 0
    experts_of_a_layer = 3 * 128 * 704 * 2816
    assert (plain.step.unpacked, size.step.unpacked) == (0, experts_of_a_layer)


ALL: Final = ["vision_tower"]
EXPERTS: Final = [*ALL, "*self_attn*", "*.mlp.*", "*self_conditioning*"]  # the published builds take 18 GB


@cache
def four_bits(*left_out: str) -> ModelSize:
    """The released shape in NVFP4. Measuring it takes a quarter of a second."""
    said = {"quant_method": "modelopt", "quant_algo": "NVFP4", "exclude_modules": left_out}
    with TemporaryDirectory() as folder:
        content = {**json.loads(RELEASED.read_text()), "quantization_config": said}
        Path(folder, "config.json").write_text(json.dumps(content))
        return measure(folder)


@pytest.mark.parametrize(
    ("left_out", "gigabytes", "rows", "prefill", "context"),
    [
        (ALL, 24, 2, 2048, 16_384),
        (ALL, 32, 8, 2048, 16_384),
        (ALL, 32, 2, 2048, 65_536),
        (EXPERTS, 24, 1, 512, 32_768),
        (EXPERTS, 24, 1, 2048, 16_384),
        (EXPERTS, 24, 2, 512, 8_192),
        (EXPERTS, 32, 8, 2048, 8_192),
        (EXPERTS, 32, 2, 2048, 65_536),
    ],
)
def test_four_bits_fit_on_small_cards(
    left_out: list[str], gigabytes: int, rows: int, prefill: int, context: int
) -> None:
    found = plan(
        four_bits(*left_out),
        PlanOptions(memory_limit_bytes=gigabytes * 10**9, max_num_seqs=rows, max_prefill_tokens=prefill),
    )
    assert found.default_context == context


def test_bits_that_are_not_declared_are_not_guessed(tmp_path: Path) -> None:
    content = {**json.loads(RELEASED.read_text()), "quantization_config": {"quant_method": "torchao"}}
    (tmp_path / "config.json").write_text(json.dumps(content))
    found = plan(measure(tmp_path))
    assert (found.quantised, found.stored_weight_bytes) == ("torchao", None)
