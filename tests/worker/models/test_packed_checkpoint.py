"""models.packed_checkpoint: FP8 and NVFP4 checkpoints stay packed, and answer like the same weights unpacked."""

import gc
import json
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffusion_worker.engine.loop import run
from diffusion_worker.errors import BadSetting, CheckpointBroken, CheckpointForeign, WorkerError
from diffusion_worker.memory.kv_cache import KvCache
from diffusion_worker.memory.mixed_view import Canvases, MixedView, NewTokens
from diffusion_worker.models import fused, packed
from diffusion_worker.models.decision_weights import DECISION_WEIGHTS
from diffusion_worker.models.diffusion_gemma import DiffusionGemmaModel
from diffusion_worker.models.loader import LoadOptions, load
from diffusion_worker.models.packed import Packed, PackedLinear
from diffusion_worker.models.packed_checkpoint import is_packed, packed_matrices
from diffusion_worker.types.requests import GenerationRequest
from tests.worker.models import packing

LAYOUTS = {
    "fine-grained FP8, experts in stacks": (packing.fine_grained, False, {"quant_method": "fp8"}),
    "compressed-tensors FP8": (packing.by_channel, True, {"quant_method": "compressed-tensors"}),
    "modelopt FP8": (packing.by_tensor, True, {"quant_method": "modelopt", "quant_algo": "FP8"}),
    "compressed-tensors NVFP4": (packing.nv_of_compressed_tensors, True, {"quant_method": "compressed-tensors"}),
    "modelopt NVFP4": (packing.nv_of_modelopt, True, {"quant_method": "modelopt", "quant_algo": "NVFP4"}),
}
NAME = "model.decoder.layers.0.mlp.gate_proj"


def pack(folder: Path, layout: str) -> Path:
    packer, one_by_one, declared = LAYOUTS[layout]
    packing.pack(folder, packer, one_by_one=one_by_one, **declared)
    return folder


def loaded(folder: Path, dtype: str = "float32", quantised: str = "keep") -> DiffusionGemmaModel:
    return load(folder, LoadOptions(device="cpu", dtype=dtype, quantised=quantised))


def refusal(folder: Path, kind: type[WorkerError], **options: Any) -> str:
    with pytest.raises(kind) as refused:
        load(folder, LoadOptions(**({"device": "cpu"} | options)))
    assert "\n" not in refused.value.message
    return refused.value.message


def logits(model: DiffusionGemmaModel) -> torch.Tensor:
    """Of the library's own forward pass: prompt and canvas."""
    canvas = torch.arange(12)[None] % 60
    found: torch.Tensor = model._model(input_ids=torch.tensor([[9, 10, 11, 12]]), decoder_input_ids=canvas).logits
    return found.float()


def answers(model: DiffusionGemmaModel) -> list[Any]:
    denoising = replace(model.info.denoising, steps=8)
    asked = [GenerationRequest(prompt_ids=(9, 10), max_tokens=20, seed=seed, denoising=denoising) for seed in range(2)]
    return [answer.ids for answer in run(model, asked)]


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_packed_weights_answer_like_the_same_weights_unpacked(folder: Path, layout: str) -> None:
    pack(folder, layout)
    packed, twin = loaded(folder), loaded(folder, quantised="unpack")
    assert is_packed(folder, LAYOUTS[layout][2]["quant_method"])
    torch.testing.assert_close(logits(packed), logits(twin), rtol=1e-5, atol=1e-5)
    assert answers(packed) == answers(twin)
    assert packed.info.quantised == LAYOUTS[layout][2]["quant_method"]
    assert twin.info.quantised is None
    assert packed.info.parameters == twin.info.parameters
    assert packed.info.weight_bytes < 0.5 * twin.info.weight_bytes


@pytest.mark.parametrize("layout", LAYOUTS)
def test_in_bf16_they_differ_by_rounding_at_most(folder: Path, layout: str) -> None:
    pack(folder, layout)
    found, expected = (logits(loaded(folder, "bfloat16", how)) for how in ("keep", "unpack"))
    assert (found - expected).norm() <= 2e-2 * expected.norm()
    top = expected.topk(2, dim=-1).values
    is_clear = top[..., 0] - top[..., 1] > 2e-2 * expected.abs().amax()
    assert is_clear.any()
    assert torch.equal(found.argmax(-1)[is_clear], expected.argmax(-1)[is_clear])


