"""A step that fails at any point changes no later answer: property over every tensor operation of a run."""

import copy
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from diffusion_worker.engine import loop as loop_module
from diffusion_worker.engine.loop import Capacity, Loop
from diffusion_worker.errors import StepFailed
from diffusion_worker.memory import kv_cache
from diffusion_worker.memory.contexts import Contexts
from diffusion_worker.memory.prompt_scores import PromptScores
from diffusion_worker.types.confidence import ConfidenceWeights
from diffusion_worker.types.events import BlockSealed, Event, Faulted, Finished
from diffusion_worker.types.requests import DecodingMode, DenoisingParams, GenerationRequest, Penalties
from diffusion_worker.types.step_batch import Batch, Copy
from tests.worker.conftest import _make_model

DENOISING = DenoisingParams(steps=3, canvas_length=8, confidence_threshold=1e-12)
PREFIX = tuple(range(6, 40))  # longer than MIN_SNAPSHOT, and than the windows of the model
ERRORS: tuple[Callable[[], Exception], ...] = (
    lambda: RuntimeError("a kernel failed"),
    lambda: torch.OutOfMemoryError("out of memory"),
    MemoryError,
    lambda: KeyError("not an error of a forward pass"),
)


# Writes to slots by a pass, to slots by a copy and to new memory; None: every operation.
KINDS = (None, "aten::index_put_", "aten::copy_", "aten::new_zeros")


class FaultyDevice(TorchDispatchMode):
    """Raises an error in place of `repeats` tensor operations of one kind, from the one with number `at` on; counts
    them all."""

    def __init__(
        self, kind: str | None, at: int = -1, repeats: int = 1, error: Callable[[], Exception] = ERRORS[0]
    ) -> None:
        super().__init__()
        self.count, self._kind, self._bad, self._error = 0, kind, range(at, at + repeats), error

    @property
    def is_done(self) -> bool:
        """Whether the faults are over: later operations need not be counted, which doubles their time."""
        return self._bad.start >= 0 and self.count >= self._bad.stop

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._kind in (None, func.name().split(".")[0]):
            self.count += 1
            if self.count - 1 in self._bad:
                raise self._error()
        return func(*args, **(kwargs or {}))


def requests() -> list[GenerationRequest]:
    """Three requests that share a prefix, and two that do not; each needs two canvases or several tokens. One has a
    canvas of another length and penalties, and one is verified."""
    base = GenerationRequest(prompt_ids=PREFIX, max_tokens=12, seed=1, denoising=DENOISING, temperature=1.0)
    return [
        replace(base, prompt_ids=(*PREFIX, 31), seed=2),
        replace(
            base,
            prompt_ids=(*PREFIX, 32, 33),
            seed=3,
            stream_prefix=True,
            denoising=replace(DENOISING, canvas_length=6),
            penalties=Penalties(presence=0.5, repetition=1.2),
        ),
        replace(base, prompt_ids=(*PREFIX, 34), seed=4, decoding_mode=DecodingMode.AUTOREGRESSIVE, max_tokens=5),
        replace(base, prompt_ids=tuple(range(40, 45)), seed=5),
        replace(base, prompt_ids=tuple(range(50, 53)), seed=6, decoding_mode=DecodingMode.VERIFIED),
    ]


@dataclass(frozen=True)
class Kind:
    """A kind of worker. `scores`: its confidence depends on the likelihood of prompts, which is kept with contexts."""

    is_exact: bool = False
    scores: bool = False


USUAL = Kind()


@cache
def model(scores: bool = False) -> Any:
    made = _make_model(end_ids=(), window=8)
    if scores:
        weights = ConfidenceWeights(intercept=1.0, weights={"prompt_surprise": -0.3})
        made.info = replace(made.info, confidence=dict.fromkeys(DecodingMode, weights))
    return made


def fresh(kind: Kind = USUAL) -> Loop:
    # All prompts fit in a step, so that batches do not depend on the measured times that order them.
    capacity = Capacity(max_num_seqs=5, max_context=64, prefix_slots=5, max_prefill_tokens=128, is_exact=kind.is_exact)
    it = Loop(model(kind.scores), capacity)
    it._checked_at = math.inf  # no measured memory pressure: `served` makes it up at fixed turns
    return it


@cache
def _warm(kind: Kind) -> Loop:
    it = fresh(kind)
    served(it, requests()[:1])
    served(it, requests()[1:2])
    return it


def warmed(kind: Kind = USUAL) -> Loop:
    """A loop that retains contexts, among them the shared prefix itself, which later requests copy. A copy of one that
    has served, which takes longer to make."""
    warm, shared = _warm(kind), model(kind.scores)
    return copy.deepcopy(warm, {id(shared): shared, id(warm._lock): threading.Lock()})


