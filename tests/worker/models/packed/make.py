"""Makes the files of this folder: one matrix, packed and unpacked by the libraries that write published checkpoints.

pip install compressed-tensors==0.20.1 nvidia-modelopt==0.47.0 && python tests/worker/models/packed/make.py
"""

from pathlib import Path

import torch
from compressed_tensors.compressors import FloatQuantizationCompressor, NVFP4PackedCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from modelopt.torch.quantization.qtensor import FP8QTensor, NVFP4QTensor
from safetensors.torch import save_file

FOLDER = Path(__file__).parent
ROWS, COLUMNS = 48, 64
FP4_MAX, FP8_MAX = 6.0, 448.0


def main() -> None:
    """Write one file per library and format."""
    weight = torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(0))
    _save("compressed_tensors_nvfp4", _nvfp4_of_compressed_tensors(weight))
    _save("compressed_tensors_fp8", _fp8_of_compressed_tensors(weight))
    _save("modelopt_nvfp4", _nvfp4_of_modelopt(weight))
    _save("modelopt_fp8", _fp8_of_modelopt(weight))


def _nvfp4_of_compressed_tensors(weight: torch.Tensor) -> dict[str, torch.Tensor]:
    scheme = QuantizationScheme(
        targets=["Linear"],
        weights=QuantizationArgs(
            num_bits=4, type="float", strategy="tensor_group", group_size=16, scale_dtype=torch.float8_e4m3fn
        ),
    )
    global_scale = (FP8_MAX * FP4_MAX / weight.abs().amax()).reshape(1)
    groups = weight.unflatten(-1, (-1, 16)).abs().amax(-1)
    scale = (global_scale * groups / FP4_MAX).to(torch.float8_e4m3fn).float()
    state = {"weight": weight, "weight_scale": scale, "weight_global_scale": global_scale}
    packed = NVFP4PackedCompressor.compress(state, scheme)
    expected = NVFP4PackedCompressor.decompress(dict(packed), scheme)["weight"]
    return {f"layer.{name}": value for name, value in packed.items()} | {"expected": expected}


def _fp8_of_compressed_tensors(weight: torch.Tensor) -> dict[str, torch.Tensor]:
    scheme = QuantizationScheme(
        targets=["Linear"], weights=QuantizationArgs(num_bits=8, type="float", strategy="channel")
    )
    state = {"weight": weight, "weight_scale": weight.abs().amax(-1, keepdim=True) / FP8_MAX}
    packed = FloatQuantizationCompressor.compress(state, scheme)
    expected = FloatQuantizationCompressor.decompress(dict(packed), scheme)["weight"]
    return {f"layer.{name}": value for name, value in packed.items()} | {"expected": expected}


def _nvfp4_of_modelopt(weight: torch.Tensor) -> dict[str, torch.Tensor]:
    packed, scale, factor = NVFP4QTensor.quantize(weight, 16)
    expected = packed.dequantize(torch.float32, scale=scale, double_scale=factor, block_sizes={-1: 16})
    named = {"weight": packed._quantized_data, "weight_scale": scale, "weight_scale_2": factor}
    return {f"layer.{name}": value for name, value in named.items()} | {"expected": expected}


def _fp8_of_modelopt(weight: torch.Tensor) -> dict[str, torch.Tensor]:
    packed, scale = FP8QTensor.quantize(weight)
    expected = packed.dequantize(torch.float32, scale=scale)
    return {"layer.weight": packed._quantized_data, "layer.weight_scale": scale, "expected": expected}


def _save(name: str, tensors: dict[str, torch.Tensor]) -> None:
    kept = {key: value.detach().clone().contiguous() for key, value in tensors.items()}
    save_file(kept, FOLDER / f"{name}.safetensors")


if __name__ == "__main__":
    main()
