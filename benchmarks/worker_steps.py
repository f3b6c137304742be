"""What one step of the worker costs at a number of rows, and how much of it is spent outside the model.

All row counts take turns, so that a noisy moment falls on all alike; figures are medians. A turn is a burst
of steps of which the first does not count: it would pay for the processor's caches that another row count has filled,
which makes one row look a tenth dearer and the ceiling for many rows too high.
"""

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from benchmarks.worker_requests import InstrumentedModel
from diffusion_worker.engine.loop import Capacity, Loop
from diffusion_worker.models.interface import DiffusionModel
from diffusion_worker.types.requests import GenerationRequest

ROWS: Final = (1, 2, 4, 8, 16)
BURSTS: Final = 9  # the first warms up and reads the prompts
BURST: Final = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCost:
    """One step at `rows` rows, in ms."""

    rows: int
    step_ms: float
    model_ms: float
    outside: float  # share of the step not spent in the model

    @property
    def row_ms(self) -> float:
        """Per row."""
        return self.step_ms / self.rows


def step_costs(model: DiffusionModel, requests: Sequence[GenerationRequest]) -> dict[int, StepCost]:
    """Rows -> cost of a step of the loop with that many canvases running."""
    stepped = {rows: _steps(model, requests, rows) for rows in ROWS}
    timings: dict[int, list[tuple[float, float]]] = {rows: [] for rows in ROWS}
    for burst in range(BURSTS):
        for rows, steps in stepped.items():
            taken = [next(steps) for _ in range(BURST)]
            if burst > 0:
                timings[rows] += taken[1:]
    return {rows: cost_of(rows, timings[rows]) for rows in ROWS}


def cost_of(rows: int, timings: Sequence[tuple[float, float]]) -> StepCost:
    """Medians over (step, model) in seconds; the share is taken step by step, so both halves saw the same noise."""
    return StepCost(
        rows=rows,
        step_ms=1000 * statistics.median(step for step, _ in timings),
        model_ms=1000 * statistics.median(inside for _, inside in timings),
        outside=statistics.median(1.0 - inside / step for step, inside in timings),
    )


def _steps(model: DiffusionModel, requests: Sequence[GenerationRequest], rows: int) -> Iterator[tuple[float, float]]:
    """Seconds of (step, model) for ever new steps of `rows` canvases that never settle."""
    watched = InstrumentedModel(model)
    context = max(len(request.prompt_ids) + request.max_tokens for request in requests)
    loop = Loop(watched, Capacity(max_num_seqs=rows, max_context=context))
    endless = replace(model.info.denoising, steps=BURSTS * BURST + 1, stability=64)
    for row in range(rows):
        loop.add(replace(requests[row % len(requests)], denoising=endless))
    while True:
        before, started = watched.seconds, time.perf_counter()
        loop.step()
        yield time.perf_counter() - started, watched.seconds - before
