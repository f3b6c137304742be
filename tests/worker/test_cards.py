"""Simulated cards at 1/993 of their size: the released checkpoint at default settings serves from the first request."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from diffusion_worker.engine import engine as engine_module
from diffusion_worker.engine import loop as loop_module
from diffusion_worker.engine.engine import Engine
from diffusion_worker.engine.loop import Capacity
from diffusion_worker.errors import BadSetting, OverCapacity
from diffusion_worker.memory import step_memory
from diffusion_worker.memory.budget import context_bytes
from diffusion_worker.memory.lifecycle import card_usage
from diffusion_worker.models.toy import ToyModel
from diffusion_worker.types.events import Finished
from diffusion_worker.types.model_info import LayerKv, StepShape
from diffusion_worker.types.requests import DenoisingParams, GenerationRequest
from diffusion_worker.types.status import Pressure, Residency
from tests.worker.serving import until

pytestmark = pytest.mark.anyio
SCALE = 993  # vocabulary of the released checkpoint over the toy's
WEIGHTS = 50_841_028_096 // SCALE
DRIVER = 10**9 // SCALE  # context of the device and its libraries
DEFAULTS = Capacity(max_num_seqs=8, prefix_slots=8)
PROMPT = tuple(range(20, 60))


def released() -> ToyModel:
    """The toy with the memory of the released checkpoint in bf16: each term of the plan is 1/993 of its size."""
    model = ToyModel(max_context=262_144, denoising=DenoisingParams(), pace=64)
    full, sliding = (LayerKv(heads=1, head_dim=1, window=window) for window in (None, 1024))
    model.kv_layers = (*(full,) * 3, *(sliding,) * 25)
    step = StepShape(vocab_size=264, attention_width=22, feed_forward_width=78)
    model.info = replace(model.info, step=step, weight_bytes=WEIGHTS)
    return model


class Card:
    """A card with a caching allocator, which keeps all that the largest step so far has needed."""

    def __init__(self, gigabytes: float) -> None:
        self.size = int(gigabytes * 10**9) // SCALE
        self.is_short = False  # another process takes what is left
        self.engine = Engine(released, DEFAULTS)

    def usage(self, _device: object = None) -> tuple[int, int]:
        """As `memory_in_use`."""
        loop = self.engine._loop
        if loop is None or self.is_short:
            return int(0.97 * self.size) if self.is_short else 0, self.size
        slot = context_bytes(loop.model.kv_layers, loop.limits.max_context, 4)
        allocated = WEIGHTS + loop._stepper.slots * slot
        reserved = WEIGHTS + loop.plan.slots * slot + loop.plan.step_bytes
        free = self.size - reserved - DRIVER
        assert free > 0, "out of memory"
        return card_usage(free=free, total=self.size, reserved=reserved, allocated=allocated)


@asynccontextmanager
async def started(gigabytes: float, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Card]:
    card = Card(gigabytes)
    for name in ("QUERY_BLOCK", "PADDED_POSITIONS"):  # masks have no vocabulary to scale with
        monkeypatch.setattr(step_memory, name, 1)
    monkeypatch.setattr(loop_module, "memory_in_use", card.usage)
    monkeypatch.setattr(engine_module, "memory_in_use", card.usage)
    monkeypatch.setattr(loop_module, "PRESSURE_EVERY_S", 0.0)
    monkeypatch.setattr("diffusion_worker.memory.pressure.HOLD_S", 0.0)
    monkeypatch.setattr("diffusion_worker.engine.engine.IDLE_CHECK_S", 0.005)
    card.engine.start()
    try:
        yield card
    finally:
        await card.engine.close()


async def serve(engine: Engine, number: int) -> int:
    """Let `number` requests run together; returns the largest number of sequences in a step."""
    assert engine._loop is not None
    rows, step = list[int](), engine._loop._stepper.step
    engine._loop._stepper.step = lambda batch: (  # type: ignore[method-assign]
        rows.append(len({item.sequence for item in (*batch.prefills, *batch.denoises)})),
        step(batch),
    )[1]
    denoising = engine._loop.model.info.denoising
    requests = [
        GenerationRequest(prompt_ids=(*PROMPT, 60 + n), max_tokens=64, seed=n, denoising=denoising)
        for n in range(number)
    ]
    streams = [engine.submit(one) for one in requests]
    ends = [[event async for event in stream][-1] for stream in streams]
    assert all(isinstance(end, Finished) for end in ends)
    engine._loop._stepper.step = step  # type: ignore[method-assign]
    return max(rows)


@pytest.mark.parametrize(("gigabytes", "context"), [(80, 16_384), (85.5, 32_768), (141, 131_072)])
async def test_a_card_serves_full_batches_from_the_first_request_and_again_after_pressure(
    gigabytes: float, context: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """80 GB and 141 GB cards, also with the 85.5 GB that the driver reports for the former."""
    async with started(gigabytes, monkeypatch) as card:
        await card.engine.ready()
        loop = card.engine._loop
        assert loop is not None
        assert (loop.limits.max_context, loop.limits.max_num_seqs) == (context, 8)
        assert await serve(card.engine, 12) == 8
        status = card.engine.status()
        assert (status.state, status.pressure, status.max_num_seqs) == (Residency.READY, Pressure.NONE, 8)
        assert status.retained_contexts > 0, "memory that the allocator keeps evicted the prefix cache"
        card.is_short = True
        await until(lambda: card.engine.status().pressure is Pressure.ADMISSION)
        with pytest.raises(OverCapacity):
            await serve(card.engine, 1)
        card.is_short = False
        await until(lambda: card.engine.status().pressure is Pressure.NONE)
        await until(lambda: card.engine.status().state is Residency.READY)
        assert await serve(card.engine, 12) == 8
        await until(lambda: loop._stepper.slots == loop.plan.slots)


@pytest.mark.parametrize("gigabytes", [24, 32])
async def test_a_card_that_is_too_small_is_refused_with_the_settings_to_change(
    gigabytes: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with started(gigabytes, monkeypatch) as card:
        with pytest.raises(BadSetting, match=r"out of memory: .*--max-num-seqs, --max-context .*--memory-limit-bytes"):
            await card.engine.ready()