@pytest.mark.parametrize("layout", ["fine-grained FP8, experts in stacks", "modelopt NVFP4"])
def test_no_more_than_the_experts_of_a_layer_are_unpacked_at_a_time(
    folder: Path, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is what the memory plan counts."""
    model = loaded(pack(folder, layout))
    unpacked, alive, most = Packed.unpacked, dict[int, int](), 0

    def tracked(matrix: Packed, dtype: torch.dtype) -> torch.Tensor:
        nonlocal most
        found = unpacked(matrix, dtype)
        alive[id(found)] = found.numel()
        weakref.finalize(found, alive.pop, id(found))
        most = max(most, sum(alive.values()))
        return found

    monkeypatch.setattr(Packed, "unpacked", tracked)
    answers(model)
    gc.collect()
    assert not alive
    assert 0 < most <= model.info.step.unpacked


@pytest.mark.slow
@torch.inference_mode()
def test_passes_over_packed_weights_are_compiled_around_the_operator_that_unpacks_them(
    make_library_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As on a card, where unpacking is an operator, a single node of the graph."""
    make_library_model(dtype=torch.bfloat16, experts=4, vocab=64, layers=1).save_pretrained(tmp_path)
    model, whole = loaded(pack(tmp_path, "modelopt NVFP4")), torch.compile
    cache = KvCache(model.kv_layers, slots=1, slot_tokens=40, dtype=model.dtype, device=model.device)
    assert model.mixed_pass is not None

    def passed() -> list[torch.Tensor]:
        canvases = Canvases(slots=(0,), lengths=(9,), widths=(12,), width=12)
        view = MixedView(cache, NewTokens(slots=(0,), lengths=(0,), counts=(9,)), canvases)
        canvas, soft = torch.arange(20, 32)[None], torch.zeros(1, 12, model.info.hidden_size)
        read, opened = model.mixed_pass(torch.arange(9) + 6, canvas, soft, view)
        cache.seal(view)
        return [read, opened, model.denoise(canvas, soft, cache.canvas_view([0], [9], 12))]

    expected = passed()
    monkeypatch.setattr(torch, "compile", lambda function, **options: whole(function, backend="eager", **options))
    monkeypatch.setattr(packed, "_unpack", torch.ops.twolane.unpack)
    monkeypatch.setattr(fused, "_EAGER", {"unpack"})  # it is compiled in test_packed.py
    torch._dynamo.reset()
    model.compile()
    torch.testing.assert_close(passed(), expected, atol=1e-4, rtol=0)
    assert not [record for record in caplog.records if "cannot compile" in record.getMessage()]


def test_encoder_and_decoder_share_packed_weights(folder: Path) -> None:
    model = loaded(pack(folder, "modelopt NVFP4"))._model.model
    encoder, decoder = model.encoder.language_model.layers[0], model.decoder.layers[0]
    assert encoder.mlp.gate_proj is decoder.mlp.gate_proj
    assert encoder.experts.down_proj is decoder.experts.down_proj
    assert encoder.input_layernorm.weight is decoder.input_layernorm.weight
    assert len(list(packed_matrices(model))) < 2 * len({id(each.data) for each in packed_matrices(model.decoder)})


def test_what_is_not_packed_is_as_the_library_loads_it(folder: Path, saved: Path) -> None:
    """Buffers that no file contains, too."""
    mine = loaded(pack(folder, "modelopt NVFP4"), "bfloat16", "unpack")._model
    library = loaded(saved, "bfloat16")._model
    for (name, found), (other, expected) in zip(mine.named_buffers(), library.named_buffers(), strict=True):
        assert name == other
        assert torch.equal(found, expected)
    assert {name for name, _ in mine.named_parameters()} == {name for name, _ in library.named_parameters()}
    assert mine.model.decoder.embed_tokens.weight is mine.lm_head.weight


def change(folder: Path, **changes: torch.Tensor | None) -> None:
    """Replace tensors; None removes one."""
    stored = load_file(folder / "model.safetensors") | changes
    kept = {name: value for name, value in stored.items() if value is not None}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({f"{NAME}.weight": torch.zeros(4, 4, dtype=torch.int32)}, "stored as I32; packed weights must be FP8"),
        ({f"{NAME}.weight": torch.zeros(64, 32).to(torch.float8_e5m2)}, "stored as F8_E5M2"),
        ({f"{NAME}.weight_scale": None}, f"{NAME}.weight has no scales"),
        ({f"{NAME}.weight_scale_2": None}, f"{NAME}.weight is not stored as NVFP4 is"),
        (
            {f"{NAME}.weight_scale": torch.ones(64, 3).to(torch.float8_e4m3fn)},
            "scales of the shape [64, 3]",
        ),
        (
            {f"{NAME}.weight_scale": torch.ones(64, 1).to(torch.float8_e4m3fn)},
            "scales of the shape [64, 1]",
        ),
        ({f"{NAME}.weight_scale": torch.ones(0).to(torch.float8_e4m3fn)}, "scales of the shape [0]"),
        ({f"{NAME}.weight_scale_2": torch.ones(3)}, "second scales of the shape [3]"),
        ({f"{NAME}.weight": torch.zeros(16, dtype=torch.uint8)}, "neither a matrix nor a stack"),
        ({f"{NAME}.weight": torch.zeros(0, 16, dtype=torch.uint8)}, "neither a matrix nor a stack"),
    ],
)
def test_weights_that_cannot_be_read_are_foreign_by_name(
    folder: Path, changes: dict[str, torch.Tensor | None], message: str
) -> None:
    change(pack(folder, "modelopt NVFP4"), **changes)
    assert message in refusal(folder, CheckpointForeign)


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (torch.full((64, 1), 127, dtype=torch.uint8), "is stored as torch.uint8, not as floats"),  # of MXFP8
        (torch.ones(4, 4, 1), "scales of the shape [4, 4, 1]"),
        (torch.ones(64, 0), "scales of the shape [64, 0]"),
    ],
)
def test_scales_of_another_format_are_refused(folder: Path, scale: torch.Tensor, message: str) -> None:
    change(pack(folder, "compressed-tensors FP8"), **{f"{NAME}.weight_scale": scale})
    assert message in refusal(folder, CheckpointForeign)


