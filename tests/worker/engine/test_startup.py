"""Before `ready`: a warm-up step, and a smaller plan where the device needs more memory than computed."""

import gc
import itertools
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusion_worker.constraints.inference.class_reduction import ClassLayout
from diffusion_worker.denoise import class_scores, step
from diffusion_worker.denoise.class_scores import chunk_sums, class_numbers, on_device
from diffusion_worker.engine import startup, warm_up
from diffusion_worker.engine.engine import Engine
from diffusion_worker.engine.limits import Limits
from diffusion_worker.engine.loop import Capacity, Loop
from diffusion_worker.engine.startup import open_loop, replan, same_sizes
from diffusion_worker.engine.step_cost import positions_of
from diffusion_worker.engine.warm_up import CudaPeak, largest_batch, run_largest_step, single_row_batches
from diffusion_worker.errors import BadSetting, CheckpointBroken, DeviceFailed
from diffusion_worker.memory.kv_cache import PrefillView
from diffusion_worker.memory.serving_plan import ServingPlan, plan_serving
from diffusion_worker.models.device_errors import FATAL
from diffusion_worker.models.interface import CanvasContext
from diffusion_worker.models.toy import ToyModel
from diffusion_worker.types.observations import Observation, StartObserved, StartPhase
from diffusion_worker.types.status import Residency
from tests.worker.denoise.test_class_scores import token_sets_of
from tests.worker.memory.test_serving_plan import BF16, DEFAULTS

CARD = 80 * 10**9


def plan_for(scale: float) -> ServingPlan:
    return plan_serving(BF16, DEFAULTS, CARD, step_scale=scale)


@given(share=st.floats(0.0, 1.3))
def test_the_larger_of_the_computed_and_the_measured_peak_counts(share: float) -> None:
    computed = plan_for(1.0)
    scale, refined = replan(plan_for, 1.0, computed, int(share * computed.step_bytes))
    assert refined.step_bytes == pytest.approx(max(1.0, share) * refined.step_bytes / scale, rel=1e-6)
    assert (scale == 1.0) == (int(share * computed.step_bytes) <= computed.step_bytes)
    assert refined.max_context <= computed.max_context
    assert share > 1.0 or refined == computed


def test_a_warm_up_without_enough_memory_leads_to_a_smaller_plan_until_nothing_fits() -> None:
    contexts = [plan_for(1.0).max_context]

    def reduce() -> None:
        scale, plan = 1.0, plan_for(1.0)
        while True:
            scale, plan = replan(plan_for, scale, plan, None)
            contexts.append(plan.max_context)

    with pytest.raises(BadSetting, match="--max-num-seqs"):
        reduce()
    assert contexts == sorted(contexts, reverse=True)
    assert contexts[-1] < contexts[0]


