"""The engine between event loop and device thread, driven by the toy model."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch

from diffusion_worker.engine.engine import Engine
from diffusion_worker.engine.loop import Capacity, plan_of
from diffusion_worker.engine.output_stream import OutputStream
from diffusion_worker.errors import (
    BadSetting,
    Cancelled,
    CheckpointMissing,
    Draining,
    NotFinite,
    NotResident,
    OverCapacity,
    PromptTooLong,
    StepFailed,
)
from diffusion_worker.memory.serving_plan import RESERVE
from diffusion_worker.models.interface import CanvasContext
from diffusion_worker.models.toy import ToyModel
from diffusion_worker.types.events import BlockSealed, Faulted, Finished, FinishReason
from diffusion_worker.types.observations import Observation, Outcome, RefusalObserved, SequenceObserved
from diffusion_worker.types.requests import DecodingMode, GenerationRequest
from diffusion_worker.types.status import Residency
from tests.worker.pacing import held, in_step

pytestmark = pytest.mark.anyio

POISON = 99


class PoisonedModel(ToyModel):
    """Returns NaN for rows whose prompt begins with POISON."""

    def denoise(self, canvas: torch.Tensor, soft: torch.Tensor, context: CanvasContext) -> torch.Tensor:
        logits = super().denoise(canvas, soft, context)
        logits[context.layers[0].keys[:, 0, 0, 0] == POISON] = float("nan")
        return logits


class BrittleModel(ToyModel):
    """Raises if any row's prompt begins with POISON."""

    def denoise(self, canvas: torch.Tensor, soft: torch.Tensor, context: CanvasContext) -> torch.Tensor:
        if bool((context.layers[0].keys[:, 0, 0, 0] == POISON).any()):
            raise RuntimeError("a row cannot be computed")
        return super().denoise(canvas, soft, context)


def request(model: ToyModel, *prompt: int, **changes: Any) -> GenerationRequest:
    base = GenerationRequest(prompt_ids=prompt or (20, 21, 22), max_tokens=64, seed=1, denoising=model.info.denoising)
    return replace(base, **changes)


@asynccontextmanager
async def serving(model: ToyModel, capacity: Capacity | None = None, **rest: Any) -> AsyncIterator[Engine]:
    engine = Engine(lambda: model, capacity, **rest)
    engine.start()
    await engine.ready()
    try:
        yield engine
    finally:
        await engine.close()
        assert not engine._thread.is_alive()


async def collect(output_stream: OutputStream) -> tuple[tuple[int, ...], Finished | Faulted]:
    ids: list[int] = []
    async for event in output_stream:
        if not isinstance(event, BlockSealed):
            return tuple(ids), event
        ids += event.ids
    raise AssertionError("a stream ended without an end")


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not condition():  # noqa: ASYNC110 - the condition belongs to another thread
            await asyncio.sleep(0.001)


async def test_a_request_is_answered_with_its_blocks_and_one_end() -> None:
    model = ToyModel()
    prompt = tuple(range(20, 60))
    async with serving(model) as engine:
        ids, end = await collect(engine.submit(request(model, *prompt)))
    assert ids == prompt
    assert isinstance(end, Finished)
    assert end.reason is FinishReason.STOP
    assert end.usage.completion_tokens == 41


async def test_many_requests_at_once_each_get_their_own_answer() -> None:
    model = ToyModel()
    async with serving(model, Capacity(max_num_seqs=3)) as engine:
        requests = [request(model, *range(20, 23 + n), decoding_mode=tuple(DecodingMode)[n % 2]) for n in range(12)]
        answers = await asyncio.gather(*(collect(engine.submit(one)) for one in requests))
    assert [ids for ids, _ in answers] == [one.prompt_ids for one in requests]


async def test_max_tokens_is_exact() -> None:
    model = ToyModel()
    async with serving(model) as engine:
        for count in (1, 15, 16, 17, 33):
            for decoding_mode in DecodingMode:
                ids, end = await collect(
                    engine.submit(request(model, *[30] * 60, max_tokens=count, decoding_mode=decoding_mode))
                )
                assert len(ids) == end.usage.completion_tokens == count


async def test_the_event_loop_stays_awake_during_a_slow_pass() -> None:
    turns, slept = 0, 0

    class Watched(ToyModel):
        """Each pass lasts until the event loop has had a turn."""

        def _take_time(self) -> None:
            nonlocal slept
            super()._take_time()
            before, ends_s = turns, time.monotonic() + 60
            while watched.is_set() and turns == before and time.monotonic() < ends_s:
                time.sleep(0.001)
            slept += turns > before

    model, watched = Watched(), threading.Event()
    async with serving(model) as engine:
        model.passes, slept = 0, 0
        watched.set()
        answer = asyncio.create_task(collect(engine.submit(request(model))))
        while not answer.done():
            await asyncio.sleep(0.001)
            turns += 1
        watched.clear()
    assert slept == model.passes >= 3


