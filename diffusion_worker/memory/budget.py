"""The memory budget: bytes per context, and how many contexts fit next to the weights.

Plain arithmetic over shapes, done before any tensor exists.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from diffusion_worker.errors import BadSetting
from diffusion_worker.types.model_info import LayerKv, ModelSize

ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_CONTEXTS = (1024, 8192, 32768)  # tokens; listed in a plan besides the longest context


def tokens_kept(layer: LayerKv, tokens: int) -> int:
    """Number of the `tokens` context tokens that a layer caches. A sliding-window layer keeps window - 1, because the
    attending token is itself part of the window."""
    return tokens if layer.window is None else min(layer.window - 1, tokens)


def context_bytes(layers: Sequence[LayerKv], tokens: int, itemsize: int) -> int:
    """Bytes of keys and values of one context of `tokens` tokens."""
    return sum(2 * layer.heads * layer.head_dim * tokens_kept(layer, tokens) for layer in layers) * itemsize


def fit_slots(wanted: int, *, slot_bytes: int, free_bytes: int) -> int:
    """At most `wanted` slots, as many as fit in `free_bytes`. Raises BadSetting if not even one fits."""
    fitting = min(wanted, free_bytes // slot_bytes)
    if fitting < 1:
        raise BadSetting(
            f"the memory limit leaves {max(free_bytes, 0)} bytes after the weights; one context needs {slot_bytes}"
        )
    return fitting


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextPlan:
    """Memory of contexts of one length. Every slot is sized for the longest context, so `slots` applies to a worker
    whose --max-context is `tokens`."""

    tokens: int
    kv_bytes: int
    slots: int | None  # that fit next to the weights; None: no memory limit was given


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Memory plan of a model: weights and contexts, without activations."""

    parameters: int
    active_parameters: int
    canvas_length: int
    dtype: str  # of weights and contexts
    quantised: str | None  # method of the stored weights
    weight_bytes: dict[str, int]  # by dtype, unquantised
    stored_weight_bytes: int | None  # as declared, the rest in `dtype`; None: not quantised, or bits not declared
    kv_bytes_per_token: int  # while no sliding window is full
    kv_bytes_per_further_token: int  # once all sliding windows are full
    memory_limit_bytes: int | None
    contexts: tuple[ContextPlan, ...]  # shortest first


def plan(
    size: ModelSize, *, dtype: str = "auto", memory_limit_bytes: int | None = None, max_context: int | None = None
) -> Plan:
    """The memory plan of a model, by the arithmetic that a starting worker uses. Raises BadSetting for an unknown
    dtype, or if `max_context` exceeds the model's context length."""
    dtype = _dtype(size, dtype)
    longest = size.max_context if max_context is None else max_context
    if not 1 <= longest <= size.max_context:
        raise BadSetting(
            f"--max-context: {longest} must be between 1 and {size.max_context}, the model's context length"
        )
    item = ITEM_BYTES[dtype]
    stored = _stored_bytes(size, item)
    weights = size.parameters * item if stored is None else stored
    free = None if memory_limit_bytes is None else memory_limit_bytes - weights
    return Plan(
        parameters=size.parameters,
        active_parameters=size.active_parameters,
        canvas_length=size.canvas_length,
        dtype=dtype,
        quantised=size.quantised.method if size.quantised else None,
        weight_bytes={name: size.parameters * ITEM_BYTES[name] for name in ITEM_BYTES},
        stored_weight_bytes=stored,
        kv_bytes_per_token=context_bytes(size.kv_layers, 1, item),
        kv_bytes_per_further_token=context_bytes([y for y in size.kv_layers if y.window is None], 1, item),
        memory_limit_bytes=memory_limit_bytes,
        contexts=tuple(
            _context(size.kv_layers, tokens, item, free)
            for tokens in sorted({longest, *(usual for usual in _CONTEXTS if usual < longest)})
        ),
    )


def _stored_bytes(size: ModelSize, item: int) -> int | None:
    packed = size.quantised
    if packed is None or packed.bits is None:
        return None
    return (size.parameters - packed.parameters) * item + math.ceil(packed.parameters * packed.bits / 8)


def _dtype(size: ModelSize, wanted: str) -> str:
    dtype = size.dtype if wanted == "auto" else wanted
    if dtype is None:
        raise BadSetting("--dtype: the config does not declare a dtype; set one")
    if dtype not in ITEM_BYTES:
        raise BadSetting(f"--dtype: unsupported dtype {dtype!r} (choose from {', '.join(ITEM_BYTES)})")
    return dtype


def _context(layers: Sequence[LayerKv], tokens: int, item: int, free_bytes: int | None) -> ContextPlan:
    taken = context_bytes(layers, tokens, item)
    slots = None if free_bytes is None else max(0, free_bytes // taken) if taken else 0
    return ContextPlan(tokens=tokens, kv_bytes=taken, slots=slots)
