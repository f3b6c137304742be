"""Memory pressure with an artificial gauge: the measures of each level, that they free memory, and that they are
reversed."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from diffusion_worker.engine import loop as loop_module
from diffusion_worker.engine.engine import Engine
from diffusion_worker.engine.loop import Capacity, Loop, run
from diffusion_worker.errors import OverCapacity
from diffusion_worker.models.toy import ToyModel
from diffusion_worker.types.events import BlockSealed, Faulted, Finished
from diffusion_worker.types.requests import DenoisingParams, GenerationRequest
from diffusion_worker.types.status import Pressure, Residency

DENOISING = DenoisingParams(steps=6, canvas_length=12, confidence_threshold=1e-12)


class Gauge:
    """A gauge with a settable usage, in percent."""

    def __init__(self) -> None:
        self.share = 10

    def __call__(self) -> tuple[int, int]:
        return self.share, 100


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check memory in every iteration, and let the level fall at once."""
    monkeypatch.setattr(loop_module, "PRESSURE_EVERY_S", 0.0)
    monkeypatch.setattr("diffusion_worker.memory.pressure.HOLD_S", 0.0)
    monkeypatch.setattr("diffusion_worker.engine.engine.IDLE_CHECK_S", 0.005)


def requests() -> list[GenerationRequest]:
    return [
        GenerationRequest(prompt_ids=tuple(range(6, 30 + n)), max_tokens=36, seed=n, denoising=DENOISING)
        for n in range(8)
    ]


def kv_bytes(it: Loop) -> int:
    cache = it._stepper.cache
    return sum(store.untyped_storage().nbytes() for store in (*cache.keys, *cache.values))


def turned(it: Loop, texts: dict[int, tuple[int, ...]], turns: int = 10**6) -> None:
    while turns and it.scheduler.has_work:
        turns -= 1
        for sequence, event in it.step():
            assert not isinstance(event, Faulted)
            if isinstance(event, BlockSealed):
                texts[sequence] += event.ids


@pytest.mark.usefixtures("quick")
def test_contexts_kept_for_reuse_go_first_and_their_memory_is_really_freed(make_model: Any) -> None:
    gauge, model = Gauge(), make_model(end_ids=())
    it = Loop(model, Capacity(max_num_seqs=4, max_context=80, prefix_slots=4), gauge=gauge)
    full, texts = kv_bytes(it), dict[int, tuple[int, ...]]()
    for one in requests()[:6]:
        texts[it.add(one)] = ()
    turned(it, texts)
    assert it.scheduler.slots.retained > 0
    gauge.share = 86
    it.check_memory()
    it.step()
    assert (it.pressure, it.scheduler.slots.retained, it.scheduler.rows) == (Pressure.PREFIX_CACHE, 0, 4)
    assert kv_bytes(it) == full // 2
    gauge.share = 10
    it.check_memory()
    it.step()
    assert (it.pressure, kv_bytes(it)) == (Pressure.NONE, full)


@pytest.mark.usefixtures("quick")
def test_who_runs_while_rows_are_halved_and_given_back_ends_with_the_same_text(make_model: Any) -> None:
    gauge, model = Gauge(), make_model(end_ids=())
    expected = [answer.ids for answer in run(model, requests())]
    it = Loop(model, Capacity(max_num_seqs=4, max_context=80, prefix_slots=3), gauge=gauge)
    texts = {it.add(one): tuple[int, ...]() for one in requests()}
    turned(it, texts, 3)
    assert it.scheduler.running == 4
    for share, rows in ((93, 2), (97, 1), (10, 2), (10, 4), (93, 2)):
        gauge.share = share
        turned(it, texts, 1)
        assert it.scheduler.running <= it.scheduler.rows == rows
    gauge.share = 10
    turned(it, texts)
    assert list(texts.values()) == expected
    assert (it.pressure, it.scheduler.rows) == (Pressure.NONE, 4)


@pytest.mark.anyio
@pytest.mark.usefixtures("quick")
async def test_at_the_last_level_the_door_closes_and_opens_again() -> None:
    gauge, model = Gauge(), ToyModel(seconds_per_pass=0.002, pace=1)
    one = GenerationRequest(prompt_ids=tuple(range(20, 90)), max_tokens=100, seed=1, denoising=model.info.denoising)
    engine = Engine(lambda: model, Capacity(max_num_seqs=2), gauge=gauge)
    engine.start()
    await engine.ready()
    output_stream = engine.submit(one)
    gauge.share = 97
    await until(lambda: engine.status().pressure is Pressure.ADMISSION)
    await until(lambda: engine.status().state is Residency.DEGRADED)
    with pytest.raises(OverCapacity) as refusal:
        engine.submit(one)
    assert refusal.value.retry_after_s
    gauge.share = 10
    events = [event async for event in output_stream]
    assert isinstance(events[-1], Finished)
    assert tuple(token for event in events if isinstance(event, BlockSealed) for token in event.ids) == one.prompt_ids
    await until(lambda: engine.status().pressure is Pressure.NONE)
    again = [event async for event in engine.submit(replace(one, seed=2))]
    assert isinstance(again[-1], Finished)
    assert engine.status().state is Residency.READY
    await engine.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not condition():  # noqa: ASYNC110 - the engine's thread looks
            await asyncio.sleep(0.002)


@pytest.mark.anyio
async def test_the_configured_limit_counts_besides_the_memory_of_the_device(
    quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The card is nearly empty, but the tensors of the worker approach the limit that it was given; then the limit is
    far, but the card is full."""
    gauge, own = Gauge(), [100]
    monkeypatch.setattr(loop_module, "tensor_bytes", lambda _device, _known: own[0])
    limit = 10**8
    capacity = Capacity(max_num_seqs=4, max_context=64, memory_limit_bytes=limit)
    engine = Engine(lambda: ToyModel(denoising=DENOISING), capacity, gauge=gauge)
    monkeypatch.setattr(loop_module, "memory_in_use", lambda _device: (10**9, 10**10))
    engine.start()
    await engine.ready()
    try:
        status = engine.status()
        assert (status.memory_used_bytes, status.memory_limit_bytes) == (100, limit)
        own[0] = int(0.93 * limit)
        await until(lambda: engine.status().pressure is Pressure.BATCH)
        own[0] = 100
        await until(lambda: engine.status().pressure is Pressure.NONE)
        gauge.share = 97
        await until(lambda: engine.status().pressure is Pressure.ADMISSION)
    finally:
        await engine.close()


def test_without_a_card_the_tensors_of_a_worker_are_its_weights_and_its_slots() -> None:
    model = ToyModel(denoising=DENOISING)
    model.info = replace(model.info, weight_bytes=1000)
    it = Loop(model, Capacity(max_num_seqs=4, max_context=64, memory_limit_bytes=10**8))
    assert it.memory == (1000 + kv_bytes(it), 10**8)