async def test_a_reader_that_is_cancelled_stops_the_work() -> None:
    model = in_step(ToyModel(pace=1))
    async with serving(model) as engine:
        warm = model.passes
        reader = asyncio.create_task(collect(engine.submit(request(model, *[30] * 400, max_tokens=400))))
        await until(lambda: model.passes > warm + 2)
        reader.cancel()
        await until(lambda: engine.status().running == 0)
        seen = model.passes
        await asyncio.sleep(0.05)
        assert model.passes <= seen + 4, "at most the step under way: prompt chunk, seal, canvases, one token"
        assert engine.status().kv_bytes == 0


async def test_leaving_the_context_of_a_stream_aborts_it() -> None:
    model = in_step(ToyModel(pace=1))
    seen: list[Observation] = []
    async with serving(model, observe=seen.append) as engine:
        async with engine.submit(request(model, *[30] * 400, max_tokens=400)) as output_stream:
            assert isinstance(await anext(output_stream), BlockSealed)
        await until(lambda: not engine._streams)
    assert [o.outcome for o in seen if isinstance(o, SequenceObserved)] == [Outcome.CANCELLED]


async def test_an_aborted_stream_still_ends_once() -> None:
    model = in_step(ToyModel(pace=1))
    async with serving(model) as engine:
        output_stream = engine.submit(request(model, *[30] * 400, max_tokens=400))
        output_stream.abort()
        output_stream.abort()
        events = [event async for event in output_stream]
    assert isinstance(events[-1], Faulted)
    assert isinstance(events[-1].error, Cancelled)
    assert not any(isinstance(event, Faulted | Finished) for event in events[:-1])


async def test_a_reader_with_enough_gets_a_finished_end_with_true_figures() -> None:
    model = in_step(ToyModel(pace=1))
    async with serving(model) as engine:
        output_stream = engine.submit(request(model, *[30] * 400, max_tokens=400))
        first = await anext(output_stream)
        output_stream.stop()
        *_, end = [first, *[event async for event in output_stream]]
    assert isinstance(end, Finished)
    assert end.reason is FinishReason.STOP
    assert end.usage.completion_tokens < 400


@pytest.mark.parametrize(("model", "error"), [(PoisonedModel(), NotFinite), (BrittleModel(), StepFailed)])
async def test_a_row_that_fails_faults_alone(model: ToyModel, error: type[Exception]) -> None:
    async with serving(model, Capacity(max_num_seqs=3)) as engine:
        requests = [request(model, 30, 31, 32), request(model, POISON, 31, 32), request(model, 40, 41)]
        good, bad, other = await asyncio.gather(*(collect(engine.submit(one)) for one in requests))
        again, _ = await collect(engine.submit(requests[0]))
        assert engine._loop.scheduler.slots.free == len(engine._loop.scheduler.slots)
    assert isinstance(bad[1], Faulted)
    assert isinstance(bad[1].error, error)
    assert good[0] == again == (30, 31, 32)
    assert other[0] == (40, 41)


