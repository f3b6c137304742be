"""models.packed: packed matrices have the values that the libraries which write them give them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from diffusion_worker.models import fused, packed
from diffusion_worker.models.packed import FP4_GROUP, Packed, PackedLinear, joined, stacked
from diffusion_worker.models.packed_checkpoint import Target, _Loading, _opened
from tests.worker.models.packing import fp4, fp8

FILES = sorted((Path(__file__).parent / "packed").glob("*.safetensors"))


class OneLayer(nn.Module):
    """A model of one linear layer, whose weights nothing shares."""

    def __init__(self) -> None:
        super().__init__()
        self.config = None
        self.layer = nn.Linear(64, 48, bias=False)

    def get_expanded_tied_weights_keys(self, **_: Any) -> dict[str, str]:
        return {}


def packed_by_hand(weight: torch.Tensor, kind: str) -> Packed:
    if kind == "fp4":
        pairs, scale, factor = fp4(weight)
        return Packed(pairs, scale, factor.reshape((1,) * weight.dim()), (1, FP4_GROUP))
    block = (16, 16) if kind == "blocks" else (1, weight.shape[-1])
    return Packed(*fp8(weight, block), None, block)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_matrix_packed_by_a_library_has_the_values_that_the_library_gives_it(file: Path, tmp_path: Path) -> None:
    """See `packed/make.py`. compressed-tensors rounds NVFP4 to bf16 on the way."""
    (tmp_path / "model.safetensors").write_bytes(file.read_bytes())
    model, expected = OneLayer(), load_file(file)["expected"]
    with _opened(tmp_path) as tensors:
        target = Target(device=torch.device("cpu"), dtype=torch.float32, unpack=False)
        loading = _Loading(tensors, model, target, None)
        loading.load()
    assert (loading.unexpected, loading.mismatched) == (["expected"], [])
    assert isinstance(model.layer, PackedLinear)
    found = model.layer.matrix.unpacked(torch.float32)
    if expected.dtype == torch.bfloat16:
        torch.testing.assert_close(found, expected.float(), rtol=2**-7, atol=0)
    else:
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


@pytest.mark.slow
@torch.inference_mode()
def test_matrices_of_all_kinds_are_unpacked_by_few_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone, joined and in stacks, whether their factors and scales are one or many."""
    whole, counters = torch.compile, torch._dynamo.utils.counters
    monkeypatch.setattr(torch, "compile", lambda function, **options: whole(function, backend="eager", **options))
    fused._compiled.cache_clear()
    torch._dynamo.reset()
    counters.clear()
    function, plain = packed._unpack.__wrapped__, packed._unpack
    monkeypatch.setattr(packed, "_unpack", lambda *args: fused.call_compiled(function, *args))
    for kind in ("fp4", "blocks", "rows"):
        one, other = (packed_by_hand(torch.randn(rows, 64), kind) for rows in (48, 32))
        for matrix in (one, other, joined(one, other), stacked([one, one]), stacked([one] * 4)):
            found = matrix.unpacked(torch.bfloat16)
            with monkeypatch.context() as patched:
                patched.setattr(packed, "_unpack", plain)
                assert torch.equal(found, matrix.unpacked(torch.bfloat16))
    fused._compiled.cache_clear()
    assert counters["stats"]["unique_graphs"] <= 6, "three kinds, in stacks or not"


def test_all_values_of_four_bits() -> None:
    codes = torch.arange(16, dtype=torch.uint8)
    data = (codes[0::2] | codes[1::2] << 4)[None]
    matrix = Packed(data, torch.ones(1, 1), torch.ones(1, 1), (1, FP4_GROUP))
    positive = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
    assert matrix.unpacked(torch.float32)[0].tolist() == [*positive, *(-value for value in positive)]


@pytest.mark.parametrize("kind", ["fp4", "blocks", "rows"])
@given(seed=st.integers(0, 1000), count=st.integers(1, 3))
def test_stacks_and_joined_matrices_have_the_values_of_their_parts(kind: str, seed: int, count: int) -> None:
    random = torch.Generator().manual_seed(seed)
    parts = [packed_by_hand(torch.randn(32, 48, generator=random), kind) for _ in range(count)]
    values = [each.unpacked(torch.bfloat16) for each in parts]
    assert torch.equal(stacked(parts).unpacked(torch.bfloat16), torch.stack(values))
    both = joined(parts[0], parts[-1])
    assert torch.equal(both.unpacked(torch.bfloat16), torch.cat([values[0], values[-1]]))
    assert torch.equal(stacked(parts)[count - 1].unpacked(torch.bfloat16), values[-1])


def test_a_block_that_ends_within_the_first_matrix_does_not_reach_into_the_second() -> None:
    data = torch.ones(24, 16).to(torch.float8_e4m3fn)
    above = Packed(data, torch.tensor([[1.0], [2.0]]), None, (16, 16))
    below = Packed(data, torch.tensor([[3.0], [4.0]]), None, (16, 16))
    found = joined(above, below).unpacked(torch.float32)[:, 0]
    assert found.tolist() == [1.0] * 16 + [2.0] * 8 + [3.0] * 16 + [4.0] * 8