def test_an_open_loop_has_been_warmed_up_with_the_plan_that_it_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first step takes more than the computed memory, the next plan runs out of memory: then a third one is
    used."""
    tried: list[ServingPlan] = []

    def warm_up(loop: Loop) -> int | None:
        tried.append(loop.plan)
        if len(tried) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return int(1.3 * loop.plan.step_bytes) if len(tried) == 1 else 1

    monkeypatch.setattr(Loop, "warm_up", warm_up)
    monkeypatch.setattr(startup, "plan_of", lambda _model, _capacity, *, step_scale: plan_for(step_scale))
    loop = open_loop(ToyModel(max_context=262_144), Capacity(prefix_slots=8))
    assert loop.plan is tried[-1]
    assert len(tried) == 3
    assert not any(same_sizes(one, other) for one, other in itertools.pairwise(tried))


@pytest.mark.parametrize("is_exact", [False, True])
def test_the_largest_step_has_every_pass_for_every_row_and_leaves_an_empty_cache(
    make_model: Any, is_exact: bool
) -> None:
    model = make_model(end_ids=())
    loop = Loop(model, Capacity(max_num_seqs=3, max_context=64, max_prefill_tokens=40, is_exact=is_exact))
    batch = largest_batch(model.info, loop.limits)
    for items, tokens in ((batch.prefills, None), (batch.denoises, None), (batch.decodes, 1)):
        assert {item.slot for item in items} == {0, 1, 2}
        assert tokens is None or {len(item.ids) for item in items} == {tokens}
    assert {(len(item.ids), item.is_seal) for item in batch.prefills} == {(40, False), (12, True)}
    rows, denoise = list[int](), model.denoise
    model.denoise = lambda canvas, *others: (rows.append(len(canvas)), denoise(canvas, *others))[1]
    assert run_largest_step(model, loop._stepper.cache, loop.limits, loop._padding) is None, "not measured on a CPU"
    assert set(rows) == ({3} if is_exact else {3, 1}), "canvas passes of several rows and of one may be compiled"
    assert not any(store.any() for store in (*loop._stepper.cache.keys, *loop._stepper.cache.values))


def test_the_largest_step_reads_as_many_prompt_tokens_as_a_step_may_have() -> None:
    """Also if no context is long enough to read them alone."""
    limits = Limits(max_num_seqs=3, max_waiting=0, max_context=64, max_prefill_tokens=80, is_mixed=True)
    prompts = [len(item.ids) for item in largest_batch(ToyModel().info, limits).prefills if not item.is_seal]
    assert sum(prompts) == 80


class Recorded:
    """A meter that notes how many passes had run when it was asked."""

    def __init__(self, model: ToyModel) -> None:
        self._model = model
        self.passes = list[int]()

    def start(self) -> None:
        self.passes.append(self._model.passes)

    def peak(self) -> int:
        self.passes.append(self._model.passes)
        return 1234


def test_the_peak_is_measured_around_all_passes_of_the_largest_step() -> None:
    model = ToyModel()
    loop = Loop(model, Capacity(max_num_seqs=2, max_context=64))
    meter = Recorded(model)
    assert run_largest_step(model, loop._stepper.cache, loop.limits, None, meter) == 1234
    assert meter.passes == [0, 4 + 4 + 1], "prompt chunks, canvases, verifications and decodes; a row"


def test_a_row_alone_is_stepped_too_also_pinned_and_sampled_by_temperature_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An accelerator may compile its kernels anew for them: before the worker is ready, not in a request."""
    model, seen, settled = ToyModel(), list[int](), list[tuple[bool, bool]]()
    denoise, settle = model.denoise, step.settle

    def noted(canvas: torch.Tensor, *others: Any) -> torch.Tensor:
        seen.append(len(canvas))
        return denoise(canvas, *others)

    def noting(parameters: torch.Tensor, numbers: list[torch.Tensor], *others: Any) -> Any:
        settled.append((others[-1] is not None, len({each.data_ptr() for each in numbers}) == len(numbers)))
        return settle(parameters, numbers, *others)

    monkeypatch.setattr(model, "denoise", noted)
    monkeypatch.setattr(step, "settle", noting)
    loop = Loop(model, Capacity(max_num_seqs=3, max_context=64))
    run_largest_step(model, loop._stepper.cache, loop.limits, None)
    assert seen == [3, 1, 1]
    assert settled == [(False, True), (False, True), (True, True)], "(has pins, no tensor twice)"
    *_, alone = single_row_batches(model.info, loop.limits)
    assert [(row.temperature, row.truncation, row.penalties) for row in alone.denoises] == [(0.7, None, None)]


class Compiling(ToyModel):
    """Compiles for 1,000 s whenever it meets another number of rows."""

    is_compiled = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.now, self.known = 0.0, set[int]()

    def denoise(self, canvas: torch.Tensor, soft: torch.Tensor, context: CanvasContext) -> torch.Tensor:
        self.now += 1.0 if len(canvas) in self.known else 1000.0
        self.known.add(len(canvas))
        return super().denoise(canvas, soft, context)


