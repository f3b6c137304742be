"""Counts what torch dispatches, also on `meta`: operations that launch a kernel, and the bytes that they move.

A fused operation of the worker counts as one kernel, as on an accelerator that compiles it. Bytes are those of all
inputs and outputs; operations that index a tensor touch as much of it as they return or are given.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

# Views are recognised by their schema; these create or rename tensors without a kernel.
_WITHOUT_KERNEL: Final = frozenset(
    {"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided"}
    | {"detach", "detach_", "_unsafe_view", "lift_fresh"}
)
_READING_PARTS: Final = frozenset({"gather", "index", "index_select", "embedding", "grouped_scores"})
_WRITING_PARTS: Final = frozenset({"index_put_", "scatter_", "index_copy_", "index_fill_", "_index_put_impl_"})


class DispatchCounts(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """`launches` by operation on a device, and `moved` bytes; those of the `apart` tensors, as a word table, are
    not counted."""

    def __init__(self, device: str, apart: Iterable[torch.Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._device = device
        self.launches: Counter[str] = Counter()
        self.bytes_by_operation: Counter[str] = Counter()
        self._apart = {tensor.untyped_storage()._cdata for tensor in apart}

    @property
    def moved(self) -> int:
        """Bytes read and written."""
        return self.bytes_by_operation.total()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        is_kernel = name not in _WITHOUT_KERNEL and not (func.is_view and _is_alias(result, args))
        if is_kernel and self._is_there(result, args):
            self.launches[name] += 1
            self.bytes_by_operation[name] += self._moved(name, args, result)
        return result

    def _is_there(self, *trees: Any) -> bool:
        return any(isinstance(each, torch.Tensor) and each.device.type == self._device for each in tree_iter(trees))

    def _moved(self, name: str, args: Any, result: Any) -> int:
        read, written = self._bytes(args), self._bytes(result)
        if name in _READING_PARTS:
            return 2 * written + self._bytes(args[1:])
        if name in _WRITING_PARTS:
            return 2 * self._bytes(args[1:])
        return read + (written or self._mutated(args))

    def _bytes(self, tree: Any) -> int:
        tensors = (each for each in tree_iter(tree) if isinstance(each, torch.Tensor))
        return sum(_size(each) for each in tensors if each.untyped_storage()._cdata not in self._apart)

    def _mutated(self, args: Any) -> int:
        """An operation without results writes to its first argument."""
        return self._bytes(args[:1])


def _is_alias(result: Any, args: Any) -> bool:
    """Whether an operation returned views; one that may, such as `reshape`, otherwise copies."""
    inputs = {each.untyped_storage()._cdata for each in tree_iter(args) if isinstance(each, torch.Tensor)}
    return all(each.untyped_storage()._cdata in inputs for each in tree_iter(result) if isinstance(each, torch.Tensor))


def _size(tensor: torch.Tensor) -> int:
    """Bytes that a tensor's elements occupy; an expanded one repeats them."""
    numbers = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        numbers *= size if stride else 1
    return numbers * tensor.element_size()
