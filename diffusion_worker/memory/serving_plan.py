"""Decides context length, batch size and number of KV-cache slots from the memory of the device.

Weights, the slots of a full batch, the peak of a step with that batch and a reserve must fit. Plain arithmetic.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from diffusion_worker.errors import BadSetting
from diffusion_worker.memory.budget import context_bytes
from diffusion_worker.memory.pressure import HYSTERESIS, THRESHOLDS
from diffusion_worker.memory.step_memory import StepWork, step_bytes
from diffusion_worker.types.model_info import LayerKv, StepShape
from diffusion_worker.types.status import Pressure

# Context lengths in tokens, of which the longest that fits is the default.
DEFAULT_CONTEXTS: Final = (131_072, 65_536, 32_768, 16_384, 8_192)
# Share of the memory that stays free: the device's own context, workspaces of its libraries, and fragmentation.
RESERVE: Final = 0.08
# The prefix cache may fill the memory up to this share only: above it, memory pressure would evict it again.
PREFIX_SHARE: Final = THRESHOLDS[Pressure.PREFIX_CACHE] - HYSTERESIS


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelMemory:
    """Sizes of a model that determine its memory. `itemsize`: bytes of a value of contexts and activations."""

    kv_layers: Sequence[LayerKv]
    step: StepShape
    itemsize: int
    weight_bytes: int
    max_context: int  # tokens
    canvas_length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What is to be served. `max_context`: None selects the default. `spare_slots` never hold a context."""

    max_num_seqs: int
    prefix_slots: int
    max_prefill_tokens: int
    max_context: int | None = None
    spare_slots: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingPlan:
    """What fits. `step_bytes` is the peak of a step beside weights and slots."""

    max_context: int
    max_num_seqs: int
    slots: int  # for running sequences and the prefix cache
    step_bytes: int
    memory_limit_bytes: int


def default_contexts(longest: int) -> tuple[int, ...]:
    """The context lengths to try, longest first; none exceeds `longest`, the model's own."""
    return tuple(dict.fromkeys(min(context, longest) for context in DEFAULT_CONTEXTS))


def plan_serving(model: ModelMemory, demand: Demand, limit_bytes: int, *, step_scale: float = 1.0) -> ServingPlan:
    """The plan with the longest default context, or with the demanded one, for which fewer sequences may run together.

    `step_scale` multiplies the computed peak of a step, after a warm-up has measured a larger one. Raises BadSetting if
    nothing fits, naming the settings.
    """
    rows = demand.max_num_seqs
    if demand.max_context is None:
        choices = [(context, rows) for context in default_contexts(model.max_context)]
    else:
        context = min(demand.max_context, model.max_context)
        choices = [(context, fewer) for fewer in range(rows, 0, -1)]
    for context, together in choices:
        if found := _plan(model, demand, limit_bytes, step_scale, context=context, rows=together):
            return found
    raise BadSetting(_refusal(model, demand, limit_bytes, step_scale, *choices[-1]))


def slots_that_fit(model: ModelMemory, context: int, limit_bytes: int, step: int) -> int:
    """Number of slots next to the weights, a step of `step` bytes and the reserve."""
    return max(
        0, (_beside_weights(model, limit_bytes) - step) // context_bytes(model.kv_layers, context, model.itemsize)
    )


def _plan(
    model: ModelMemory, demand: Demand, limit_bytes: int, step_scale: float, *, context: int, rows: int
) -> ServingPlan | None:
    slot, step = _needs(model, demand, step_scale, context=context, rows=rows)
    fitting = slots_that_fit(model, context, limit_bytes, step) - demand.spare_slots
    if fitting < rows:
        return None
    prefix_room = int(limit_bytes * PREFIX_SHARE) - model.weight_bytes - (rows + demand.spare_slots) * slot
    prefix = min(demand.prefix_slots, fitting - rows, max(0, prefix_room // slot))
    return ServingPlan(
        max_context=context,
        max_num_seqs=rows,
        slots=rows + prefix,
        step_bytes=step,
        memory_limit_bytes=limit_bytes,
    )


def _needs(model: ModelMemory, demand: Demand, step_scale: float, *, context: int, rows: int) -> tuple[int, int]:
    """(bytes of a slot, peak bytes of a step)."""
    work = StepWork(
        rows=rows, context=context, canvas_length=model.canvas_length, max_prefill_tokens=demand.max_prefill_tokens
    )
    step = step_bytes(model.kv_layers, model.step, work, model.itemsize)
    return context_bytes(model.kv_layers, context, model.itemsize), int(step * step_scale)


def _beside_weights(model: ModelMemory, limit_bytes: int) -> int:
    return int(limit_bytes * (1.0 - RESERVE)) - model.weight_bytes


def _refusal(model: ModelMemory, demand: Demand, limit_bytes: int, step_scale: float, context: int, rows: int) -> str:
    slot, step = _needs(model, demand, step_scale, context=context, rows=rows)
    room = max(0, _beside_weights(model, limit_bytes))
    return (
        f"out of memory: {limit_bytes} bytes, less {RESERVE:.0%} reserve and {model.weight_bytes} for the weights, "
        f"leave {room}; {rows} sequences of {context} tokens need {(rows + demand.spare_slots) * slot} for contexts "
        f"and {step} for a step (lower --max-num-seqs, --max-context or --max-prefill-tokens; "
        f"raise --memory-limit-bytes)"
    )