def served(it: Loop, wave: Sequence[GenerationRequest], device: FaultyDevice | None = None) -> list[list[Event]]:
    """Events of every request. Steps run on `device` as the engine runs them; memory becomes short in between."""
    events: dict[int, list[Event]] = {it.add(one): [] for one in wave}
    turn = 0
    while it.scheduler.has_work:
        if device and turn == 4:
            it.scheduler.set_max_rows(2, 0.0)
            it.scheduler.evict_retained()
        if device and turn == 7:
            it.scheduler.set_max_rows(5, 0.0)
            it.scheduler.restore_slots(it._max_slots)
        turn += 1
        for sequence, event in stepped(it, device):
            events[sequence].append(event)
    return list(events.values())


def stepped(it: Loop, device: FaultyDevice | None) -> Sequence[tuple[int, Event]]:
    if device is None or device.is_done:
        return it.step()
    try:
        with device:
            return it.step()
    except Exception as error:
        it.recover(error)
        assert it.scheduler.slots.retained == it.scheduler.running == 0
        return ()


def ids(events: Sequence[Event]) -> tuple[int, ...]:
    return tuple(token for event in events if hasattr(event, "ids") for token in event.ids)


def confidence(events: Sequence[Event]) -> float | None:
    assert isinstance(events[-1], Finished)
    return events[-1].usage.confidence


@cache
def expected(kind: Kind = USUAL) -> list[list[Event]]:
    return served(fresh(kind), requests())


@cache
def operations(worker: Kind, kind: str | None) -> int:
    """Number of such tensor operations in a run without faults."""
    it, counting = warmed(worker), FaultyDevice(kind)
    served(it, requests(), counting)
    assert counting.count, "there is none: the test says nothing"
    return counting.count


@given(
    kind=st.sampled_from(KINDS),
    share=st.floats(0.0, 1.0, exclude_max=True),
    repeats=st.sampled_from((1, 1, 3, 40, 400)),
    error=st.sampled_from(ERRORS),
    worker=st.builds(Kind, is_exact=st.booleans(), scores=st.booleans()),
)
@settings(max_examples=settings().max_examples * 3 // 5)  # each takes over half a second
@pytest.mark.slow
def test_after_a_fault_at_any_operation_every_answer_equals_that_of_a_fresh_worker(
    kind: str | None, share: float, repeats: int, error: Callable[[], Exception], worker: Kind
) -> None:
    it = warmed(worker)
    faulty = FaultyDevice(kind, int(share * operations(worker, kind)), repeats, error)
    survivors = served(it, requests(), faulty)
    for survivor, whole in zip(survivors, expected(worker), strict=True):
        assert isinstance(survivor[-1], Finished | Faulted)
        if isinstance(survivor[-1], Finished):
            assert ids(survivor) == ids(whole)
            assert confidence(survivor) == pytest.approx(confidence(whole), abs=1e-6)
    it.scheduler.set_max_rows(5, 0.0)
    it.scheduler.restore_slots(it._max_slots)
    it.step()
    has_prefixes = it.scheduler.slots.retained > 0
    later = served(it, requests())
    assert [ids(one) for one in later] == [ids(one) for one in expected(worker)]
    assert [confidence(one) for one in later] == pytest.approx([confidence(one) for one in expected(worker)], abs=1e-6)
    if not has_prefixes:  # the same batches as a fresh worker's: the same bits, and the same passes
        assert later == expected(worker)
    assert len(it.scheduler.slots) == it._stepper.slots


def test_copies_of_a_failed_step_are_not_believed_to_have_been_made(monkeypatch: pytest.MonkeyPatch) -> None:
    it = warmed()
    step, copies = it._stepper.step, list[Copy]()

    def fails_with_copies(batch: Batch) -> Any:
        copies.extend(batch.copies)
        if batch.copies:
            raise RuntimeError("a kernel failed")
        return step(batch)

    with monkeypatch.context() as patched:
        patched.setattr(it._stepper, "step", fails_with_copies)
        lost = it.add(requests()[0])
        with pytest.raises(RuntimeError, match="a kernel failed") as failure:
            it.step()
    it.recover(failure.value)
    assert copies, "nothing was copied: the test says nothing"
    [(sequence, event)] = it.step()
    assert sequence == lost
    assert isinstance(event, Faulted)
    assert isinstance(event.error, StepFailed)
    assert served(it, requests()) == expected()


def test_queued_requests_survive_a_failed_step(monkeypatch: pytest.MonkeyPatch) -> None:
    it = Loop(model(), Capacity(max_num_seqs=1, max_context=64), gauge=lambda: (10, 100))
    running, queued = (it.add(one) for one in (requests()[0], requests()[3]))
    with monkeypatch.context() as patched:
        patched.setattr(it._stepper, "_fetch", lambda _outcomes: torch.zeros(2) @ torch.zeros(3))
        with pytest.raises(RuntimeError) as failure:
            it.step()
    it.recover(failure.value)
    events: dict[int, list[Event]] = {running: [], queued: []}
    while it.scheduler.has_work:
        for sequence, event in it.step():
            events[sequence].append(event)
    assert isinstance(events[running][-1], Faulted)
    assert ids(events[queued]) == ids(expected()[3])


def test_a_resize_without_memory_keeps_the_old_slots_and_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "PRESSURE_EVERY_S", 0.0)
    monkeypatch.setattr("diffusion_worker.memory.pressure.HOLD_S", 0.0)
    share = [88]
    it = Loop(model(), Capacity(max_num_seqs=5, max_context=64, prefix_slots=3), gauge=lambda: (share[0], 100))
    it.step()
    assert len(it.scheduler.slots) == it._stepper.slots == 5
    share[0], allocate, allocated = 10, kv_cache._resized, 0

    def short(store: torch.Tensor, slots: int, *, kept: int) -> torch.Tensor:
        nonlocal allocated
        allocated += slots > 5
        if allocated > 3:
            raise torch.OutOfMemoryError("out of memory")
        return allocate(store, slots, kept=kept)

    with monkeypatch.context() as patched:
        patched.setattr(kv_cache, "_resized", short)
        it.step()
        assert allocated > 3, "the memory was not short: the test says nothing"
        assert len(it.scheduler.slots) == it._stepper.slots == 5
        assert [ids(one) for one in served(it, requests())] == [ids(one) for one in expected()]
        assert allocated == 4, "not tried again at once"
    assert {len(store) for store in (*it._stepper.cache.keys, *it._stepper.cache.values)} <= {5, 8}
    it._grow_from = 0.0  # GROW_RETRY_S later
    it.step()
    assert len(it.scheduler.slots) == it._stepper.slots == 8
    assert [ids(one) for one in served(it, requests())] == [ids(one) for one in expected()]


