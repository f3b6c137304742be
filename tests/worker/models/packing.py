"""Packs the weights of a saved checkpoint, after the layouts that vLLM's loaders read (vllm-project/vllm,
`quantization/modelopt.py`, `compressed_tensors/schemes`) and transformers' own `finegrained_fp8`."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

FP4 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
GROUP = 16
Named = dict[str, torch.Tensor]
LEFT_OUT = ("embed", "vision", "router", "lm_head", "norm")


def fp4(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(pairs, scales, factor) of a matrix [..., rows, columns]: value = E2M1 * scale * factor."""
    weight = weight.float()
    factor = (weight.abs().amax() / (6.0 * 448.0)).clamp(min=1e-12)
    groups = weight.unflatten(-1, (-1, GROUP))
    scale = (groups.abs().amax(-1) / 6.0 / factor).clamp(min=2**-9).to(torch.float8_e4m3fn)
    values = groups / (scale.float() * factor)[..., None]
    index = (values.abs()[..., None] - FP4).abs().argmin(-1) + 8 * (values < 0)
    index = index.flatten(-2).to(torch.uint8)
    return index[..., 0::2] | (index[..., 1::2] << 4), scale, factor


def fp8(weight: torch.Tensor, block: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """(values, scales) of a matrix [..., rows, columns] that the block divides."""
    rows, columns = block
    *leading, height, width = weight.shape
    blocks = weight.float().reshape(*leading, height // rows, rows, width // columns, columns)
    scale = (blocks.abs().amax(dim=(-3, -1)) / 448.0).clamp(min=1e-12)
    return (blocks / scale[..., :, None, :, None]).reshape(weight.shape).to(torch.float8_e4m3fn), scale


def fine_grained(name: str, weight: torch.Tensor) -> Named:
    """transformers' FP8, in blocks of 16 x 16; stacks of experts too."""
    values, scale = fp8(weight, (16, 16))
    return {name: values, f"{name}_scale_inv": scale}


def by_channel(name: str, weight: torch.Tensor) -> Named:
    """FP8 of compressed-tensors with a scale for each row."""
    values, scale = fp8(weight, (1, weight.shape[-1]))
    return {name: values, f"{name}_scale": scale, f"{name.removesuffix('.weight')}.input_scale": torch.ones(1)}


def by_tensor(name: str, weight: torch.Tensor) -> Named:
    """FP8 of modelopt."""
    values, scale = fp8(weight, tuple(weight.shape[-2:]))
    return {name: values, f"{name}_scale": scale.reshape(()), f"{name.removesuffix('weight')}input_scale": scale.max()}


def nv_of_modelopt(name: str, weight: torch.Tensor) -> Named:
    """NVFP4 of modelopt."""
    pairs, scale, factor = fp4(weight)
    return {name: pairs, f"{name}_scale": scale, f"{name}_scale_2": factor,
            f"{name.removesuffix('weight')}input_scale": factor}  # fmt: skip


def nv_of_compressed_tensors(name: str, weight: torch.Tensor) -> Named:
    """NVFP4 of compressed-tensors, whose global scale divides."""
    pairs, scale, factor = fp4(weight)
    return {f"{name}_packed": pairs, f"{name}_scale": scale, f"{name}_global_scale": (1 / factor).reshape(1),
            f"{name.removesuffix('weight')}input_global_scale": factor.reshape(1)}  # fmt: skip


Packer = Callable[[str, torch.Tensor], Named]


def pack(folder: Path, packer: Packer, *, one_by_one: bool = False, **declared: Any) -> None:
    """Pack all matrices of attention, of the dense part and of the experts. `one_by_one`: each expert by itself."""
    stored = load_file(folder / "model.safetensors")
    made: Named = {}
    for name, weight in stored.items():
        is_matrix = name.endswith(("_proj.weight", "experts.gate_up_proj", "experts.down_proj"))
        if not is_matrix or any(part in name for part in LEFT_OUT):
            made[name] = weight
        elif ".experts." in name and one_by_one:
            for each, matrix in _experts(name, weight):
                made |= packer(each, matrix)
        else:
            made |= packer(name, weight)
    save_file(
        {name: each.clone(memory_format=torch.contiguous_format) for name, each in made.items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = declared
    (folder / "config.json").write_text(json.dumps(config))


def _experts(name: str, weight: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    base, _, part = name.rpartition(".")
    for number, matrix in enumerate(weight):
        if part == "down_proj":
            yield f"{base}.{number}.down_proj.weight", matrix
        else:
            gate, up = matrix.chunk(2)
            yield f"{base}.{number}.gate_proj.weight", gate
            yield f"{base}.{number}.up_proj.weight", up
