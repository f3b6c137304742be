"""A device that fails ends the worker with a code of its own; requests, whatever they contain, never do."""

import asyncio
import socket
import subprocess
import sys
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
from diffusion_worker.app import run_worker
from diffusion_worker.engine.engine import Engine
from diffusion_worker.engine.loop import Capacity
from diffusion_worker.errors import DeviceFailed, DeviceHangs, SequenceFailed
from diffusion_worker.memory.kv_cache import CacheDamaged
from diffusion_worker.models.device_errors import FATAL, is_fatal, is_out_of_memory
from diffusion_worker.models.interface import CanvasContext, PrefillContext
from diffusion_worker.models.toy import ToyModel
from diffusion_worker.types.events import Faulted, Finished
from diffusion_worker.types.requests import DecodingMode, DenoisingParams, GenerationRequest
from diffusion_worker.types.status import Residency
from tests.worker.pacing import held
from tests.worker.serving import CHAT, build, serving, toy_model, until
from twolane.process.flags import free_port

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
    model = Device(denoising=DENOISING)
    engine = Engine(lambda: model, Capacity(max_num_seqs=2))
    engine.start()
    await engine.ready()
    try:
        with held(model):
            endings = [asyncio.create_task(ending(engine, request(tuple(range(20, 30 + n))))) for n in range(6)]
            await until(lambda: engine.status().running == 2 and engine.status().waiting == 4)
            model.error = ILLEGAL
        async with asyncio.timeout(500):
            ends = [await one for one in endings]
        assert all(isinstance(end, Faulted) and isinstance(end.error, DeviceFailed) for end in ends)
    finally:
        await engine.close()


@pytest.fixture
def often_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the limit is."""
    for module in ("engine", "watchdog"):
        monkeypatch.setattr(f"diffusion_worker.engine.{module}.TICK_S", 0.05)


def limit_silence(engine: Engine, timeout_s: float) -> None:
    """From the next step on: before, a busy machine may be slow."""
    assert engine._loop is not None
    engine._loop.watchdog._timeout_s, engine._loop.watchdog._longest_s = timeout_s, 0.0


class Hangs(ToyModel):
    """Waits in a pass from the moment at which `hangs` is set until `released` is."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.hangs, self.released = threading.Event(), threading.Event()

    def _take_time(self) -> None:
        super()._take_time()
        if self.hangs.is_set():
            self.released.wait(600.0)


@pytest.mark.usefixtures("often_watched")
@pytest.mark.parametrize("decoding_mode", DecodingMode)
async def test_a_step_that_hangs_ends_all_requests_and_makes_the_worker_unready(decoding_mode: DecodingMode) -> None:
    model = Hangs(denoising=DENOISING)
    engine = Engine(lambda: model, Capacity(max_num_seqs=1))
    engine.start()
    await engine.ready()
    try:
        assert isinstance(await ending(engine, request()), Finished)
        limit_silence(engine, 0.2)
        model.hangs.set()
        async with asyncio.timeout(500):
            ends = await asyncio.gather(*(ending(engine, request(decoding_mode=decoding_mode)) for _ in range(3)))
            assert all(isinstance(end, Faulted) and isinstance(end.error, DeviceHangs) for end in ends)
            assert isinstance(await engine.failure(), DeviceHangs)
        assert engine.status().state is Residency.FAILED
        assert engine.is_hanging
        with pytest.raises(DeviceFailed):
            engine.submit(request())
        async with asyncio.timeout(500):
            await engine.drain(100.0)
        assert engine._thread.is_alive(), "nothing hangs: the test says nothing"
    finally:
        model.released.set()
    engine._thread.join(60.0)
    await asyncio.sleep(0)
    assert not engine._thread.is_alive()
    assert engine.status().state in (Residency.FAILED, Residency.DRAINING), "the late step changes nothing"


@pytest.mark.usefixtures("often_watched")
async def test_a_step_that_hangs_ends_an_unload_and_a_drain() -> None:
    for leave in (Engine.unload, Engine.drain):
        model = Hangs(denoising=DENOISING)
        engine = Engine(lambda model=model: model)
        engine.start()
        await engine.ready()
        try:
            limit_silence(engine, 0.2)
            model.hangs.set()
            asking = asyncio.create_task(ending(engine, request()))
            await until(lambda engine=engine: engine.status().running == 1)
            async with asyncio.timeout(500):
                await leave(engine, 400.0)
                assert isinstance((await asking).error, DeviceHangs)  # type: ignore[union-attr]
        finally:
            model.released.set()
            await engine.close()


