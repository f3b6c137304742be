"""Weights are loaded and unloaded on request while the worker runs, and requests meanwhile get the correct response."""

import asyncio
from collections.abc import Callable

import pytest

from diffusion_worker.engine.engine import Engine
from diffusion_worker.engine.loop import Capacity
from diffusion_worker.engine.output_stream import OutputStream
from diffusion_worker.errors import CheckpointMissing, NotResident
from diffusion_worker.models.toy import ToyModel
from diffusion_worker.types.events import Faulted, Finished
from diffusion_worker.types.requests import DenoisingParams, GenerationRequest
from diffusion_worker.types.status import Residency
from tests.worker.pacing import held

pytestmark = pytest.mark.anyio
DENOISING = DenoisingParams(canvas_length=16, steps=16)
REQUEST = GenerationRequest(prompt_ids=(20, 21, 22), max_tokens=16, seed=1, denoising=DENOISING)


async def ending(output_stream: OutputStream) -> Finished | Faulted:
    async for event in output_stream:
        if isinstance(event, Finished | Faulted):
            return event
    raise AssertionError("a stream ended without an end")


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not condition():  # noqa: ASYNC110 - the condition belongs to another thread
            await asyncio.sleep(0.005)


@pytest.mark.slow
async def test_weights_can_be_loaded_let_go_and_loaded_again() -> None:
    loads = 0

    def load() -> ToyModel:
        nonlocal loads
        loads += 1
        return ToyModel(denoising=DENOISING)

    engine = Engine(load)
    engine.start(cold=True)
    try:
        with pytest.raises(NotResident):
            engine.submit(REQUEST)
        for turn in (1, 2, 3):
            await engine.load()
            await engine.load()  # repeating it has no effect
            assert loads == turn
            assert isinstance(await ending(engine.submit(REQUEST)), Finished)
            await engine.unload(1.0)
            assert engine.status().state is Residency.COLD
            assert engine.info is None
            with pytest.raises(NotResident):
                engine.submit(REQUEST)
    finally:
        await engine.close()


async def test_who_runs_when_the_weights_go_may_finish_in_time_or_is_told() -> None:
    for patience_s, expected in ((120.0, Finished), (0.0, Faulted)):
        model = ToyModel(denoising=DENOISING, pace=4)
        engine = Engine(lambda model=model: model, Capacity(max_num_seqs=2))
        engine.start()
        await engine.ready()
        try:
            with held(model) as begun:
                streams = [engine.submit(REQUEST) for _ in range(3)]
                await until(begun.is_set)  # a thread that computes nothing unloads at once
                leaving = asyncio.create_task(engine.unload(patience_s))
                await until(lambda engine=engine: engine.status().state is Residency.EVICTING)
                with pytest.raises(NotResident):
                    engine.submit(REQUEST)
                if expected is Faulted:
                    await until(engine._should_unload.is_set)
            ends = [await ending(output_stream) for output_stream in streams]
            await leaving
            assert all(isinstance(end, expected) for end in ends)
            if expected is Faulted:
                assert all(isinstance(end.error, NotResident) for end in ends if isinstance(end, Faulted))
            assert engine.status().state is Residency.COLD
        finally:
            await engine.close()


async def test_a_failed_load_leaves_a_worker_that_can_load() -> None:
    outcomes = [CheckpointMissing("no such folder"), ToyModel(denoising=DENOISING)]

    def load() -> ToyModel:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    engine = Engine(load)
    engine.start(cold=True)
    try:
        with pytest.raises(CheckpointMissing):
            await engine.load()
        assert engine.status().state is Residency.COLD
        await engine.load()
        assert isinstance(await ending(engine.submit(REQUEST)), Finished)
    finally:
        await engine.close()


async def test_a_worker_that_is_told_to_leave_while_it_loads_leaves() -> None:
    released = asyncio.Event()
    events = asyncio.get_running_loop()

    def load() -> ToyModel:
        asyncio.run_coroutine_threadsafe(released.wait(), events).result(120.0)
        return ToyModel(denoising=DENOISING)

    engine = Engine(load)
    engine.start()
    leaving = asyncio.create_task(engine.drain(1.0))
    await until(lambda: engine.status().state is Residency.DRAINING)
    released.set()
    await leaving
    assert not engine._thread.is_alive()


async def test_an_idle_worker_recovers_when_the_pressure_has_gone() -> None:
    used = [95]
    engine = Engine(lambda: ToyModel(denoising=DENOISING), Capacity(max_num_seqs=4), gauge=lambda: (used[0], 100))
    engine.start()
    await engine.ready()
    try:
        await until(lambda: engine.status().state is Residency.DEGRADED)
        assert engine.status().max_num_seqs == 2
        used[0] = 10
        await until(lambda: engine.status().state is Residency.READY)
        await until(lambda: engine.status().max_num_seqs == 4)
    finally:
        await engine.close()
