"""Loads checkpoints whose weights are stored as FP8 or NVFP4, and keeps them packed in memory (`packed`).

A packed matrix is found by the type of its tensor, not by what config.json declares. Its parts have these names, behind
the name of a linear layer (`q_proj`) or of the experts of a layer (`experts.gate_up_proj`):

| written by | values | scales | factor |
| --- | --- | --- | --- |
| transformers, FP8 in blocks | `.weight`, or the name itself | `.weight_scale_inv`, `_scale_inv` | |
| compressed-tensors, FP8 | `.weight` | `.weight_scale` | |
| compressed-tensors, NVFP4 | `.weight_packed` | `.weight_scale` | 1 / `.weight_global_scale` |
| modelopt, FP8 | `.weight` | `.weight_scale` | |
| modelopt, NVFP4 | `.weight` | `.weight_scale` | `.weight_scale_2` |

Experts may be stored one by one (`experts.7.gate_proj`, `.up_proj`, `.down_proj`), as the last two do. Scales of
activations are ignored: only weights are packed.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import safe_open
from torch import nn

from diffusion_worker.errors import CheckpointBroken, CheckpointForeign
from diffusion_worker.models.checkpoint_source import weight_files
from diffusion_worker.models.packed import (
    FP4_GROUP,
    PACKED_EXPERTS,
    Packed,
    PackedLinear,
    joined,
    pack_experts,
    stacked,
)

_METHODS: Final = frozenset({None, "fp8", "modelopt", "compressed-tensors"})  # None: not declared
_PACKED_TYPES: Final = {"F8_E4M3": torch.float8_e4m3fn, "U8": torch.uint8}
_FOREIGN_TYPES: Final = frozenset({"I32", "I8", "F8_E5M2", "F8_E8M0", "F4"})
_OF_DATA: Final = (".weight_packed", "_packed", ".weight", "")
_OF_SCALE: Final = (".weight_scale", ".weight_scale_inv", "_weight_scale", "_scale_inv", "_scale")
_OF_FACTOR: Final = (".weight_scale_2", "_weight_scale_2", "_scale_2")
_OF_DIVISOR: Final = (".weight_global_scale", "_weight_global_scale", "_global_scale")
_IGNORED: Final = re.compile(r".*[._](input_scale|input_global_scale|output_scale|k_scale|v_scale|weight_shape)")
_EXPERT: Final = re.compile(r"(?P<experts>.*\.experts)\.(?P<number>\d+)\.(?P<part>gate|up|down)_proj")
_EXPERTS: Final = re.compile(r"(?P<experts>.*\.experts)\.(?P<part>gate_up|down)_proj")


def is_packed(folder: Path, method: str | None) -> bool:
    """Whether a folder of a declared quantisation method has weights that this module reads. Those of other methods,
    and integers of compressed-tensors, are left to the library. Raises CheckpointForeign if nothing can read them."""
    if method not in _METHODS:
        return False
    with _opened(folder) as tensors:
        try:
            kinds = {tensors.kind(name) for name in tensors.names}
        except CheckpointForeign:
            if method == "compressed-tensors":
                return False
            raise
    return not kinds.isdisjoint(_PACKED_TYPES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What weights become in memory. `unpack`: packed ones become matrices of `dtype`."""

    device: torch.device
    dtype: torch.dtype
    unpack: bool


def read_packed(
    folder: Path, config: Any, target: Target, *, block: tuple[int, int] | None
) -> tuple[Any, Mapping[str, Any]]:
    """The model of a folder and a library config, and the names of tensors that are missing or that nothing takes.
    `block`: rows and columns that share a scale, if declared. Raises CheckpointForeign, CheckpointBroken, or errors of
    the library for an invalid config."""
    model = _skeleton(config, target.dtype)
    with _opened(folder) as tensors:
        found = _Loading(tensors, model, target, block)
        found.load()
    missing = [name for name, weight in model.named_parameters() if weight.device.type == "meta"]
    return model, {"missing_keys": missing, "unexpected_keys": found.unexpected, "mismatched_keys": found.mismatched}


def packed_matrices(model: Any) -> Iterator[Packed]:
    """The packed matrices of a model, each once."""
    seen = set[int]()
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, Packed) and id(value.data) not in seen:
                seen.add(id(value.data))
                yield value


