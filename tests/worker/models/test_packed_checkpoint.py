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
from diffusion_worker.models.diffusion_gemma import DiffusionGemmaModel
from diffusion_worker.models.loader import LoadOptions, load
from diffusion_worker.models.packed import Packed
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
    ],
)
def test_weights_that_cannot_be_read_are_foreign_by_name(
    folder: Path, changes: dict[str, torch.Tensor | None], message: str
) -> None:
    change(pack(folder, "modelopt NVFP4"), **changes)
    assert message in refusal(folder, CheckpointForeign)


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
    assert f"{experts}.gate_up_proj" in refusal(folder, CheckpointBroken)


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
    [("bitsandbytes", torch.zeros(8, dtype=torch.uint8)), ("gptq", torch.zeros(8, 8, dtype=torch.int32)),
     ("compressed-tensors", torch.zeros(8, 8, dtype=torch.int32))],
)  # fmt: skip
def test_weights_of_other_methods_are_left_to_the_library(folder: Path, method: str, tensor: torch.Tensor) -> None:
    change(folder, **{f"{NAME}.weight": tensor})
    assert not is_packed(folder, method)


def test_a_quantisation_that_is_declared_for_the_text_alone_is_found(folder: Path) -> None:
    config = json.loads((pack(folder, "modelopt FP8") / "config.json").read_text())
    config["text_config"]["quantization_config"] = config.pop("quantization_config")
    (folder / "config.json").write_text(json.dumps(config))
    assert loaded(folder).info.quantised == "modelopt"
