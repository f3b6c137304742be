"""Counts where the host would wait for the device, on a CPU, where nothing ever waits.

With an accelerator, passes are queued and the host runs ahead until it reads a value, which waits for everything queued
before. A blocking upload (`torch.tensor(numbers, device=...)`) waits as well: the copy is made from memory that is not
pinned, so torch first waits for the stream. `counted_syncs` records both, with their source lines.

Every device is the CPU here, so tensors are tracked by their origin: a tensor is on the host if it was created without
a device, fetched with `cpu()`, or computed from such tensors only. All others count as remote.
"""

import contextlib
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# Seen from Python: on the CPU they reach no operator at all.
_READING_METHODS = frozenset({"tolist", "cpu", "numpy", "__array__"})
# Operators whose result, or its shape, must be known to the host.
_READING_OPERATORS = frozenset(
    {"_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "unique_dim", "unique_consecutive"}
)
_MAKING_FROM_NUMBERS = frozenset({"tensor", "as_tensor", "new_tensor"})
_MAKING = frozenset({"arange", "zeros", "ones", "empty", "full", "rand", "randint", "from_numpy"})
_PRODUCT = "diffusion_worker"


@dataclass(slots=True)
class Syncs:
    """Location -> number of syncs. A location is `file:line what`."""

    decodes: Counter[str] = field(default_factory=Counter)
    uploads: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        rows = [*(("read", *row) for row in self.decodes.items()), *(("upload", *row) for row in self.uploads.items())]
        return "\n".join(f"{count:>4} x {kind} at {place}" for kind, place, count in rows) or "none"


@contextlib.contextmanager
def counted_syncs() -> Iterator[Syncs]:
    """Count all syncs within the block; the counts can be read within it and afterwards."""
    syncs, host = Syncs(), _Host()
    with _Methods(syncs, host), _Operators(syncs, host):
        yield syncs


class _Host:
    """The tensors known to be on the host. They are kept alive, so that no id is used twice."""

    def __init__(self) -> None:
        self._tensors: dict[int, torch.Tensor] = {}

    def __contains__(self, tensor: torch.Tensor) -> bool:
        return id(tensor) in self._tensors

    def take(self, made: Any) -> None:
        for tensor in _tensors(made):
            self._tensors[id(tensor)] = tensor

    def drop(self, moved: Any) -> None:
        """On the CPU, moving a tensor to the device returns the same object."""
        for tensor in _tensors(moved):
            self._tensors.pop(id(tensor), None)


class _Methods(TorchFunctionMode):
    """Intercepts Python's operations on tensors."""

    def __init__(self, syncs: Syncs, host: _Host) -> None:
        super().__init__()
        self._syncs, self._host = syncs, host

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        given = list(_tensors((args, kwargs)))
        is_remote = any(tensor not in self._host for tensor in given)
        if name in _READING_METHODS and is_remote:
            self._syncs.decodes[_place(name)] += 1
        if self._is_blocking_upload(name, args, kwargs, is_remote=is_remote):
            self._syncs.uploads[_place(name)] += 1
        made = func(*args, **kwargs)
        if name == "cpu" or self._stays(name, kwargs, given, is_remote=is_remote):
            self._host.take(made)
        elif _moves(name, args, kwargs):
            self._host.drop(made)
        return made

    def _is_blocking_upload(
        self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, is_remote: bool
    ) -> bool:
        if name in _MAKING_FROM_NUMBERS:
            return kwargs.get("device") is not None or name == "new_tensor"
        if name in ("__getitem__", "__setitem__") and args[0] not in self._host:
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            return any(isinstance(part, list) or (_is_tensor(part) and part in self._host) for part in index)
        return _moves(name, args, kwargs) and not is_remote and not kwargs.get("non_blocking", False)

    def _stays(self, name: str, kwargs: Mapping[str, Any], given: list[torch.Tensor], *, is_remote: bool) -> bool:
        """Whether the result is on the host."""
        if name in _MAKING or name in _MAKING_FROM_NUMBERS:
            return kwargs.get("device") is None and not given
        return bool(given) and not is_remote and name not in ("to", "cuda")


class _Operators(TorchDispatchMode):
    """Intercepts operators, also those called by the library."""

    def __init__(self, syncs: Syncs, host: _Host) -> None:
        super().__init__()
        self._syncs, self._host = syncs, host

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        # In inference mode, operators arrive undecomposed that are decomposed outside it.
        with self:
            parts = func.decompose(*args, **(kwargs or {}))
        if parts is not NotImplemented:
            return parts
        name = func.overloadpacket.__name__
        if any(tensor not in self._host for tensor in _tensors(args)) and _reads(name, args):
            self._syncs.decodes[_place(name)] += 1
        return func(*args, **(kwargs or {}))


def _moves(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    named = [*args[1:], kwargs.get("device")]
    return name == "cuda" or (name == "to" and any(isinstance(part, str | torch.device) for part in named))


def _reads(name: str, args: tuple[Any, ...]) -> bool:
    """Also a boolean index: the shape of the result depends on the number of selected elements."""
    if name in ("index", "index_put", "index_put_"):
        return any(part.dtype == torch.bool for part in args[1] if part is not None)
    return name in _READING_OPERATORS


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if _is_tensor(value):
        yield value
    elif isinstance(value, Mapping):
        yield from _each(value.values())
    elif isinstance(value, list | tuple):
        yield from _each(value)


def _each(values: Iterable[Any]) -> Iterator[torch.Tensor]:
    for value in values:
        yield from _tensors(value)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def _place(what: str) -> str:
    """The innermost line of the product on the stack, else the innermost line outside of this module and torch."""
    frame: FrameType | None = sys._getframe(1)
    unknown_instruction = ""
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if _PRODUCT in path.parts:
            inside = "/".join(path.parts[len(path.parts) - path.parts[::-1].index(_PRODUCT) :])
            return f"{inside}:{frame.f_lineno} {what}{unknown_instruction}"
        if not unknown_instruction and "torch" not in path.parts and path.name != Path(__file__).name:
            unknown_instruction = f" (in {path.name}:{frame.f_lineno})"
        frame = frame.f_back
    return what + unknown_instruction