async def test_a_slow_step_within_its_limit_is_well() -> None:
    """Each pass takes longer than the fixed limit, as the warm-up did: slow, but not silent."""
    model = ToyModel(denoising=DENOISING, seconds_per_pass=0.05, pace=4)
    engine = Engine(lambda: model, Capacity(step_timeout_s=0.02))
    engine.start()
    await engine.ready()
    try:
        ends = await asyncio.gather(*(ending(engine, request(tuple(range(20, 30 + n)))) for n in range(4)))
        assert all(isinstance(end, Finished) for end in ends)
        assert not engine._failure.done()
    finally:
        await engine.close()


HANGING_WORKER = """
import threading, sys
import diffusion_worker.app as app
from diffusion_worker import cli
from tests.worker.serving import build, toy_model
model = toy_model()
denoise, is_ready = model.denoise, threading.Event()
def hangs(*inputs):
    if is_ready.is_set():
        threading.Event().wait()  # until the process ends
    return denoise(*inputs)
model.denoise = hangs
worker = build(model, step_timeout_s=0.5)
announce = app._announce
async def announced(worker):
    await announce(worker)
    is_ready.set()
app._announce = announced
app.build_worker = lambda _settings: worker
sys.exit(cli.main(["--checkpoint", sys.argv[1], "--port", sys.argv[2]]))
"""


@pytest.mark.slow
def test_a_process_whose_device_hangs_exits_with_the_code_for_a_failed_device(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-c", HANGING_WORKER, str(tmp_path), str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    assert any("is ready" in line for line in process.stdout)
    body = {"model": "toy", "messages": [{"role": "user", "content": "x"}]}
    answer = httpx.post(f"http://127.0.0.1:{port}{CHAT}", json=body, timeout=120)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "device_failed")
    _, complaint = process.communicate(timeout=120)
    assert process.returncode == cli.DEVICE_FAILED
    assert "a step has made no progress for" in complaint


@pytest.mark.slow
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
    port, has_ended = free_port(), threading.Event()
    client = threading.Thread(target=_break_and_ask, args=(f"http://127.0.0.1:{port}", is_broken, has_ended))
    client.start()
    try:
        assert cli.main(["--checkpoint", str(tmp_path), "--port", str(port)]) == cli.DEVICE_FAILED == 3
    finally:
        has_ended.set()
        client.join()
    assert "an illegal memory access was encountered" in capsys.readouterr().err


def _break_and_ask(url: str, is_broken: threading.Event, has_ended: threading.Event) -> None:
    """Break the device once the worker is ready, and ask until it says so or has ended, which may come first."""
    body = {"model": "toy", "messages": [{"role": "user", "content": "x"}]}
    while not has_ended.is_set():
        try:
            if httpx.get(f"{url}/health", timeout=60).status_code == 200:
                is_broken.set()
            answer = httpx.post(url + CHAT, json=body, timeout=60).json()  # a whole one if it was loading before
            if answer.get("error", {}).get("code") == "device_failed":
                return
        except httpx.TransportError:
            time.sleep(0.05)


def failing_at(moment: str) -> Callable[[], ToyModel]:
    """Loads a model whose device fails fatally: on the first load or a later one, in the weights or in the warm-up."""
    loads = [0]

    def load() -> ToyModel:
        loads[0] += 1
        model = Device(denoising=DENOISING)
        if moment.endswith("again") and loads[0] == 1:
            return model
        if moment.startswith("weights"):
            raise ILLEGAL
        model.error = ILLEGAL
        return model

    return load


