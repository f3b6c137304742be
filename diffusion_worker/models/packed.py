"""Weights in memory as they are stored: matrices of 8-bit or 4-bit floats with scales, unpacked one layer at a time.

A value is `float(data) * scale * factor`, where each scale applies to a block of rows and columns:

* FP8 (E4M3; Micikevicius et al. 2022, "FP8 Formats for Deep Learning"): one scale per matrix, row or square block.
* NVFP4 (E2M1 in pairs, the even column in the lower half of a byte; NVIDIA 2025, "Pretraining Large Language Models
  with NVFP4"): one E4M3 scale per 16 columns, and one factor for the whole matrix.

Only weights are packed: activations keep their type, so that no card needs arithmetic in these formats. The unpacked
values are rounded once, from fp32, and are the same wherever they are computed.
"""

from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn
from torch.nn import functional as nnf
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from diffusion_worker.models.fused import fused

PACKED_EXPERTS: Final = "twolane_packed_experts"  # in the library's registry of experts implementations
FP4_GROUP: Final = 16  # columns that share a scale
_FP4_VALUES: Final = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # of E2M1 without its sign, the highest bit


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """A matrix [..., rows, columns]. `data`: E4M3 of the same shape, or uint8 [..., rows, columns / 2] with two E2M1
    each. `scale` [..., row blocks, column blocks]; the last block may be shorter. `factor` [..., rows or 1, 1] in fp32,
    or None. `block`: rows and columns of a scale."""

    data: torch.Tensor
    scale: torch.Tensor
    factor: torch.Tensor | None
    block: tuple[int, int]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the unpacked matrix."""
        *leading, columns = self.data.shape
        return (*leading, columns * 2 if self.data.dtype == torch.uint8 else columns)

    @property
    def nbytes(self) -> int:
        """Memory in use."""
        return sum(each.nbytes for each in (self.data, self.scale, self.factor) if each is not None)

    def __getitem__(self, index: Any) -> "Packed":
        """One matrix of a stack."""
        factor = None if self.factor is None else self.factor[index]
        return Packed(self.data[index], self.scale[index], factor, self.block)

    def to(self, device: torch.device) -> "Packed":
        """On a device."""
        factor = None if self.factor is None else self.factor.to(device)
        return Packed(self.data.to(device), self.scale.to(device), factor, self.block)

    def unpacked(self, dtype: torch.dtype) -> torch.Tensor:
        """The values, rounded once."""
        out = torch.empty(self.shape, dtype=dtype, device=self.data.device)
        factor = self.factor if self.factor is not None else self.scale.new_ones((1,) * out.dim(), dtype=torch.float32)
        # By row: a size that may be 1 or more is no broadcast to the compiler, whose sizes are symbols.
        _unpack(out, self.data, self.scale, factor.expand(*self.shape[:-1], 1)[..., 0].contiguous(), *self.block)
        return out


def stacked(matrices: list[Packed]) -> Packed:
    """Matrices of the same shape as one [matrices, rows, columns]."""
    factors = [each.factor for each in matrices]
    return Packed(
        torch.stack([each.data for each in matrices]),
        torch.stack([each.scale for each in matrices]),
        torch.stack([each for each in factors if each is not None]) if factors[0] is not None else None,
        matrices[0].block,
    )


def joined(above: Packed, below: Packed) -> Packed:
    """Two matrices [rows, columns] of the same kind as one: the rows of the first, then those of the second."""
    if len(above.data) % above.block[0]:
        above, below = _by_row(above), _by_row(below)
    factor = None
    if above.factor is not None and below.factor is not None:
        factor = torch.cat([above.factor.expand(len(above.data), 1), below.factor.expand(len(below.data), 1)])
    scale = torch.cat([above.scale, below.scale])
    return Packed(torch.cat([above.data, below.data]), scale, factor, above.block)


def _by_row(matrix: Packed) -> Packed:
    """The same matrix with scales for each row."""
    rows, columns = matrix.block
    scale = matrix.scale.repeat_interleave(rows, dim=-2)[: len(matrix.data)]
    return Packed(matrix.data, scale, matrix.factor, (1, columns))


class PackedLinear(nn.Module):
    """A linear layer without bias over a packed matrix."""

    def __init__(self, matrix: Packed) -> None:
        super().__init__()
        self.matrix = matrix

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """[..., columns] to [..., rows]."""
        return nnf.linear(inputs, self.matrix.unpacked(inputs.dtype))


def pack_experts(experts: Any, gate_up: Packed, down: Packed) -> None:
    """Let the library's experts module hold packed matrices [experts, rows, columns] in place of its parameters. Its
    implementation must be PACKED_EXPERTS from then on."""
    del experts.gate_up_proj, experts.down_proj
    experts.gate_up_proj, experts.down_proj = gate_up, down


class _Unpacking:
    """The experts module as an implementation of the library sees it: each matrix is unpacked when it is read, and is
    freed when the implementation drops it."""

    def __init__(self, experts: Any, dtype: torch.dtype) -> None:
        self._experts, self._dtype = experts, dtype

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._experts, name)
        return found.unpacked(self._dtype) if isinstance(found, Packed) else found


def _packed_experts(experts: Any, hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Tokens [tokens, hidden] through their experts [tokens, top k], in products grouped by expert."""
    grouped = ALL_EXPERTS_FUNCTIONS["grouped_mm"]
    out: torch.Tensor = grouped(_Unpacking(experts, hidden.dtype), hidden, index, weights)
    return out


ALL_EXPERTS_FUNCTIONS.register(PACKED_EXPERTS, _packed_experts)


def _whole(data: torch.Tensor, scale: torch.Tensor, factor: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """The values in fp32; `factor` [..., rows]."""
    values = _of_fp4(data) if data.dtype == torch.uint8 else data.to(torch.float32)
    scales = scale.to(torch.float32)
    if rows > 1:
        scales = scales.repeat_interleave(rows, dim=-2)[..., : values.shape[-2], :]
    if columns > 1:
        scales = scales.repeat_interleave(columns, dim=-1)[..., : values.shape[-1]]
    return values * scales * factor[..., None]


def _of_fp4(data: torch.Tensor) -> torch.Tensor:
    table = torch.tensor([*_FP4_VALUES, *(-value for value in _FP4_VALUES)], device=data.device)
    pairs = torch.stack([data & 15, data >> 4], dim=-1)
    return table[pairs.long()].flatten(-2)


def _unpack_piecewise(
    out: torch.Tensor, data: torch.Tensor, scale: torch.Tensor, factor: torch.Tensor, rows: int, columns: int
) -> None:
    """One matrix of a stack at a time, so that temporary memory is that of one expert."""
    if out.dim() == 2:
        out.copy_(_whole(data, scale, factor, rows, columns))
        return
    for each in range(len(out)):
        out[each].copy_(_whole(data[each], scale[each], factor[each], rows, columns))


@fused("unpack", eager=_unpack_piecewise, mutates=["out"], fake=lambda *_: None)
def _unpack(
    out: torch.Tensor, data: torch.Tensor, scale: torch.Tensor, factor: torch.Tensor, rows: int, columns: int
) -> None:
    """Write the values of a packed matrix to `out`."""
    out.copy_(_whole(data, scale, factor, rows, columns))