@pytest.mark.parametrize(
    ("layout", "part", "value"),
    [
        ("compressed-tensors FP8", "weight_scale", float("nan")),
        ("modelopt FP8", "weight_scale", float("-inf")),
        ("modelopt NVFP4", "weight_scale", float("nan")),
        ("modelopt NVFP4", "weight_scale_2", float("inf")),
        ("compressed-tensors NVFP4", "weight_global_scale", 0.0),
    ],
)
def test_scales_that_are_not_finite_are_broken(folder: Path, layout: str, part: str, value: float) -> None:
    name = f"{NAME}.{part}"
    stored = load_file(pack(folder, layout) / "model.safetensors")[name]
    change(folder, **{name: torch.full(stored.shape, value).to(stored.dtype)})
    assert f"{NAME}.weight" in (said := refusal(folder, CheckpointBroken))
    assert "has scales that are not finite" in said


def test_scales_without_packed_weights_are_named(folder: Path) -> None:
    name = f"{NAME}.weight"
    change(pack(folder, "modelopt NVFP4"), **{name: torch.ones(64, 32)})
    assert f"{name}_scale: scales of weights that are missing or not packed" in refusal(folder, CheckpointBroken)


def test_second_scales_are_floats(folder: Path) -> None:
    name = f"{NAME}.weight_scale_2"
    change(pack(folder, "modelopt NVFP4"), **{name: torch.ones((), dtype=torch.int64)})
    assert f"{name} is stored as torch.int64" in refusal(folder, CheckpointForeign)


def test_the_numbers_of_experts_have_no_gap(folder: Path) -> None:
    stored = load_file(pack(folder, "modelopt NVFP4") / "model.safetensors")
    experts = "model.decoder.layers.1.experts."
    moved = {name.replace(f"{experts}3.", f"{experts}9."): each for name, each in stored.items()}
    save_file(moved, folder / "model.safetensors", {"format": "pt"})
    assert "layers.1.experts lacks down_proj of some experts" in refusal(folder, CheckpointBroken)


def test_an_expert_that_lacks_a_part_is_refused(folder: Path) -> None:
    stored = load_file(pack(folder, "modelopt NVFP4") / "model.safetensors")
    experts = "model.decoder.layers.1.experts"
    up = {name: each for name, each in stored.items() if name.startswith(f"{experts}.3.up_proj.")}
    change(folder, **{name.replace(".3.", ".4."): each.clone() for name, each in up.items()})
    assert f"{experts} lacks gate_proj or up_proj of an expert" in refusal(folder, CheckpointBroken)


