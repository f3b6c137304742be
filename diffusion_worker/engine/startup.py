"""Opens a loop on a loaded model: plans its memory, warms up, and plans again if a step needs more than computed."""

import sys
import time
from collections.abc import Callable

from diffusion_worker.engine.loop import Capacity, Gauge, Loop, plan_of
from diffusion_worker.errors import BadSetting, CheckpointBroken, DeviceFailed, SequenceFailed
from diffusion_worker.memory.kv_cache import CacheDamaged
from diffusion_worker.memory.lifecycle import release_cached
from diffusion_worker.memory.serving_plan import ServingPlan
from diffusion_worker.models.device_errors import is_fatal, is_out_of_memory
from diffusion_worker.models.interface import DiffusionModel
from diffusion_worker.types.observations import Observer, StartObserved, StartPhase

GROWTH = 1.25  # of the expected peak, after a warm-up without enough memory


def open_loop(
    model: DiffusionModel, capacity: Capacity, observe: Observer | None = None, gauge: Gauge | None = None
) -> Loop:
    """A loop whose largest step has been tried. If a step takes more memory than computed, the context, and with a
    configured context the batch, is reduced until it fits.

    Raises BadSetting if nothing fits or a kernel is missing, CheckpointBroken if rows of the step fail, or
    DeviceFailed.
    """

    def plan(scale: float) -> ServingPlan:
        return plan_of(model, capacity, step_scale=scale)

    scale, current = 1.0, plan(1.0)
    began, compiled = time.monotonic(), _compile_seconds()
    while True:
        loop, peak = _try(model, capacity, observe, gauge, current)
        scale, refined = replan(plan, scale, current, peak)
        if loop is not None and same_sizes(refined, current):
            compiling = _compile_seconds() - compiled
            warming = max(0.0, time.monotonic() - began - compiling)
            for phase, seconds in ((StartPhase.COMPILE, compiling), (StartPhase.WARM_UP, warming)):
                (observe or _ignore)(StartObserved(phase=phase, seconds=seconds))
            return loop
        loop, current = None, refined
        release_cached()


def replan(
    plan: Callable[[float], ServingPlan], scale: float, current: ServingPlan, peak: int | None
) -> tuple[float, ServingPlan]:
    """(scale of the computed peak, plan) after a warm-up with the `current` plan measured `peak` bytes; None: it ran
    out of memory, so that the plan must become smaller. The larger of the computed and the measured peak counts."""
    if peak is not None:
        scale *= max(1.0, peak / max(1, current.step_bytes))
        return scale, plan(scale)
    refined = current
    while same_sizes(refined, current):
        scale *= GROWTH
        refined = plan(scale)
    return scale, refined


def same_sizes(one: ServingPlan, other: ServingPlan) -> bool:
    """Whether two plans allocate the same."""
    return (one.max_context, one.max_num_seqs, one.slots) == (other.max_context, other.max_num_seqs, other.slots)


def _try(
    model: DiffusionModel, capacity: Capacity, observe: Observer | None, gauge: Gauge | None, plan: ServingPlan
) -> tuple[Loop | None, int | None]:
    """(loop, peak of its warm-up); no loop if memory ran out."""
    try:
        loop = Loop(model, capacity, observe, gauge, plan)
        return loop, loop.warm_up() or 0
    except SequenceFailed as error:
        raise CheckpointBroken(f"the warm-up step failed: {error}") from error
    except (RuntimeError, MemoryError, ImportError, CacheDamaged) as error:
        if is_out_of_memory(error):
            return None, None
        if is_fatal(error):
            raise DeviceFailed(f"the device failed in the warm-up step: {error}", retry_after_s=1.0) from error
        raise BadSetting(f"the warm-up step failed: {type(error).__name__}: {error}") from error


def _compile_seconds() -> float:
    """Seconds that this process has spent in `torch.compile`; 0 while nothing was compiled."""
    if "torch._dynamo" not in sys.modules:
        return 0.0
    from torch._dynamo.utils import compilation_time_metrics

    return sum(compilation_time_metrics.get("_compile.compile_inner", ()))


def _ignore(_observation: object) -> None:
    pass