@pytest.mark.slow
@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("at", [0, 1])
def test_scores_without_memory_for_more_slots_keep_the_cache_at_the_old_number(
    error: Callable[[], Exception], at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise each answer in a new slot would fail."""
    kind, resize = Kind(scores=True), PromptScores.resize
    it = fresh(kind)
    it.scheduler.evict_retained()
    it.step()
    assert it._stepper.slots == 5

    def short(scores: PromptScores, slots: int) -> None:
        with FaultyDevice("aten::new_zeros", at, error=error):
            resize(scores, slots)

    with monkeypatch.context() as patched:
        patched.setattr(PromptScores, "resize", short)
        it.scheduler.restore_slots(it._max_slots)
        try:
            it.step()
        except Exception as failure:
            it.recover(failure)
    assert len(it.scheduler.slots) == it._stepper.slots == 5
    assert served(it, requests()) == expected(kind)
    it.scheduler.restore_slots(it._max_slots)
    it.step()
    assert it._stepper.slots == it._max_slots
    assert [ids(one) for one in served(it, requests())] == [ids(one) for one in expected(kind)]


def test_blocks_sealed_before_a_failed_step_stay_delivered() -> None:
    it = fresh()
    sequence = it.add(requests()[0])
    events: list[Event] = []
    while not any(isinstance(event, BlockSealed) for event in events):
        events += [event for _, event in it.step()]
    with pytest.raises(KeyError) as failure, FaultyDevice(None, 0, 1, ERRORS[3]):
        it.step()
    it.recover(failure.value)
    events += [event for who, event in it.step() if who == sequence]
    assert isinstance(events[-1], Faulted)
    assert ids(events) == ids(expected()[0])[: len(ids(events))] != ()


@pytest.mark.slow
def test_a_seal_that_fails_halfway_is_not_repeated_over_the_ring_that_it_has_overwritten() -> None:
    """Repeated row by row, the pass would attend to new entries in place of the old ones that they replaced."""
    for at in range(0, operations(USUAL, "aten::index_put_"), 5):
        it = warmed()
        faulty = FaultyDevice("aten::index_put_", at)
        for survivor, whole in zip(served(it, requests(), faulty), expected(), strict=True):
            assert isinstance(survivor[-1], Faulted) or ids(survivor) == ids(whole)


def test_scores_of_a_prompt_that_were_stored_in_part_are_not_stored_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a repeated pass, the last token of a chunk would stand for the token before it."""
    kind, store = Kind(scores=True), Contexts.score

    def fails_in_the_middle(contexts: Contexts, *inputs: Any, **options: Any) -> Callable[[], None]:
        keep = store(contexts, *inputs, **options)

        def broken() -> None:
            with FaultyDevice("aten::copy_", at=1):
                keep()

        return broken

    it = warmed(kind)
    lost = [it.add(one) for one in requests()[:2]]
    with monkeypatch.context() as patched:
        patched.setattr(Contexts, "score", fails_in_the_middle)
        with pytest.raises(kv_cache.CacheDamaged, match="storing the scores of a prompt failed") as failure:
            it.step()
    it.recover(failure.value)
    assert {sequence for sequence, event in it.step() if isinstance(event, Faulted)} == set(lost)
    assert served(it, requests()) == expected(kind)