@pytest.mark.parametrize("moment", ["weights", "weights, again", "warm-up", "warm-up, again"])
async def test_a_device_that_fails_during_a_load_by_request_makes_the_worker_unready_for_good(moment: str) -> None:
    engine = Engine(failing_at(moment))
    engine.start(cold=True)
    try:
        if moment.endswith("again"):
            await engine.load()
            await engine.unload(1.0)
        with pytest.raises(DeviceFailed, match="an illegal memory access"):
            await engine.load()
        assert engine.status().state is Residency.FAILED
        assert isinstance(await engine.failure(), DeviceFailed)
        with pytest.raises(DeviceFailed):
            await engine.load()
        with pytest.raises(DeviceFailed):
            engine.submit(request())
    finally:
        await engine.close()


async def test_a_device_that_fails_while_memory_is_returned_ends_the_unload(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise ILLEGAL

    engine = Engine(lambda: Device(denoising=DENOISING))
    engine.start()
    await engine.ready()
    try:
        monkeypatch.setattr("diffusion_worker.engine.engine.release_cached", fails)
        async with asyncio.timeout(500):
            await engine.unload(1.0)
            assert isinstance(await engine.failure(), DeviceFailed)
        assert engine.status().state is Residency.FAILED
    finally:
        await engine.close()


@pytest.mark.parametrize("is_cold", [False, True])
async def test_a_worker_ends_with_the_failure_of_its_device_whether_it_started_with_weights_or_without(
    is_cold: bool,
) -> None:
    worker = build(toy_model(), cold=is_cold, admin_port=0)
    engine, load = worker.serving_state.engine, failing_at("weights")
    engine._load = load
    with socket.create_server(("127.0.0.1", 0)) as public:
        running = asyncio.create_task(run_worker(worker, public))
        if is_cold:
            await until(lambda: hasattr(engine, "_loaded"))  # it has started
            with pytest.raises(DeviceFailed):
                await engine.load()
        async with asyncio.timeout(500):
            with pytest.raises(DeviceFailed, match="an illegal memory access"):
                await running


@pytest.mark.parametrize("text", FATAL)
def test_errors_that_a_cuda_context_does_not_survive_are_known(text: str) -> None:
    assert is_fatal(RuntimeError(f"CUDA error: {text}\nSearch for it in the CUDA documentation"))
    damaged = CacheDamaged("writing failed")
    damaged.__cause__ = RuntimeError(f"CUDA error: {text}")
    assert is_fatal(damaged)
    assert not is_fatal(ValueError(f"CUDA error: {text}"))
    assert not is_fatal(RuntimeError(f"the request says CUDA error: {text}"))


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: uncorrectable ECC error encountered",
        "CUDA error: uncorrectable NVLink error detected during the execution",
        "CUDA error: unknown error",
        "CUDA error: no CUDA-capable device is detected",
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx( handle, opa)`",
        "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
        "CUDA driver error: unspecified launch failure",
        "Triton Error [CUDA]: an illegal memory access was encountered",
        "HIP error: an illegal memory access was encountered",
    ],
)
def test_errors_of_every_library_of_the_device_are_known(message: str) -> None:
    assert is_fatal(RuntimeError(message))
    assert not is_fatal(RuntimeError(f"a request wrote: {message}"))
    assert not is_fatal(ValueError(message))


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: invalid argument",
        "CUDA error: invalid configuration argument",
        "CUDA error: too many resources requested for launch",
        "CUDA error: unknown errors",
        "CUDA error: CUBLAS_STATUS_INVALID_VALUE when calling `cublasSgemm`",
    ],
)
def test_errors_of_one_call_do_not_end_the_worker(message: str) -> None:
    assert not is_fatal(RuntimeError(message))


@pytest.mark.parametrize(("code", "fatal"), [*((code, True) for code in (214, 700, 721, 999)), (2, False), (1, False)])
def test_an_error_code_counts_more_than_the_text(code: int, fatal: bool) -> None:
    error = torch.AcceleratorError("a text of a later version")
    error.error_code = code
    assert is_fatal(error) == fatal
    context = RuntimeError("the weights could not be converted")
    context.__context__ = error
    assert is_fatal(context) == fatal


def test_a_lack_of_memory_is_told_from_other_errors() -> None:
    with pytest.raises(RuntimeError) as host:
        torch.empty(10**15)
    assert is_out_of_memory(host.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("CUDA error: misaligned address"))
    assert not any(is_fatal(error) for error in (host.value, torch.OutOfMemoryError("CUDA out of memory.")))