async def test_a_defect_in_the_loop_faults_what_ran_and_the_engine_lives_on(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ToyModel()
    async with serving(model) as engine:
        real = engine._loop._stepper.step
        broken = iter([KeyError("a defect")])

        def step(batch: Any) -> Any:
            for error in broken:
                raise error
            return real(batch)

        monkeypatch.setattr(engine._loop._stepper, "step", step)
        _, end = await collect(engine.submit(request(model)))
        assert isinstance(end, Faulted)
        assert "a defect" in end.error.message
        ids, _ = await collect(engine.submit(request(model)))
        assert ids == (20, 21, 22)
        await until(lambda: engine.status().state is Residency.READY)


async def test_same_seed_same_text_whoever_shares_the_batch(make_model: Any) -> None:
    model = make_model(dtype=torch.float32, spread=0.02)
    denoising = replace(model.info.denoising, steps=5)
    requests = [
        GenerationRequest(
            prompt_ids=tuple(range(6, 12 + n)),
            max_tokens=24,
            seed=n % 3,
            denoising=denoising,
            temperature=1.0,
            decoding_mode=way,
        )
        for n in range(3)
        for way in DecodingMode
    ]
    async with serving(model, Capacity(max_context=64)) as engine:
        alone = [(await collect(engine.submit(one)))[0] for one in requests]
        together = await asyncio.gather(*(collect(engine.submit(one)) for one in reversed(requests)))
    assert alone == [ids for ids, _ in reversed(together)]
    assert len(set(alone)) == 2 * 3, "verified answers are those of autoregressive mode"


async def test_before_the_weights_are_there_requests_are_refused_at_once_and_health_says_why() -> None:
    may_load = threading.Event()
    model = ToyModel()

    def load() -> ToyModel:
        may_load.wait()
        return model

    seen: list[Observation] = []
    engine = Engine(load, observe=seen.append)
    assert engine.status().state is Residency.COLD
    engine.start()
    assert engine.status().state is Residency.LOADING
    with pytest.raises(NotResident) as refusal:
        engine.submit(request(model))
    assert refusal.value.retry_after_s
    may_load.set()
    await engine.ready()
    assert (await collect(engine.submit(request(model))))[0] == (20, 21, 22)
    await engine.close()
    assert seen[0] == RefusalObserved(reason="not_resident")


async def test_a_checkpoint_that_cannot_be_loaded_is_reported_to_who_waits_for_it() -> None:
    def load() -> ToyModel:
        raise CheckpointMissing("no such folder")

    engine = Engine(load)
    engine.start()
    with pytest.raises(CheckpointMissing):
        await engine.ready()
    assert engine.status().state is Residency.COLD
    with pytest.raises(NotResident):
        engine.submit(request(ToyModel()))
    await engine.close()


async def test_a_memory_limit_below_one_context_refuses_to_start() -> None:
    engine = Engine(ToyModel, Capacity(memory_limit_bytes=1000))
    engine.start()
    with pytest.raises(BadSetting, match="need 262144 for contexts and"):
        await engine.ready()
    await engine.close()


async def test_fewer_sequences_run_when_their_contexts_would_not_fit() -> None:
    """With a configured context: there is memory for the step of four rows, but not for four contexts beside it."""
    model = ToyModel(max_context=100)
    limit = int(plan_of(model, Capacity(max_num_seqs=4)).step_bytes / (1 - RESERVE)) + 4 * 800
    async with serving(model, Capacity(max_num_seqs=8, max_context=100, memory_limit_bytes=limit)) as engine:
        status = engine.status()
        assert (status.max_num_seqs, status.memory_limit_bytes) == (3, limit)


async def test_beyond_queue_and_places_requests_are_refused() -> None:
    model = ToyModel()
    async with serving(model, Capacity(max_num_seqs=1, max_waiting=1)) as engine:
        with held(model):
            streams = [engine.submit(request(model)) for _ in range(2)]
            with pytest.raises(OverCapacity):
                engine.submit(request(model))
            with pytest.raises(PromptTooLong):
                engine.submit(request(model, max_tokens=5000))
        for output_stream in streams:
            await collect(output_stream)


async def test_draining_finishes_what_runs_and_takes_nothing_new() -> None:
    model = ToyModel()
    async with serving(model) as engine:
        with held(model):
            running = asyncio.create_task(collect(engine.submit(request(model))))
            await until(lambda: engine.status().running == 1)
            leaving = asyncio.create_task(engine.drain(120.0))
            await asyncio.sleep(0)
            with pytest.raises(Draining):
                engine.submit(request(model))
        await leaving
        ids, end = await running
    assert ids == (20, 21, 22)
    assert isinstance(end, Finished)


async def test_what_does_not_finish_in_time_is_told_so(engine_that_is_slow: Callable[[], Awaitable[Engine]]) -> None:
    engine = await engine_that_is_slow()
    running = asyncio.create_task(collect(engine.submit(request(ToyModel(), *[30] * 400, max_tokens=400))))
    await until(lambda: engine.status().running == 1)
    await engine.drain(0.0)
    _, end = await running
    assert isinstance(end, Faulted)
    assert isinstance(end.error, Draining)


@pytest.fixture
def engine_that_is_slow() -> Callable[[], Awaitable[Engine]]:
    async def make() -> Engine:
        model = in_step(ToyModel(pace=1))
        engine = Engine(lambda: model)
        engine.start()
        await engine.ready()
        return engine

    return make


async def test_health_shows_what_runs_and_what_it_holds() -> None:
    model = ToyModel(pace=1)
    async with serving(model, Capacity(max_num_seqs=1)) as engine:
        assert engine.info == model.info
        assert engine.status().predicted_wait_ms is None
        with held(model, after=5):
            readers = [asyncio.create_task(collect(engine.submit(request(model, *[30] * 40)))) for _ in range(2)]
            await until(lambda: engine.status().kv_bytes > 0 and engine.status().predicted_wait_ms is not None)
            status = engine.status()
        assert (status.state, status.running, status.waiting) == (Residency.READY, 1, 1)
        assert (status.predicted_wait_ms or 0.0) > 0.0
        assert status.memory_used_bytes > 0
        await asyncio.gather(*readers)


async def test_closing_an_engine_that_never_started_is_harmless() -> None:
    await Engine(ToyModel).close()