@pytest.mark.parametrize("part", ["up_proj", "down_proj"])
def test_experts_of_a_layer_are_packed_in_one_way(folder: Path, part: str) -> None:
    name = f"model.decoder.layers.1.experts.3.{part}.weight"
    change(pack(folder, "modelopt FP8"), **{f"{name}_scale_2": torch.ones(())})
    assert "layers.1.experts are not all packed in the same way" in refusal(folder, CheckpointForeign)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_scales_may_be_in_a_file_before_that_of_their_values(folder: Path, layout: str) -> None:
    """And files may have any names; those that the index does not name are not read."""
    expected = logits(loaded(pack(folder, layout)))
    stored = load_file(folder / "model.safetensors")
    files = {name: "a.safetensors" if "scale" in name else "b.safetensors" for name in stored}
    for file in ("a.safetensors", "b.safetensors"):
        save_file({name: stored[name] for name in stored if files[name] == file}, folder / file, {"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    change(folder, **{f"{NAME}.weight_scale": torch.ones(3)})
    (folder / "model.safetensors").rename(folder / "model-zz.safetensors")
    assert torch.equal(logits(loaded(folder)), expected)


@pytest.mark.parametrize(
    "declared",
    [
        {"quant_method": "fp8", "weight_block_size": [24, 20]},
        {"quant_method": "compressed-tensors", "config_groups": {"all": {"weights": {"block_structure": [24, 20]}}}},
    ],
)
def test_the_last_block_may_be_shorter_than_declared(folder: Path, saved: Path, declared: dict[str, Any]) -> None:
    """As in the released checkpoint: 704 columns in blocks of 128."""

    def packed(name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        height, width = weight.shape[-2:]
        whole = torch.nn.functional.pad(weight.float(), (0, -width % 20, 0, -height % 24))
        values, scale = packing.fp8(whole, (24, 20))
        return {name: values[..., :height, :width], f"{name}_scale_inv": scale}

    packing.pack(folder, packed, **declared)
    found = loaded(folder, quantised="unpack")._model.get_parameter(f"{NAME}.weight")
    expected = loaded(saved)._model.get_parameter(f"{NAME}.weight")
    torch.testing.assert_close(found, expected, rtol=2**-4, atol=1e-4)


def encoder_again(stored: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The layers of the decoder under the names of those of the encoder."""
    decoder, encoder = "model.decoder.layers", "model.encoder.language_model.layers"
    return {name.replace(decoder, encoder): each.clone() for name, each in stored.items() if name.startswith(decoder)}


@pytest.mark.slow
@pytest.mark.parametrize("quantised", ["keep", "unpack"])
@pytest.mark.parametrize("layout", ["fine-grained FP8, experts in stacks", "modelopt NVFP4"])
def test_what_the_encoder_shares_may_be_stored_twice(folder: Path, layout: str, quantised: str) -> None:
    """Tools that pack module by module store it so. It takes memory once, unless it differs."""
    once = loaded(pack(folder, layout), quantised=quantised)
    again = encoder_again(load_file(folder / "model.safetensors"))
    change(folder, **again)
    twice = loaded(folder, quantised=quantised)
    assert torch.equal(logits(twice), logits(once))
    assert twice.info.weight_bytes == once.info.weight_bytes
    for part in ("mlp.down_proj", "experts.down_proj", "experts.0.down_proj"):  # other experts are equal
        scales = [name for name in again if f"{part}.weight_scale" in name or f"{part}_scale" in name]
        change(folder, **{name: (again[name].float() * 2).to(again[name].dtype) for name in scales})
        other = loaded(folder, quantised=quantised)
        assert bool(scales) == (other.info.weight_bytes > once.info.weight_bytes)
        assert bool(scales) != torch.equal(logits(other), logits(once))
        change(folder, **again)


@pytest.mark.parametrize("part", ["decoder", "encoder"])
def test_encoder_or_decoder_alone_may_be_packed(folder: Path, saved: Path, part: str) -> None:
    plain = load_file(saved / "model.safetensors")
    stored = load_file(pack(folder, "modelopt NVFP4") / "model.safetensors")
    if part == "encoder":
        packed = {name: each for name, each in stored.items() if name not in plain or each.dtype != plain[name].dtype}
        change(folder, **(dict.fromkeys(packed) | plain | encoder_again(packed)))
    else:
        change(folder, **encoder_again(plain))
    layer = "layers.0.mlp.gate_proj"
    model = loaded(folder)._model.model
    modules = {
        "decoder": model.decoder.get_submodule(layer),
        "encoder": model.encoder.language_model.get_submodule(layer),
    }
    assert isinstance(modules.pop(part), PackedLinear)
    assert torch.equal(modules.popitem()[1].weight, plain[f"{NAME}.weight"].float())
    assert logits(loaded(folder)).isfinite().all()


@pytest.mark.parametrize("quantised", ["keep", "unpack"])
def test_a_packed_head_is_used_although_it_could_be_shared(folder: Path, quantised: str) -> None:
    pack(folder, "modelopt NVFP4")
    table = load_file(folder / "model.safetensors")["model.decoder.embed_tokens.weight"]
    values, scale = packing.fp8(table, (64, table.shape[1]))
    change(folder, **{"lm_head.weight": values, "lm_head.weight_scale": 2.0 * scale})
    model = loaded(folder, quantised=quantised)
    hidden = torch.ones(1, table.shape[1])
    expected = torch.nn.functional.linear(hidden, values.float() * 2.0 * scale)
    torch.testing.assert_close(model._model.lm_head(hidden), expected)
    assert torch.equal(model._model.model.decoder.embed_tokens.weight, table.float())
    assert model.info.step.unpacked >= (table.numel() if quantised == "keep" else 0)


@pytest.mark.slow
def test_weights_for_decisions_share_packed_ones(folder: Path) -> None:
    norm = "model.decoder.norm.weight"
    plain = loaded(pack(folder, "modelopt NVFP4"))
    save_file({norm: load_file(folder / "model.safetensors")[norm] * 2}, folder / DECISION_WEIGHTS)
    model = loaded(folder)
    own, others = ({id(each) for each in packed_matrices(of._model)} for of in (model, model.for_templates))
    assert own == others
    assert not torch.equal(logits(model.for_templates), logits(plain))
    save_file({f"{NAME}.weight": torch.ones(64, 32)}, folder / DECISION_WEIGHTS)
    assert "or a packed one" in refusal(folder, CheckpointBroken)


@pytest.mark.slow
def test_tensors_that_are_missing_misshapen_or_not_of_the_model_are_named(folder: Path) -> None:
    pack(folder, "modelopt NVFP4")
    experts = "model.decoder.layers.1.experts"
    norm = "model.decoder.norm.weight"
    stored = load_file(folder / "model.safetensors")
    change(folder, **{norm: None})
    assert f"missing weights for this config.json: {norm}" in refusal(folder, CheckpointBroken)
    change(folder, **{norm: torch.ones(5)})
    assert "missing weights" in refusal(folder, CheckpointBroken)
    change(folder, **{norm: stored[norm], "model.decoder.more.weight": torch.ones(5)})
    assert "unexpected weights for this config.json: model.decoder.more.weight" in refusal(folder, CheckpointBroken)
    parts = {name: None for name in stored if name.startswith(f"{experts}.3.up_proj.")}
    assert parts
    change(folder, **{"model.decoder.more.weight": None}, **parts)
    assert f"{experts} lacks gate_proj or up_proj" in refusal(folder, CheckpointBroken)


def test_options_that_packed_weights_do_not_have_are_refused(folder: Path) -> None:
    pack(folder, "modelopt NVFP4")
    assert "--experts eager" in refusal(folder, BadSetting, experts="eager")
    assert "--device-map" in refusal(folder, BadSetting, device_map="auto", device="auto")
    assert "exact mode requires unquantised weights" in refusal(folder, BadSetting, is_exact=True)


def test_weights_that_the_config_does_not_declare_are_found(folder: Path) -> None:
    """modelopt declares them in a file of its own."""
    config = json.loads((pack(folder, "modelopt NVFP4") / "config.json").read_text())
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config))
    assert loaded(folder).info.quantised == "packed"


@pytest.mark.parametrize(
    ("method", "tensor"),
    [
        ("bitsandbytes", torch.zeros(8, dtype=torch.uint8)),
        ("gptq", torch.zeros(8, 8, dtype=torch.int32)),
        ("compressed-tensors", torch.zeros(8, 8, dtype=torch.int32)),
    ],
)
def test_weights_of_other_methods_are_left_to_the_library(folder: Path, method: str, tensor: torch.Tensor) -> None:
    change(folder, **{f"{NAME}.weight": tensor})
    assert not is_packed(folder, method)


def test_a_quantisation_that_is_declared_for_the_text_alone_is_found(folder: Path) -> None:
    config = json.loads((pack(folder, "modelopt FP8") / "config.json").read_text())
    config["text_config"]["quantization_config"] = config.pop("quantization_config")
    (folder / "config.json").write_text(json.dumps(config))
    assert loaded(folder).info.quantised == "modelopt"