@pytest.mark.parametrize("is_card", [False, True])
def test_all_kernels_are_compiled_in_the_warm_up_and_no_later_step_may_take_as_long(is_card: bool) -> None:
    model = Compiling()
    loop = Loop(model, Capacity(max_num_seqs=2, max_context=64, step_timeout_s=10.0), clock=lambda: model.now)
    if is_card:  # as `Loop.warm_up` does
        positions = positions_of(largest_batch(model.info, loop.limits))
        watched = loop.watchdog.step(positions)
        run_largest_step(model, loop._stepper.cache, loop.limits, None, watched=watched)
    else:
        positions = loop._device_check.positions
        loop.warm_up()
    assert model.known == {1, 2}
    with loop.watchdog.step(positions):
        for _ in range(60):
            model.now += 1.0
            silence_s = loop.watchdog.silence_s(model.now)
    assert silence_s is not None, "one that hangs is noticed"


def test_the_kernel_of_constrained_rows_exists_before_the_first_of_them(
    make_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is compiled for tensors of the types that it gets then, and is not called where a graph of its own would be
    compiled: a constraint whose tokens are all apart has no chunks."""
    model, seen = make_model(), list[tuple[Any, ...]]()

    def kinds(*args: Any) -> tuple[Any, ...]:
        return tuple((each.dtype, each.dim()) if isinstance(each, torch.Tensor) else each for each in args)

    def reduced(*args: Any) -> torch.Tensor:
        assert args[0].shape[-1] == model.info.vocab_size
        seen.append(kinds(*args))
        return chunk_sums(*args)

    for module in (warm_up, class_scores):
        monkeypatch.setattr(module, "chunk_sums", reduced)
    loop = Loop(model, Capacity(max_num_seqs=2, max_context=64))
    run_largest_step(model, loop._stepper.cache, loop.limits, None)
    logits = torch.zeros(3, model.info.vocab_size, dtype=model.dtype)
    for sizes in ((1,) * model.info.vocab_size, (1, 2, model.info.vocab_size - 3)):
        layout = ClassLayout(token_sets_of(sizes))
        class_numbers(logits, on_device(layout, model.device), torch.tensor(0.8), 1.0, model.info.logit_cap)
    assert len(seen) == 2
    assert seen[0] == seen[1]


def test_the_peak_of_a_card_is_what_its_allocator_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated: no CUDA device is needed."""
    said = {"memory_allocated": 700, "max_memory_allocated": 1900, "reset_peak_memory_stats": None}
    for name, value in said.items():
        monkeypatch.setattr(torch.cuda, name, lambda _device, value=value: value)
    meter = CudaPeak(torch.device("cuda:1"))
    meter.start()
    assert meter.peak() == 1200


def test_a_largest_batch_fits_into_a_context_that_is_shorter_than_a_chunk_and_a_canvas() -> None:
    limits = Limits(max_num_seqs=2, max_waiting=0, max_context=8)
    batch = largest_batch(ToyModel().info, limits)
    assert all(item.at >= 0 for item in (*batch.prefills, *batch.denoises, *batch.decodes))
    assert all(item.at + len(item.ids) <= 8 for item in (*batch.prefills, *batch.decodes))


def test_a_failed_pass_of_the_largest_step_is_not_repeated_row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    model, passes = ToyModel(), list[int]()

    def short(canvas: torch.Tensor, *_: Any) -> torch.Tensor:
        passes.append(len(canvas))
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(model, "denoise", short)
    loop = Loop(model, Capacity(max_num_seqs=4, max_context=64))
    with pytest.raises(torch.OutOfMemoryError):
        run_largest_step(model, loop._stepper.cache, loop.limits, None)
    assert passes == [4]


@pytest.mark.anyio
async def test_a_worker_is_ready_only_after_a_step() -> None:
    model, states, seen = ToyModel(), list[Residency](), list[Observation]()
    engine = Engine(lambda: model, observe=seen.append)
    denoise = model.denoise

    def watched(*inputs: Any) -> torch.Tensor:
        states.append(engine.status().state)
        return denoise(*inputs)

    model.denoise = watched  # type: ignore[method-assign]
    engine.start()
    await engine.ready()
    assert states == [Residency.LOADING]
    phases = {each.phase: each.seconds for each in seen if isinstance(each, StartObserved)}
    assert phases.keys() == set(StartPhase)
    assert phases[StartPhase.COMPILE] == 0.0 < phases[StartPhase.WARM_UP]
    await engine.close()


def test_seconds_of_compiling_are_told_apart_from_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Observation] = []

    def warm_up(_loop: Loop) -> None:
        torch.compile(lambda x: x * 3, backend="eager")(torch.ones(2))

    monkeypatch.setattr(Loop, "warm_up", warm_up)
    open_loop(ToyModel(), Capacity(), seen.append)
    phases = {each.phase: each.seconds for each in seen if isinstance(each, StartObserved)}
    assert phases[StartPhase.COMPILE] > 0.0


