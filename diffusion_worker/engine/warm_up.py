"""The warm-up: a step of the largest batch on the worker's own cache, which shows that it fits in memory, steps of a
single row, and the reduction of a constrained row's logits; all kernels exist after them.
"""

from array import array
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Protocol, TypeVar

import torch

from diffusion_worker.constraints.inference.class_reduction import CHUNK
from diffusion_worker.denoise.class_scores import chunk_sums
from diffusion_worker.denoise.exact import Padding
from diffusion_worker.denoise.passes import Outcome
from diffusion_worker.denoise.stepper import Stepper
from diffusion_worker.engine.limits import Limits
from diffusion_worker.errors import CheckpointBroken
from diffusion_worker.memory.kv_cache import KvCache
from diffusion_worker.models.interface import DiffusionModel
from diffusion_worker.types.model_info import ModelInfo
from diffusion_worker.types.requests import Penalties, Truncation
from diffusion_worker.types.step_batch import Batch, Decode, Denoise, PenaltyInputs, Prefill, Verify

Work = TypeVar("Work", Prefill, Denoise, Verify, Decode, Prefill | Decode)


def largest_batch(info: ModelInfo, limits: Limits) -> Batch:
    """For every row a sealed canvas, or as many prompt tokens as a step may have, a canvas behind them, a draft and a
    token to decode, each at the end of the longest context; tokens are sampled with all truncations, and with penalties
    that count the whole context. The rows use one slot each, in reverse order, so that their contexts are gathered."""
    slots = range(limits.max_num_seqs - 1, -1, -1)
    canvas = min(info.denoising.canvas_length, limits.max_context)
    seen = array("q", range(min(info.vocab_size, limits.max_context)))
    penalties = PenaltyInputs(penalties=Penalties(presence=0.1, frequency=0.1, repetition=1.1), prompt=seen)
    ends = {slot: max(1, limits.max_context - canvas - slot % 2) for slot in slots}  # unlike, so that masks are needed
    chunk = min(limits.prefill_chunk, ends[0])
    chunks = {slot: min(chunk, limits.max_prefill_tokens - chunk * slot, ends[slot]) for slot in slots}

    def prefill(slot: int) -> Prefill:
        tokens, is_seal = (chunks[slot], False) if chunks[slot] > canvas else (min(canvas, ends[slot]), True)
        ids = (info.vocab_size // 2,) * tokens
        return Prefill(sequence=slot, slot=slot, ids=ids, at=ends[slot] - tokens, is_seal=is_seal)

    return Batch(
        prefills=tuple(map(prefill, slots)),
        denoises=tuple(
            Denoise(
                sequence=slot,
                slot=slot,
                at=ends[slot],
                block=0,
                step=1,
                opens=True,
                denoising=info.denoising,
                seed=slot,
                temperature=0.7,
                truncation=Truncation(top_k=50, top_p=0.9, min_p=0.01),
                penalties=penalties,
            )
            for slot in slots
        ),
        verifications=tuple(_verification(slot, info, limits, canvas) for slot in slots),
        decodes=tuple(
            Decode(
                sequence=-1 - slot,
                slot=slot,
                ids=(info.vocab_size // 2,),
                at=limits.max_context - 1,
                seed=slot,
                penalties=penalties,
            )
            for slot in slots
        ),
    )


def single_row_batches(info: ModelInfo, limits: Limits) -> tuple[Batch, Batch]:
    """Two batches of one row, for which kernels may be compiled anew: the row of a largest batch, and a canvas with a
    pinned position, which is sampled by a temperature alone."""
    single = largest_batch(info, replace(limits, max_num_seqs=1))
    pinned = tuple(
        replace(item, truncation=None, penalties=None, pinned_prefix=(info.vocab_size // 2,))
        for item in single.denoises
    )
    return single, Batch(denoises=pinned)


def _verification(slot: int, info: ModelInfo, limits: Limits, canvas: int) -> Verify:
    return Verify(
        sequence=-1 - limits.max_num_seqs - slot,
        slot=slot,
        ids=(info.vocab_size // 2,),
        at=limits.max_context - canvas,
        seed=slot,
        drafted=canvas - 1,
        closes_with=canvas,
        given=(info.vocab_size // 2,) * (canvas - 1),
        temperature=0.7,
        truncation=Truncation(top_k=50, top_p=0.9, min_p=0.01),
    )


class PeakMeter(Protocol):
    """Measures the peak of allocated memory."""

    def start(self) -> None:
        """Begin to measure."""
        ...

    def peak(self) -> int:
        """Bytes allocated at most since the start, beyond those that were allocated then."""
        ...


class CudaPeak:
    """The peak of torch's allocator on a CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before = 0

    def start(self) -> None:
        """See `PeakMeter.start`."""
        torch.cuda.reset_peak_memory_stats(self._device)
        self._before = torch.cuda.memory_allocated(self._device)

    def peak(self) -> int:
        """See `PeakMeter.peak`."""
        return torch.cuda.max_memory_allocated(self._device) - self._before


def run_largest_step(
    model: DiffusionModel,
    cache: KvCache,
    limits: Limits,
    padding: Padding | None,
    meter: PeakMeter | None = None,
    watched: AbstractContextManager[None] | None = None,
) -> int | None:
    """Step `largest_batch`, its canvases without prefills, for which a pass of their own may be compiled, and
    `single_row_batches`, and leave the cache empty. Once all kernels exist, the largest batch is stepped again, within
    `watched`. Returns the peak that `meter` measured, in bytes. Raises the error of a pass, or CheckpointBroken if the
    model returns NaN."""
    stepper = _WholeStepper(model, cache, padding=padding)
    if meter is not None:
        meter.start()
    whole = largest_batch(model.info, limits)
    canvases = [Batch(denoises=whole.denoises)] if limits.is_mixed else []
    batches = (whole, *canvases, *single_row_batches(model.info, limits))
    faults = [fault for batch in batches for fault in stepper.step(batch).faults]
    _reduce_logits(model)
    if watched is not None:
        with watched:
            faults += stepper.step(whole).faults
    peak = None if meter is None else meter.peak()
    stepper.reset()
    if faults:
        raise CheckpointBroken(f"the warm-up step failed: {faults[0].error}")
    return peak


@torch.inference_mode()
def _reduce_logits(model: DiffusionModel) -> None:
    """The kernel that constrained rows need beside those of a step: no constraint is known yet, so for some tokens."""
    info, device = model.info, model.device
    logits = torch.zeros(info.denoising.canvas_length, info.vocab_size, dtype=model.dtype, device=device)
    tokens = torch.arange(2 * CHUNK, dtype=torch.int32, device=device).remainder(info.vocab_size).view(2, CHUNK)
    chunk_sums(logits, tokens, torch.ones(2, device=device), info.logit_cap)


class _WholeStepper(Stepper):
    """Does not repeat a failed pass row by row: each row alone would need less memory."""

    def _isolated(self, items: Sequence[Work], run: Callable[[Sequence[Work]], list[Outcome]]) -> list[Outcome]:
        return run(items)

    def _succeeds(self, run: Callable[[], None]) -> bool:
        run()
        return True
