"""The worker's engine under load: event-loop stalls and memory growth.

The engine runs as in serving, with the model on its own thread; clients are coroutines in the same process.
"""

import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Final

from diffusion_worker.engine.engine import Engine
from diffusion_worker.engine.loop import Capacity
from diffusion_worker.memory.lifecycle import resident_bytes
from diffusion_worker.models.interface import DiffusionModel
from diffusion_worker.types.events import Faulted
from diffusion_worker.types.requests import GenerationRequest

CLIENTS: Final = 8
TICK_S: Final = 0.001
MEBIBYTE: Final = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Results of a load test."""

    stall_p99_ms: float
    growth_mib: float  # resident memory, last tenth of the requests minus the second
    num_requests: int  # of the memory measurement


async def under_load(
    model: DiffusionModel, requests: Sequence[GenerationRequest], *, seconds: float, num_requests: int
) -> Load:
    """Serve the requests repeatedly for `seconds` and measure stalls; then serve short requests and measure memory."""
    context = max(len(request.prompt_ids) + request.max_tokens for request in requests)
    engine = Engine(lambda: model, Capacity(max_num_seqs=CLIENTS, max_context=context))
    engine.start()
    await engine.ready()
    try:
        stalls_s = await _stalls(engine, requests, seconds)
        sizes = await _sizes(engine, [short(request) for request in requests], num_requests)
    finally:
        await engine.close()
    return Load(
        stall_p99_ms=1000 * quantile(stalls_s, 0.99), growth_mib=growth(sizes) / MEBIBYTE, num_requests=num_requests
    )


def short(request: GenerationRequest) -> GenerationRequest:
    """The request with a truncated prompt, one step and few tokens."""
    return replace(
        request, prompt_ids=request.prompt_ids[:16], max_tokens=8, denoising=replace(request.denoising, steps=1)
    )


def quantile(values: Sequence[float], share: float) -> float:
    """The value that `share` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def growth(sizes: Sequence[int]) -> float:
    """Median of the last tenth minus that of the second; the first tenth fills the allocator's pools."""
    tenth = max(1, len(sizes) // 10)
    return statistics.median(sizes[-tenth:]) - statistics.median(sizes[tenth : 2 * tenth])


async def _stalls(engine: Engine, requests: Sequence[GenerationRequest], seconds: float) -> list[float]:
    """Delay of each tick of the event loop, in seconds."""
    ends = time.monotonic() + seconds
    late: list[float] = []

    async def client(number: int) -> None:
        for turn in count(number):
            if time.monotonic() >= ends:
                return
            await _answer(engine, requests[turn % len(requests)])

    async with asyncio.TaskGroup() as group:
        for number in range(CLIENTS):
            group.create_task(client(number))
        while time.monotonic() < ends:
            started = time.perf_counter()
            await asyncio.sleep(TICK_S)
            late.append(time.perf_counter() - started - TICK_S)
    return late


async def _sizes(engine: Engine, requests: Sequence[GenerationRequest], num_requests: int) -> list[int]:
    """Resident bytes after every request."""
    sizes: list[int] = []
    numbers = iter(range(num_requests))

    async def client() -> None:
        for number in numbers:
            await _answer(engine, replace(requests[number % len(requests)], seed=number))
            sizes.append(resident_bytes())

    async with asyncio.TaskGroup() as group:
        for _ in range(CLIENTS):
            group.create_task(client())
    return sizes


async def _answer(engine: Engine, request: GenerationRequest) -> None:
    async with engine.submit(request) as stream:
        async for event in stream:
            if isinstance(event, Faulted):
                raise event.error