def raises(error: Exception) -> Callable[..., torch.Tensor]:
    def encode(*_: Any) -> torch.Tensor:
        raise error

    return encode


@pytest.mark.parametrize(
    ("encode", "error", "says"),
    [
        (
            raises(ImportError("kernels is required")),
            BadSetting,
            "warm-up step failed: ImportError: kernels is required",
        ),
        (raises(RuntimeError(f"CUDA error: {FATAL[0]}")), DeviceFailed, "the device failed in the warm-up step"),
        (raises(KeyError("a defect")), KeyError, "a defect"),
        (lambda ids, _context: torch.full((*ids.shape, 1), torch.nan), CheckpointBroken, "the warm-up step failed"),
    ],
)
@pytest.mark.anyio
async def test_a_worker_whose_first_step_fails_does_not_become_ready(
    encode: Callable[..., torch.Tensor], error: type[Exception], says: str
) -> None:
    model = ToyModel()
    model.encode = encode  # type: ignore[method-assign]
    engine = Engine(lambda: model)
    engine.start()
    with pytest.raises(error, match=says):
        await engine.ready()
    assert engine.status().state is (Residency.FAILED if error is DeviceFailed else Residency.COLD)
    await engine.close()


@pytest.mark.parametrize(
    ("cause", "error", "says"),
    [
        (RuntimeError(f"CUDA error: {FATAL[0]}"), DeviceFailed, "an illegal memory access"),
        (RuntimeError("index out of range"), BadSetting, "the warm-up step failed: CacheDamaged: writing to the KV"),
    ],
)
def test_writes_to_the_cache_that_fail_in_the_warm_up_are_reported_by_their_cause(
    cause: Exception, error: type[Exception], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PrefillView, "write", raises(cause))
    monkeypatch.setattr(Loop, "warm_up", warm_up_on_a_card)
    with pytest.raises(error, match=says):
        open_loop(ToyModel(), Capacity(max_context=64))


def test_a_write_to_the_cache_without_memory_leads_to_a_smaller_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    write, plans = PrefillView.write, list[ServingPlan]()

    def short(view: PrefillView, counts: Sequence[int] | None = None) -> None:
        if len(plans) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        write(view, counts)

    def warm_up(loop: Loop) -> int | None:
        plans.append(loop.plan)
        return warm_up_on_a_card(loop)

    monkeypatch.setattr(PrefillView, "write", short)
    monkeypatch.setattr(Loop, "warm_up", warm_up)
    monkeypatch.setattr(
        startup,
        "plan_of",
        lambda _model, _capacity, *, step_scale: ServingPlan(
            max_context=64,
            max_num_seqs=4 if step_scale == 1.0 else 3,
            slots=4,
            step_bytes=1,
            memory_limit_bytes=10**9,
        ),
    )
    loop = open_loop(ToyModel(), Capacity(max_context=64))
    assert [plan.max_num_seqs for plan in plans] == [4, loop.plan.max_num_seqs] == [4, 3]


def warm_up_on_a_card(loop: Loop) -> int | None:
    """The step that a device other than a CPU runs."""
    return run_largest_step(loop.model, loop._stepper.cache, loop.limits, loop._padding)


@pytest.mark.anyio
async def test_a_refused_start_does_not_keep_the_weights() -> None:
    models: list[weakref.ref[ToyModel]] = []

    def load() -> ToyModel:
        model = ToyModel()
        model.encode = raises(ImportError("kernels is required"))  # type: ignore[method-assign]
        models.append(weakref.ref(model))
        return model

    engine = Engine(load)
    engine.start()
    with pytest.raises(BadSetting):
        await engine.ready()
    gc.collect()
    assert models[0]() is None
    await engine.close()
