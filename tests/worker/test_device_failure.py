"""A device that fails ends the worker with a code of its own; requests, whatever they contain, never do."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusion_worker import cli
from diffusion_worker.engine.engine import Engine
from diffusion_worker.engine.loop import Capacity
from diffusion_worker.errors import DeviceFailed, SequenceFailed
from diffusion_worker.memory.kv_cache import CacheDamaged
from diffusion_worker.models.device_errors import FATAL, is_fatal, is_out_of_memory
from diffusion_worker.models.interface import CanvasContext, PrefillContext
from diffusion_worker.models.toy import ToyModel
from diffusion_worker.types.events import Faulted, Finished
from diffusion_worker.types.requests import DecodingMode, DenoisingParams, GenerationRequest
from diffusion_worker.types.status import Residency
from tests.worker.serving import CHAT, build, serving, toy_model

pytestmark = pytest.mark.anyio
DENOISING = DenoisingParams(canvas_length=16, steps=8)
ILLEGAL = RuntimeError(f"CUDA error: {FATAL[0]}\nCUDA kernel errors might be asynchronously reported")
NAN, FAULTY, DEFECT = 90, 91, 92  # prompt ids that make a row or a step fail
FAILURES: dict[int, Callable[[], Exception]] = {
    FAULTY: lambda: RuntimeError(f"no such thing as CUDA error: {FATAL[0]}"),
    DEFECT: lambda: KeyError(f"CUDA error: {FATAL[0]}"),
}


class Device(ToyModel):
    """Computes until `error` is set; from then on every pass raises it, or returns NaN."""

    error: Exception | str | None = None

    def encode(self, ids: torch.Tensor, context: PrefillContext) -> torch.Tensor:
        return self._broken(super().encode(ids, context))

    def denoise(self, canvas: torch.Tensor, soft: torch.Tensor, context: CanvasContext) -> torch.Tensor:
        return self._broken(super().denoise(canvas, soft, context))

    def _broken(self, computed: torch.Tensor) -> torch.Tensor:
        if isinstance(self.error, Exception):
            raise self.error
        return computed * float("nan") if self.error else computed


class Refuses(ToyModel):
    """Fails for prompts that contain certain ids: the row, or the whole step."""

    def denoise(self, canvas: torch.Tensor, soft: torch.Tensor, context: CanvasContext) -> torch.Tensor:
        self._look(context.layers[0].keys[..., 0].flatten().tolist())
        logits = super().denoise(canvas, soft, context)
        logits[(context.layers[0].keys[:, 0, :, 0] == NAN).any(-1)] = float("nan")
        return logits

    def encode(self, ids: torch.Tensor, context: PrefillContext) -> torch.Tensor:
        self._look(ids.flatten().tolist())
        hidden = super().encode(ids, context)
        hidden[(ids == NAN).any(-1)] = float("nan")
        return hidden

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return super().logits(hidden.nan_to_num()) + (hidden - hidden)

    @staticmethod
    def _look(ids: list[float]) -> None:
        for bad, error in FAILURES.items():
            if bad in ids:
                raise error()


def request(prompt: tuple[int, ...] = (20, 21), **changes: Any) -> GenerationRequest:
    return GenerationRequest(prompt_ids=prompt, max_tokens=16, seed=1, denoising=DENOISING, **changes)


async def ending(engine: Engine, one: GenerationRequest) -> Finished | Faulted:
    async for event in engine.submit(one):
        if isinstance(event, Finished | Faulted):
            return event
    raise AssertionError("a stream ended without an end")


@pytest.mark.parametrize("decoding_mode", DecodingMode)
@pytest.mark.parametrize(
    ("error", "requests"),
    [(ILLEGAL, 1), (ImportError("no kernel"), 1), (RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED"), 2), ("NaN", 2)],
)
async def test_a_failed_device_makes_the_worker_unready_and_is_reported(
    error: Exception | str, requests: int, decoding_mode: DecodingMode
) -> None:
    """At once if the error says so or the whole step failed, else with the second step whose rows fault."""
    model = Device(denoising=DENOISING)
    engine = Engine(lambda: model)
    engine.start()
    await engine.ready()
    try:
        assert isinstance(await ending(engine, request()), Finished)
        model.error = error
        for _ in range(requests):
            assert engine.status().state in (Residency.READY, Residency.DEGRADED)
            assert isinstance(await ending(engine, request(decoding_mode=decoding_mode)), Faulted)
        async with asyncio.timeout(500):
            assert isinstance(await engine.failure(), DeviceFailed)
        assert engine.status().state is Residency.FAILED
        with pytest.raises(DeviceFailed):
            engine.submit(request())
        with pytest.raises(DeviceFailed):
            await engine.load()
    finally:
        await engine.close()
    assert not engine._thread.is_alive()


async def test_a_worker_that_cannot_recover_fails_instead_of_hanging(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Device(denoising=DENOISING)
    engine = Engine(lambda: model)
    engine.start()
    await engine.ready()
    try:
        monkeypatch.setattr(engine._loop, "recover", lambda _error: next(iter(())))
        model.error = ImportError("no kernel")
        end = await ending(engine, request())
        assert isinstance(end, Faulted)
        assert "StopIteration" in end.error.message
        assert isinstance(await engine.failure(), DeviceFailed)
    finally:
        await engine.close()


async def test_running_and_queued_requests_end_when_the_device_fails() -> None:
    model = Device(denoising=DENOISING, seconds_per_pass=0.01, pace=1)
    engine = Engine(lambda: model, Capacity(max_num_seqs=2))
    engine.start()
    await engine.ready()
    try:
        endings = [asyncio.create_task(ending(engine, request(tuple(range(20, 30 + n))))) for n in range(6)]
        await asyncio.sleep(0)
        model.error = ILLEGAL
        async with asyncio.timeout(500):
            ends = [await one for one in endings]
        assert all(isinstance(end, Faulted) and isinstance(end.error, DeviceFailed) for end in ends)
    finally:
        await engine.close()


@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from((20, 21, NAN, FAULTY, DEFECT)), min_size=1, max_size=4),
            st.sampled_from(DecodingMode),
            st.booleans(),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_no_sequence_of_requests_makes_the_worker_unready(wave: list[tuple[list[int], DecodingMode, bool]]) -> None:
    """Rows that return NaN, rows that raise and requests that fail a whole step, in any order, alone and together."""
    asyncio.run(serve_all(wave))


async def serve_all(wave: list[tuple[list[int], DecodingMode, bool]]) -> None:
    engine = Engine(lambda: Refuses(denoising=DENOISING), Capacity(max_num_seqs=3))
    engine.start()
    await engine.ready()
    try:
        pending: list[asyncio.Task[Finished | Faulted]] = []
        for prompt, decoding_mode, is_alone in wave:
            pending.append(asyncio.create_task(ending(engine, request(tuple(prompt), decoding_mode=decoding_mode))))
            if is_alone:
                await asyncio.gather(*pending)
        for end in await asyncio.gather(*pending):
            assert isinstance(end, Finished) or isinstance(end.error, SequenceFailed)
        assert isinstance(await ending(engine, request()), Finished)
        assert engine.status().state in (Residency.READY, Residency.DEGRADED)
        assert not engine._failure.done()
    finally:
        await engine.close()


async def test_health_says_failed_with_503_and_requests_are_refused() -> None:
    model = toy_model()
    async with serving(model) as served:

        def raises(*_inputs: Any) -> Any:
            raise ILLEGAL

        model.encode = raises  # type: ignore[method-assign]
        first = await served.ask()
        async with asyncio.timeout(500):
            await served.engine.failure()
        health, refused = await served.client.get("/health"), await served.ask()
        metrics = (await served.client.get("/metrics")).text
    assert (first.status_code, first.json()["error"]["code"]) == (503, "device_failed")
    assert (health.status_code, health.json()["state"]) == (503, "failed")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "device_failed")
    assert 'twolane_worker_state{state="failed"} 1.0' in metrics


def test_the_process_exits_with_the_code_for_a_failed_device(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text("{}")
    model = toy_model()
    encode, is_broken = model.encode, threading.Event()

    def breaks(*inputs: Any) -> Any:
        if is_broken.is_set():
            raise ILLEGAL
        return encode(*inputs)

    model.encode = breaks  # type: ignore[method-assign]
    monkeypatch.setattr("diffusion_worker.app.build_worker", lambda _settings: build(model))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    client = threading.Thread(target=_break_and_ask, args=(f"http://127.0.0.1:{port}", is_broken))
    client.start()
    assert cli.main(["--checkpoint", str(tmp_path), "--port", str(port)]) == cli.DEVICE_FAILED == 3
    client.join()
    assert "an illegal memory access was encountered" in capsys.readouterr().err


def _break_and_ask(url: str, is_broken: threading.Event) -> None:
    """Break the device once the worker is ready, and ask until it says so."""
    body = {"model": "toy", "messages": [{"role": "user", "content": "x"}]}
    for _ in range(1200):
        try:
            if httpx.get(f"{url}/health", timeout=60).status_code == 200:
                is_broken.set()
            if httpx.post(url + CHAT, json=body, timeout=60).json()["error"]["code"] == "device_failed":
                return
        except httpx.TransportError:
            time.sleep(0.05)


@pytest.mark.parametrize("text", FATAL)
def test_errors_that_a_cuda_context_does_not_survive_are_known(text: str) -> None:
    assert is_fatal(RuntimeError(f"CUDA error: {text}\nSearch for it in the CUDA documentation"))
    damaged = CacheDamaged("writing failed")
    damaged.__cause__ = RuntimeError(f"CUDA error: {text}")
    assert is_fatal(damaged)
    assert not is_fatal(ValueError(f"CUDA error: {text}"))
    assert not is_fatal(RuntimeError(f"the request says CUDA error: {text}"))


def test_a_lack_of_memory_is_told_from_other_errors() -> None:
    with pytest.raises(RuntimeError) as host:
        torch.empty(10**15)
    assert is_out_of_memory(host.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("CUDA error: misaligned address"))
    assert not any(is_fatal(error) for error in (host.value, torch.OutOfMemoryError("CUDA out of memory.")))
