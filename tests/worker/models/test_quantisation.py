"""models.quantisation: parsing the declarations of common configs."""

from typing import Any

import pytest

from diffusion_worker.models.quantisation import Quantisation, quantisation_of

NVFP4 = {
    "quant_method": "compressed-tensors",
    "format": "nvfp4-pack-quantized",
    "config_groups": {
        "group_0": {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "float", "group_size": 16}}
    },
    "ignore": ["lm_head", "re:.*vision_tower.*", "re:.*router.*"],
}


@pytest.mark.parametrize(
    ("said", "method", "bits"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8", 8 + 16 / 128**2),
        ({"quant_method": "fp8", "weight_block_size": None}, "fp8", 8.0),
        (NVFP4, "compressed-tensors", 4 + 8 / 16),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "modelopt", 4.5),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, "modelopt", 8.0),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes", 4.0),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bitsandbytes", 8.0),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "awq", 4 + 16 / 128),
        ({"quant_method": "gptq", "bits": 4, "group_size": -1}, "gptq", 4.0),
        ({"quant_method": "mxfp4"}, "mxfp4", 4 + 8 / 32),
        ({"quant_method": "torchao"}, "torchao", None),
        ({"quant_method": "awq", "bits": "four"}, "awq", None),
        ({}, "unnamed", None),
    ],
)
def test_bits_of_a_weight_with_its_share_of_a_scale(said: dict[str, Any], method: str, bits: float | None) -> None:
    """Bits are those that the config declares; otherwise unknown."""
    found = quantisation_of({"quantization_config": said})
    assert found is not None
    assert (found.method, found.bits) == (method, bits)


@pytest.mark.parametrize("config", [{}, {"quantization_config": None}, {"quantization_config": "fp8"}])
def test_plain_weights_have_none(config: dict[str, Any]) -> None:
    """Configs without a declaration, or with an unreadable one."""
    assert quantisation_of(config) is None


@pytest.mark.parametrize(
    ("declared", "found"),
    [("lm_head", ("lm_head",)), (["lm_head", "re:.*router"], ("lm_head", "re:.*router")), (5, ()), (None, ())],
)
def test_excluded_modules_are_one_name_or_a_list(declared: object, found: tuple[str, ...]) -> None:
    """Anything else excludes none."""
    quantisation = quantisation_of({"quantization_config": {"quant_method": "fp8", "ignore": declared}})
    assert quantisation is not None
    assert quantisation.left_out == found


def test_it_may_be_said_of_the_text_alone() -> None:
    """Some tools write it there."""
    assert quantisation_of({"text_config": {"quantization_config": {"quant_method": "fp8"}}}) is not None


@pytest.mark.parametrize(
    ("name", "is_covered"),
    [
        ("model.decoder.layers.0.mlp.gate_proj.weight", True),
        ("model.decoder.layers.0.experts.gate_up_proj", True),
        ("model.decoder.layers.0.experts.down_proj", True),
        ("model.decoder.layers.0.self_attn.q_norm.weight", False),
        ("model.decoder.embed_tokens.weight", False),
        ("lm_head.weight", False),
        ("model.decoder.layers.0.router.proj.weight", False),
        ("model.encoder.vision_tower.encoder.layers.0.self_attn.q_proj.linear.weight", False),
    ],
)
def test_matrices_are_covered_unless_left_out(name: str, is_covered: bool) -> None:
    """By pattern or by part of their name; embeddings and norms are not quantised."""
    found = quantisation_of({"quantization_config": NVFP4})
    assert found is not None
    assert found.covers(name) is is_covered


def test_parts_of_names_may_end_in_a_star() -> None:
    """Excluded modules in modelopt's format."""
    left_out = Quantisation(method="modelopt", bits=8.0, left_out=("model.encoder.vision_tower*",))
    assert not left_out.covers("model.encoder.vision_tower.patch_embedder.input_proj.weight")