def _skeleton(config: Any, dtype: torch.dtype) -> Any:
    """The model with parameters on the meta device; buffers are computed, as files do not contain all of them."""
    from accelerate import init_empty_weights
    from transformers import DiffusionGemmaForBlockDiffusion

    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with init_empty_weights(include_buffers=False):
            return DiffusionGemmaForBlockDiffusion(config)
    finally:
        torch.set_default_dtype(usual)


@dataclass(frozen=True, slots=True)
class _Tensors:
    """The tensors of all files of a checkpoint, read when they are asked for."""

    folder: Path
    files: Mapping[str, Any]  # by name of the tensor

    @property
    def names(self) -> Iterator[str]:
        return iter(self.files)

    def kind(self, name: str) -> str:
        """Type as the file names it. Raises CheckpointForeign for packed weights that are not supported."""
        kind: str = self.files[name].get_slice(name).get_dtype()
        if kind in _FOREIGN_TYPES and not _IGNORED.fullmatch(name):
            raise CheckpointForeign(
                f"{self.folder}: {name} is stored as {kind}; packed weights must be FP8 (E4M3) or NVFP4"
            )
        return kind

    def read(self, name: str) -> torch.Tensor:
        found: torch.Tensor = self.files[name].get_tensor(name)
        return found


@contextmanager
def _opened(folder: Path) -> Iterator[_Tensors]:
    with ExitStack() as stack:
        files: dict[str, Any] = {}
        for path in weight_files(folder):
            opened = stack.enter_context(safe_open(path, framework="pt"))
            files |= dict.fromkeys(opened.keys(), opened)
        yield _Tensors(folder, files)


