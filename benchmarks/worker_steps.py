"""Measures the cost of one engine step by number of rows, and the share of it spent outside the model.

All row counts alternate, so that noise affects all alike; figures are medians. Each turn is a burst of steps whose
first step is discarded, because it runs with the processor caches of another row count.
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
BURSTS: Final = 9  # the first warms up and prefills the prompts
BURST: Final = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCost:
    """One step at `rows` rows, in ms."""

    rows: int
    step_ms: float
    model_ms: float
    outside: float  # share of the step spent outside the model

    @property
    def row_ms(self) -> float:
        """Milliseconds per row."""
        return self.step_ms / self.rows


def step_costs(model: DiffusionModel, requests: Sequence[GenerationRequest]) -> dict[int, StepCost]:
    """Number of rows -> cost of an engine step with that many running canvases."""
    stepped = {rows: _steps(model, requests, rows) for rows in ROWS}
    timings: dict[int, list[tuple[float, float]]] = {rows: [] for rows in ROWS}
    for burst in range(BURSTS):
        for rows, steps in stepped.items():
            taken = [next(steps) for _ in range(BURST)]
            if burst > 0:
                timings[rows] += taken[1:]
    return {rows: cost_of(rows, timings[rows]) for rows in ROWS}


def cost_of(rows: int, timings: Sequence[tuple[float, float]]) -> StepCost:
    """Medians over (step, model) timings in seconds; the share is computed per step, so that noise cancels."""
    return StepCost(
        rows=rows,
        step_ms=1000 * statistics.median(step for step, _ in timings),
        model_ms=1000 * statistics.median(inside for _, inside in timings),
        outside=statistics.median(1.0 - inside / step for step, inside in timings),
    )


def _steps(model: DiffusionModel, requests: Sequence[GenerationRequest], rows: int) -> Iterator[tuple[float, float]]:
    """Endless (step, model) timings in seconds for `rows` canvases that never converge."""
    instrumented = InstrumentedModel(model)
    context = max(len(request.prompt_ids) + request.max_tokens for request in requests)
    loop = Loop(instrumented, Capacity(max_num_seqs=rows, max_context=context))
    endless = replace(model.info.denoising, steps=BURSTS * BURST + 1, stability=64)
    for row in range(rows):
        loop.add(replace(requests[row % len(requests)], denoising=endless))
    while True:
        before, started = instrumented.seconds, time.perf_counter()
        loop.step()
        yield time.perf_counter() - started, instrumented.seconds - before
