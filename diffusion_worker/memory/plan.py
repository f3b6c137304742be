"""The memory plan of a model from its config alone: weights, contexts and steps, before any tensor exists."""

import math
from dataclasses import dataclass

from diffusion_worker.errors import BadSetting
from diffusion_worker.memory.budget import context_bytes
from diffusion_worker.memory.serving_plan import (
    DEFAULT_CONTEXTS,
    RESERVE,
    Demand,
    ModelMemory,
    plan_serving,
    slots_that_fit,
)
from diffusion_worker.memory.step_memory import StepWork, step_bytes
from diffusion_worker.types.model_info import ModelSize

ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_CONTEXTS = (1024, *DEFAULT_CONTEXTS)  # tokens; listed in a plan besides the longest context


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextPlan:
    """Memory of contexts of one length. Every slot is sized for the longest context, so `step_bytes` and `slots` apply
    to a worker whose --max-context is `tokens`."""

    tokens: int
    kv_bytes: int
    step_bytes: int  # peak of a step with `max_num_seqs` rows
    slots: int | None  # that fit next to weights, step and reserve; None: no memory limit was given


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Memory plan of a model."""

    parameters: int
    active_parameters: int
    canvas_length: int
    dtype: str  # of weights and contexts
    quantised: str | None  # method of the stored weights
    weight_bytes: dict[str, int]  # by dtype, unquantised
    stays_packed: bool  # in memory, too
    stored_weight_bytes: int | None  # as declared, the rest in `dtype`; None: not quantised, or bits not declared
    kv_bytes_per_token: int  # while no sliding window is full
    kv_bytes_per_further_token: int  # once all sliding windows are full
    memory_limit_bytes: int | None
    reserve_bytes: int | None  # of the limit
    max_num_seqs: int
    max_prefill_tokens: int
    default_context: int | None  # that a worker selects; None: no memory limit was given, or nothing fits
    contexts: tuple[ContextPlan, ...]  # shortest first


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOptions:
    """What to plan for; the defaults are those of the worker."""

    dtype: str = "auto"
    memory_limit_bytes: int | None = None
    max_context: int | None = None
    max_num_seqs: int = 8
    max_prefill_tokens: int = 2048


def plan(size: ModelSize, options: PlanOptions | None = None) -> Plan:
    """The memory plan of a model, by the arithmetic that a starting worker uses. Raises BadSetting for an unknown
    dtype, or if `max_context` exceeds the model's context length."""
    options = options or PlanOptions()
    dtype, limit = _dtype(size, options.dtype), options.memory_limit_bytes
    longest = size.max_context if options.max_context is None else options.max_context
    if not 1 <= longest <= size.max_context:
        raise BadSetting(
            f"--max-context: {longest} must be between 1 and {size.max_context}, the model's context length"
        )
    item = ITEM_BYTES[dtype]
    stored = _stored_bytes(size, item)
    model = ModelMemory(
        kv_layers=size.kv_layers,
        step=size.step,
        itemsize=item,
        weight_bytes=size.parameters * item if stored is None else stored,
        max_context=size.max_context,
        canvas_length=size.canvas_length,
    )
    return Plan(
        parameters=size.parameters,
        active_parameters=size.active_parameters,
        canvas_length=size.canvas_length,
        dtype=dtype,
        quantised=size.quantised.method if size.quantised else None,
        stays_packed=size.quantised is not None and size.quantised.stays_packed,
        weight_bytes={name: size.parameters * ITEM_BYTES[name] for name in ITEM_BYTES},
        stored_weight_bytes=stored,
        kv_bytes_per_token=context_bytes(size.kv_layers, 1, item),
        kv_bytes_per_further_token=context_bytes([y for y in size.kv_layers if y.window is None], 1, item),
        memory_limit_bytes=limit,
        reserve_bytes=None if limit is None else math.ceil(limit * RESERVE),
        max_num_seqs=options.max_num_seqs,
        max_prefill_tokens=options.max_prefill_tokens,
        default_context=_default_context(model, options),
        contexts=tuple(
            _context(model, options, tokens)
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


def _default_context(model: ModelMemory, options: PlanOptions) -> int | None:
    if options.memory_limit_bytes is None:
        return None
    demand = Demand(max_num_seqs=options.max_num_seqs, prefix_slots=0, max_prefill_tokens=options.max_prefill_tokens)
    try:
        return plan_serving(model, demand, options.memory_limit_bytes).max_context
    except BadSetting:
        return None


def _context(model: ModelMemory, options: PlanOptions, tokens: int) -> ContextPlan:
    work = StepWork(
        rows=options.max_num_seqs,
        context=tokens,
        canvas_length=model.canvas_length,
        max_prefill_tokens=options.max_prefill_tokens,
    )
    step, limit = step_bytes(model.kv_layers, model.step, work, model.itemsize), options.memory_limit_bytes
    return ContextPlan(
        tokens=tokens,
        kv_bytes=context_bytes(model.kv_layers, tokens, model.itemsize),
        step_bytes=step,
        slots=None if limit is None else slots_that_fit(model, tokens, limit, step),
    )