class _Loading:
    """Moves the tensors of a checkpoint into a model, matrix by matrix."""

    def __init__(self, tensors: _Tensors, model: Any, target: Target, block: tuple[int, int] | None) -> None:
        self._tensors, self._model, self._target, self._block = tensors, model, target, block
        tied: Mapping[str, str] = model.get_expanded_tied_weights_keys(all_submodels=True)
        again, equal = _stored_again(tensors, {_parent(name): _parent(source) for name, source in tied.items()})
        # Values come before their scales, which may be in another file.
        self._left = dict.fromkeys(sorted(name for name in tensors.names if again.get(name) not in equal))
        own = set(again.values()) - equal
        self._sharing = defaultdict[str, list[str]](list)  # by parameter: those that share its weights
        for name, source in tied.items():
            if _parent(name) not in own:
                self._sharing[source].append(name)
        self._experts: defaultdict[str, dict[str, Packed]] = defaultdict(dict)  # by module: whole stacks
        self._single: defaultdict[tuple[str, str], dict[int, Packed]] = defaultdict(dict)  # experts stored one by one
        self.unexpected: list[str] = []
        self.mismatched: list[str] = []

    def load(self) -> None:
        for name in list(self._left):
            if self._tensors.kind(name) in _PACKED_TYPES and not _IGNORED.fullmatch(name) and name in self._left:
                self._take_packed(name)
        self._place_experts()
        for name in self._left:
            if not _IGNORED.fullmatch(name):
                self._take_plain(name)
        for module in self._model.modules():
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = buffer.to(self._target.device)

    def _take_packed(self, name: str) -> None:
        if name.endswith(_OF_SCALE):  # its values would have been taken before
            raise CheckpointBroken(f"{self._tensors.folder}: {name}: scales of weights that are missing or not packed")
        base = name.removesuffix(next(ending for ending in _OF_DATA if name.endswith(ending)))
        matrix = self._matrix(name, base)
        one, several = _EXPERT.fullmatch(base), _EXPERTS.fullmatch(base)
        if one is not None:
            self._single[one["experts"], one["part"]][int(one["number"])] = matrix
        elif several is not None:
            self._experts[several["experts"]][several["part"]] = matrix
        elif not self._place_linear(base, matrix):
            self.unexpected.append(name)

    def _matrix(self, name: str, base: str) -> Packed:
        """A packed matrix with its parts, which are taken from those that are left."""
        del self._left[name]
        data, scale = self._tensors.read(name), self._part(base, _OF_SCALE)
        if scale is None:
            raise CheckpointForeign(f"{self._tensors.folder}: {name} has no scales")
        factor, divisor = self._part(base, _OF_FACTOR), self._part(base, _OF_DIVISOR)
        if divisor is not None:
            factor = 1.0 / divisor.to(torch.float32)
        if data.dtype == torch.uint8 and (factor is None or scale.dtype != torch.float8_e4m3fn):
            raise CheckpointForeign(
                f"{self._tensors.folder}: {name} is not stored as NVFP4 is, with two levels of scales"
            )
        return self._shaped(name, data, scale, factor).to(self._target.device)

    def _part(self, base: str, endings: tuple[str, ...]) -> torch.Tensor | None:
        """Scales of a matrix, in some type of floats."""
        for name in (base + ending for ending in endings):
            if name in self._left:
                del self._left[name]
                found = self._tensors.read(name)
                if not found.is_floating_point():
                    raise CheckpointForeign(f"{self._tensors.folder}: {name} is stored as {found.dtype}, not as floats")
                return found
        return None

    def _shaped(self, name: str, data: torch.Tensor, scale: torch.Tensor, factor: torch.Tensor | None) -> Packed:
        """With scales [..., row blocks, column blocks]."""
        where = f"{self._tensors.folder}: {name} {list(data.shape)}"
        if not all(each.float().isfinite().all() for each in (scale, factor) if each is not None):
            raise CheckpointBroken(f"{where} has scales that are not finite")
        if data.dim() not in (2, 3) or not data.numel():
            raise CheckpointForeign(f"{where} is packed, but neither a matrix nor a stack of matrices")
        given, (*leading, rows, columns) = list(scale.shape), data.shape
        columns *= 2 if data.dtype == torch.uint8 else 1
        if scale.numel() == 1:
            scale = scale.reshape((1,) * data.dim()).expand(*leading, 1, 1)
        elif scale.dim() == data.dim() - 1 and (scale.dim() == 1 or len(scale) == len(data)):
            scale = scale.reshape(*leading, -1, 1)
        block = self._block_of(rows, columns, scale) if list(scale.shape[:-2]) == leading else None
        if block is None or (data.dtype == torch.uint8 and block != (1, FP4_GROUP)):
            raise CheckpointForeign(f"{where} cannot have scales of the shape {given}")
        if factor is not None:
            if factor.numel() not in (1, len(data)):
                raise CheckpointForeign(f"{where} cannot have second scales of the shape {list(factor.shape)}")
            factor = factor.to(torch.float32).reshape(-1, *(1,) * (data.dim() - 1))
        return Packed(data, scale.contiguous(), factor, block)

    def _block_of(self, rows: int, columns: int, scale: torch.Tensor) -> tuple[int, int] | None:
        """Rows and columns of a scale; None if the shapes do not fit. The last block may be shorter than declared."""
        sides = []
        for size, blocks, side in zip((rows, columns), scale.shape[-2:], self._block or (0, 0), strict=True):
            if side and -(-size // side) == blocks:
                sides.append(side)
            elif blocks and size % blocks == 0:
                sides.append(size // blocks)
            else:
                return None
        return sides[0], sides[1]

    def _place_linear(self, base: str, matrix: Packed) -> bool:
        """Replace a linear layer, and the encoder's that shares its weights; false if there is none."""
        weight = f"{base}.weight"
        layer = self._module(base)
        if not isinstance(layer, nn.Linear | PackedLinear):
            return False
        own = layer.matrix.shape if isinstance(layer, PackedLinear) else tuple(layer.weight.shape)
        if own != matrix.shape:
            self.mismatched.append(weight)
        elif self._target.unpack:
            self._set(weight, nn.Parameter(matrix.unpacked(self._target.dtype), requires_grad=False))
        else:
            packed = PackedLinear(matrix)
            for name in (weight, *self._sharing[weight]):
                parent, _, leaf = name.removesuffix(".weight").rpartition(".")
                setattr(self._model.get_submodule(parent), leaf, packed)
        return True

    def _place_experts(self) -> None:
        for experts, part in list(self._single):
            if part == "down":
                self._experts[experts]["down"] = self._stack(experts, "down")
            elif part == "gate":
                gate, up = self._single.pop((experts, "gate")), self._single.pop((experts, "up"), {})
                if gate.keys() != up.keys():
                    raise CheckpointBroken(f"{self._tensors.folder}: {experts} lacks gate_proj or up_proj of an expert")
                self._refuse_mixed(experts, [*gate.values(), *up.values()])
                self._single[experts, "gate_up"] = {each: joined(gate[each], up[each]) for each in gate}
                self._experts[experts]["gate_up"] = self._stack(experts, "gate_up")
        for name, parts in self._experts.items():
            self._replace_experts(name, parts)
        if self._experts and not self._target.unpack:
            self._model.set_experts_implementation(PACKED_EXPERTS)

    def _stack(self, experts: str, part: str) -> Packed:
        found = self._single.pop((experts, part))
        if sorted(found) != list(range(len(found))) or not found:
            raise CheckpointBroken(f"{self._tensors.folder}: {experts} lacks {part}_proj of some experts")
        self._refuse_mixed(experts, found.values())
        return stacked([found[number] for number in range(len(found))])

    def _refuse_mixed(self, experts: str, matrices: Iterable[Packed]) -> None:
        """Matrices become one if they have one layout."""
        if len({(each.data.dtype, each.data.shape, each.block, each.factor is None) for each in matrices}) > 1:
            raise CheckpointForeign(f"{self._tensors.folder}: {experts} are not all packed in the same way")

    def _replace_experts(self, name: str, parts: dict[str, Packed]) -> None:
        own = self._module(name)
        for part in ("gate_up", "down"):
            parameter = getattr(own, f"{part}_proj", None)
            if parameter is None or part not in parts or parts[part].shape != tuple(parameter.shape):
                self.mismatched.append(f"{name}.{part}_proj")
                return
        if self._target.unpack:
            for part in list(parts):  # one by one: memory is that of the unpacked ones and one packed
                matrix = parts.pop(part).unpacked(self._target.dtype)
                self._set(f"{name}.{part}_proj", nn.Parameter(matrix, requires_grad=False))
            return
        for module in (name, *(each.rpartition(".")[0] for each in self._sharing[f"{name}.down_proj"])):
            pack_experts(self._model.get_submodule(module), parts["gate_up"], parts["down"])

    def _take_plain(self, name: str) -> None:
        path, _, leaf = name.rpartition(".")
        module = self._module(path)
        own = None if module is None else {**module._parameters, **module._buffers}.get(leaf)
        if own is None:
            self.unexpected.append(name)
            return
        value = self._tensors.read(name)
        value = value.to(self._target.device, self._target.dtype if value.is_floating_point() else value.dtype)
        if own.shape != value.shape:
            self.mismatched.append(name)
        elif isinstance(own, nn.Parameter):
            self._set(name, nn.Parameter(value, requires_grad=False))
        else:
            module._buffers[leaf] = value  # type: ignore[union-attr]

    def _module(self, name: str) -> nn.Module | None:
        try:
            found: nn.Module = self._model.get_submodule(name)
        except AttributeError:
            return None
        return found

    def _set(self, name: str, parameter: nn.Parameter) -> None:
        """Set a parameter, and those that share its weights."""
        for each in (name, *self._sharing[name]):
            path, _, leaf = each.rpartition(".")
            self._model.get_submodule(path)._parameters[leaf] = parameter


def _stored_again(tensors: _Tensors, sources: Mapping[str, str]) -> tuple[dict[str, str], set[str]]:
    """The tensors of modules that share the weights of others, `sources`, by name; and those modules of them whose
    tensors all equal those of their source. Others keep weights of their own."""
    again: dict[str, str] = {}
    for name in tensors.names:
        module = _parent(name)
        while module and module not in sources:  # one expert is below the module of all
            module = _parent(module)
        if module and not _IGNORED.fullmatch(name):
            again[name] = module
    differ = set[str]()
    for name, module in again.items():
        first = sources[module] + name.removeprefix(module)
        if module not in differ and not (first in tensors.files and _is_equal(tensors.read(name), tensors.read(first))):
            differ.add(module)
    return again, set(again.values()) - differ


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def _is_equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Of the same type, shape and bytes: not all types can be compared."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8))
