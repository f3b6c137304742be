"""Measures the accuracy of predicted queue waits against the actual waits.

Open loop: requests of all tasks arrive as a Poisson process, alternately faster and slower than they can be served, so
that queues build and drain. The first fifth trains the cost model and is discarded. The engine runs in-process.
"""

import asyncio
import random
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from diffusion_worker.engine.engine import Engine
from diffusion_worker.engine.loop import Capacity
from diffusion_worker.models.interface import DiffusionModel
from diffusion_worker.types.events import Faulted
from diffusion_worker.types.observations import Observation, WaitObserved
from diffusion_worker.types.requests import DecodingMode, GenerationRequest

CONCURRENCY: Final = 8
FAST, SLOW, PHASE_S = 1.7, 0.6, 0.5  # arrival rates relative to the service rate, and the duration of each phase


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """Errors of the predicted waits."""

    median_error: float
    median_ratio: float  # predicted over actual
    median_wait_ms: float
    count: int


async def predicted_wait(
    model: DiffusionModel,
    requests: Sequence[GenerationRequest],
    *,
    num_requests: int,
    served_per_s: float,
    shares: Mapping[DecodingMode, float] | None = None,
) -> Waits:
    """Send `num_requests` requests, of which `shares` are in other modes than diffusion. `served_per_s` is the service
    rate for diffusion requests."""
    seen: list[WaitObserved] = []

    def observe(observation: Observation) -> None:
        if isinstance(observation, WaitObserved):
            seen.append(observation)

    context = max(len(request.prompt_ids) + request.max_tokens for request in requests)
    engine = Engine(
        lambda: model, Capacity(max_num_seqs=CONCURRENCY, max_waiting=num_requests, max_context=context), observe
    )
    engine.start()
    await engine.ready()
    dice = random.Random("waits")
    began = asyncio.get_running_loop().time()
    try:
        async with asyncio.TaskGroup() as group:
            for at in _arrivals(dice, num_requests, served_per_s):
                await asyncio.sleep(max(0.0, began + at - asyncio.get_running_loop().time()))
                mode = _mode(dice, shares or {})
                request = replace(dice.choice(requests), decoding_mode=mode, seed=dice.getrandbits(32))
                group.create_task(_answer(engine, request))
    finally:
        await engine.close()
    counted = seen[len(seen) // 5 :]
    return Waits(
        median_error=statistics.median(abs(wait.predicted_s - wait.actual_s) / wait.actual_s for wait in counted),
        median_ratio=statistics.median(wait.predicted_s / wait.actual_s for wait in counted),
        median_wait_ms=1000 * statistics.median(wait.actual_s for wait in counted),
        count=len(counted),
    )


def _mode(dice: random.Random, shares: Mapping[DecodingMode, float]) -> DecodingMode:
    modes, weights = (*shares, DecodingMode.DIFFUSION), (*shares.values(), 1.0 - sum(shares.values()))
    return dice.choices(modes, weights)[0]


def _arrivals(dice: random.Random, num_requests: int, served_per_s: float) -> Iterator[float]:
    """Arrival times in seconds."""
    at = 0.0
    for _ in range(num_requests):
        at += dice.expovariate(served_per_s * (FAST if at % (2 * PHASE_S) < PHASE_S else SLOW))
        yield at


async def _answer(engine: Engine, request: GenerationRequest) -> None:
    async with engine.submit(request) as stream:
        async for event in stream:
            if isinstance(event, Faulted):
                raise event.error
