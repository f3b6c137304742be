"""The scheduler with artificial results: no torch, no model, no clock."""

import subprocess
import sys
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_worker.engine.limits import Limits
from diffusion_worker.engine.scheduler import Scheduler
from diffusion_worker.errors import (
    Cancelled,
    DeadlineExceeded,
    NotFinite,
    OutOfRange,
    OverCapacity,
    PromptTooLong,
    StepFailed,
)
from diffusion_worker.memory.slots import SlotTable
from diffusion_worker.types.events import BlockSealed, Event, Faulted, Finished, FinishReason
from diffusion_worker.types.model_info import LayerKv, ModelInfo, StepShape
from diffusion_worker.types.observations import (
    BlockObserved,
    BlockStop,
    Observation,
    Outcome,
    SequenceObserved,
    StepObserved,
)
from diffusion_worker.types.requests import DecodingMode, DenoisingParams, GenerationRequest
from diffusion_worker.types.step_batch import Batch, CanvasResult, RowFault, StepResult, TokenResult

END = 1
DENOISING = DenoisingParams(steps=3, canvas_length=4)
INFO = ModelInfo(
    vocab_size=100,
    hidden_size=8,
    step=StepShape(vocab_size=100, attention_width=1, feed_forward_width=1),
    max_context=64,
    denoising=DENOISING,
    end_ids=(END, 2),
    pad_id=0,
    parameters=0,
    dtype="float32",
    weight_bytes=0,
)
REQUEST = GenerationRequest(prompt_ids=(10, 11, 12), max_tokens=8, seed=5, denoising=DENOISING)
READ = replace(REQUEST, decoding_mode=DecodingMode.AUTOREGRESSIVE)


LAYERS = (LayerKv(heads=1, head_dim=1, window=None),)


def scheduler(*, running: int = 2, waiting: int = 2, seen: list[Observation] | None = None, **more: Any) -> Scheduler:
    limits = Limits(max_num_seqs=running, max_waiting=waiting, max_context=64, **more)
    slots = SlotTable(LAYERS, running, itemsize=4)
    return Scheduler(INFO, limits, slots, seen.append if seen is not None else None)


def canvas(sequence: int, ids: tuple[int, ...], *, converged: bool = False, logprob: float = -0.5) -> CanvasResult:
    return CanvasResult(
        sequence=sequence,
        ids=ids,
        logprobs=(logprob,) * len(ids),
        mean_entropy=0.25,
        accepted=1,
        stable_prefix=0,
        has_converged=converged,
    )


def play(it: Scheduler, *ids: tuple[int, ...], converged: bool = False, now: float = 0.0) -> list[tuple[int, Event]]:
    """Run one iteration per given canvas; every running canvas equals it."""
    happened: list[tuple[int, Event]] = []
    for surest in ids:
        batch = it.next_batch(now)
        result = StepResult(canvases=tuple(canvas(d.sequence, surest, converged=converged) for d in batch.denoises))
        happened += it.update_from_output(batch, result, now)
    return happened


def read(it: Scheduler, *tokens: int, now: float = 0.0) -> list[tuple[int, Event]]:
    happened: list[tuple[int, Event]] = []
    for token in tokens:
        batch = it.next_batch(now)
        result = StepResult(
            tokens=tuple(TokenResult(sequence=r.sequence, id=token, logprob=-0.5) for r in batch.decodes)
        )
        happened += it.update_from_output(batch, result, now)
    return happened


def texts(happened: list[tuple[int, Event]]) -> list[tuple[int, ...]]:
    return [event.ids for _, event in happened if isinstance(event, BlockSealed)]


def last(happened: list[tuple[int, Event]]) -> Finished | Faulted:
    end = happened[-1][1]
    assert isinstance(end, Finished | Faulted)
    return end


def test_deciding_needs_no_torch() -> None:
    modules = "diffusion_worker.engine.scheduler, diffusion_worker.memory.slots, diffusion_worker.memory.pressure"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_canvas_runs_through_its_steps_then_is_sealed_then_the_next_opens() -> None:
    it = scheduler()
    it.add(REQUEST, 0.0)
    first = it.next_batch(0.0)
    assert [(a.ids, a.at) for a in first.prefills] == [((10, 11, 12), 0)]
    assert [(d.block, d.step) for d in first.denoises] == [(0, 3)]
    assert texts(list(it.update_from_output(first, StepResult(canvases=(canvas(1, (5, 6, 7, 8)),)), 0.0))) == []
    assert texts(play(it, (5, 6, 7, 9), (5, 6, 7, 9))) == [(5, 6, 7, 9)]
    second = it.next_batch(0.0)
    assert [(a.ids, a.at) for a in second.prefills] == [((5, 6, 7, 9), 3)], "the sealed canvas extends the context"
    assert [(d.block, d.step) for d in second.denoises] == [(1, 3)]


def test_a_converged_canvas_does_not_use_up_its_steps() -> None:
    it = scheduler()
    it.add(REQUEST, 0.0)
    end = last(play(it, (5, 6, 7, 8), (5, 6, 7, 8), converged=True))
    assert isinstance(end, Finished)
    assert (end.usage.denoising_steps, end.usage.forward_passes) == (2, 4)
    assert end.usage.converged


@pytest.mark.parametrize(
    ("max_tokens", "ids", "visible", "reason", "counted"),
    [
        (8, (5, END, 6, 7), (5,), FinishReason.STOP, 2),
        (8, (END, 5, 6, 7), (), FinishReason.STOP, 1),
        (8, (5, 2, END, 7), (5,), FinishReason.STOP, 2),
        (3, (5, 6, 7, 8), (5, 6, 7), FinishReason.LENGTH, 3),
        (4, (5, 6, 7, 8), (5, 6, 7, 8), FinishReason.LENGTH, 4),
        (2, (5, 6, END, 8), (5, 6), FinishReason.LENGTH, 2),
        (3, (5, 6, END, 8), (5, 6), FinishReason.STOP, 3),
        (1, (END, 0, 0, 0), (), FinishReason.STOP, 1),
    ],
)
def test_an_answer_ends_at_its_first_end_token_or_exactly_at_max_tokens(
    max_tokens: int, ids: tuple[int, ...], visible: tuple[int, ...], reason: FinishReason, counted: int
) -> None:
    it = scheduler()
    it.add(replace(REQUEST, max_tokens=max_tokens), 0.0)
    happened = play(it, ids, converged=True)
    end = last(happened)
    assert texts(happened) == [visible]
    assert isinstance(end, Finished)
    assert (end.reason, end.usage.completion_tokens) == (reason, counted)


def test_max_tokens_is_exact_across_blocks() -> None:
    it = scheduler()
    it.add(replace(REQUEST, max_tokens=10), 0.0)
    assert texts(play(it, *[(5, 6, 7, 8)] * 3, converged=True)) == [(5, 6, 7, 8), (5, 6, 7, 8), (5, 6)]


def test_the_most_likely_canvas_of_the_last_step_is_sealed_even_if_it_never_converged() -> None:
    it = scheduler()
    it.add(replace(REQUEST, max_tokens=4), 0.0)
    happened = play(it, (5, 5, 5, 5), (6, 6, 6, 6), (7, 8, 7, 8))
    end = last(happened)
    assert texts(happened) == [(7, 8, 7, 8)]
    assert end.usage.converged is False


def test_confidence_is_the_geometric_mean_over_the_emitted_tokens_end_token_included() -> None:
    it = scheduler()
    it.add(REQUEST, 0.0)
    batch = it.next_batch(0.0)
    surest = CanvasResult(
        sequence=1,
        ids=(5, END, 7, 8),
        logprobs=(-0.2, -0.4, -9, -9),
        mean_entropy=0.0,
        accepted=4,
        stable_prefix=0,
        has_converged=True,
    )
    [*_, (_, end)] = it.update_from_output(batch, StepResult(canvases=(surest,)), 0.0)
    assert end.usage.confidence == pytest.approx(2.718281828 ** (-0.3))


def test_autoregressive_decoding_emits_one_token_per_pass_and_counts_it_as_one() -> None:
    it = scheduler()
    it.add(READ, 0.0)
    happened = read(it, 5, 6, END)
    end = last(happened)
    assert texts(happened) == [(5,), (6,)]
    assert isinstance(end, Finished)
    assert (end.reason, end.usage.completion_tokens, end.usage.forward_passes) == (FinishReason.STOP, 3, 3)
    assert (end.usage.denoising_steps, end.usage.converged) == (0, None)


def test_autoregressive_decoding_prefills_the_prompt_and_then_appends_each_token() -> None:
    it = scheduler()
    it.add(READ, 0.0)
    asked = []
    for token in (5, 6, 7):
        batch = it.next_batch(0.0)
        asked += [(r.ids, r.at) for r in batch.decodes]
        it.update_from_output(batch, StepResult(tokens=(TokenResult(sequence=1, id=token, logprob=0.0),)), 0.0)
    assert asked == [((10, 11, 12), 0), ((5,), 3), ((6,), 4)]


def test_decoding_stops_exactly_at_max_tokens() -> None:
    it = scheduler()
    it.add(replace(READ, max_tokens=2), 0.0)
    end = last(read(it, 5, 6))
    assert isinstance(end, Finished)
    assert end.reason is FinishReason.LENGTH


def test_sequences_join_and_leave_while_others_run_on() -> None:
    it = scheduler(running=2)
    first = it.add(REQUEST, 0.0)
    play(it, (5, 6, 7, 8))
    second, third = it.add(REQUEST, 0.0), it.add(REQUEST, 0.0)
    batch = it.next_batch(0.0)
    assert [(d.sequence, d.step) for d in batch.denoises] == [(first, 2), (second, 3)], "each at its own step"
    it.update_from_output(
        batch, StepResult(canvases=(canvas(first, (END, 0, 0, 0), converged=True), canvas(second, (5,) * 4))), 0.0
    )
    batch = it.next_batch(0.0)
    assert batch.releases == (first,)
    assert [d.sequence for d in batch.denoises] == [second, third]


def test_a_warm_start_opens_the_first_canvas_only() -> None:
    it = scheduler()
    it.add(replace(REQUEST, start_ids=(20, 21)), 0.0)
    assert it.next_batch(0.0).denoises[0].start_ids == (20, 21)
    play(it, (5, 6, 7, 8), converged=True)
    assert it.next_batch(0.0).denoises[0].start_ids == ()


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    it = scheduler(running=1, waiting=1)
    it.add(REQUEST, 0.0)
    it.add(REQUEST, 0.0)
    with pytest.raises(OverCapacity) as refusal:
        it.add(REQUEST, 0.0)
    assert refusal.value.retry_after_s
    assert refusal.value.status == 429
    assert it.waiting == 2, "a refusal changes nothing"


def test_a_request_that_cannot_fit_is_refused_with_the_numbers() -> None:
    it = scheduler()
    with pytest.raises(
        PromptTooLong, match="60 prompt tokens and max_tokens 8 need 68 tokens, but the context length is 64"
    ):
        it.add(replace(REQUEST, prompt_ids=(9,) * 60), 0.0)
    with pytest.raises(OutOfRange, match="outside the vocabulary"):
        it.add(replace(REQUEST, prompt_ids=(100,)), 0.0)
    with pytest.raises(OutOfRange) as wrong:
        it.add(replace(REQUEST, start_ids=(-1,)), 0.0)
    assert wrong.value.param == "prediction"
    assert not it.has_work


def test_who_leaves_is_in_no_later_batch_and_its_rows_are_freed_at_once() -> None:
    it = scheduler()
    gone, stays = it.add(REQUEST, 0.0), it.add(REQUEST, 0.0)
    batch = it.next_batch(0.0)
    it.leave(gone, 0.0)  # in the middle of a step
    happened = it.update_from_output(
        batch, StepResult(canvases=(canvas(gone, (5,) * 4, converged=True), canvas(stays, (5,) * 4))), 0.0
    )
    assert [sequence for sequence, _ in happened] == [gone], "its late result is dropped"
    end = last(list(happened))
    assert isinstance(end, Faulted)
    assert isinstance(end.error, Cancelled)
    batch = it.next_batch(0.0)
    assert batch.releases == (gone,)
    assert [d.sequence for d in batch.denoises] == [stays]


def test_leaving_twice_or_after_the_end_changes_nothing() -> None:
    it = scheduler()
    sequence = it.add(REQUEST, 0.0)
    it.leave(sequence, 0.0)
    it.leave(sequence, 0.0)
    assert len(play(it, (5,) * 4)) == 1
    assert not it.has_work


def test_a_reader_that_has_enough_ends_in_stop() -> None:
    it = scheduler()
    sequence = it.add(REQUEST, 0.0)
    play(it, (5, 6, 7, 8), converged=True)
    it.leave(sequence, 0.0, outcome=Outcome.FINISHED)
    end = last(play(it, ()))
    assert isinstance(end, Finished)
    assert (end.reason, end.usage.completion_tokens) == (FinishReason.STOP, 4)


def test_a_fault_ends_its_sequence_and_no_other() -> None:
    it = scheduler()
    bad, good = it.add(REQUEST, 0.0), it.add(REQUEST, 0.0)
    batch = it.next_batch(0.0)
    fault = RowFault(sequence=bad, slot=0, error=NotFinite("NaN"))
    happened = it.update_from_output(
        batch, StepResult(faults=(fault,), canvases=(canvas(good, (END,) * 4, converged=True),)), 0.0
    )
    ends = {sequence: event for sequence, event in happened if not isinstance(event, BlockSealed)}
    assert isinstance(ends[bad], Faulted)
    assert isinstance(ends[good], Finished)


def test_fault_all_ends_what_runs_and_what_waits() -> None:
    it = scheduler(running=1)
    ids = {it.add(REQUEST, 0.0), it.add(REQUEST, 0.0)}
    play(it, (5,) * 4)
    it.fault_all(StepFailed("broken"), 0.0)
    assert {sequence for sequence, event in play(it, ()) if isinstance(event, Faulted)} == ids


def test_at_its_deadline_a_sequence_returns_the_most_likely_canvas_it_has() -> None:
    it = scheduler()
    it.add(replace(REQUEST, deadline_s=10.0), 0.0)
    play(it, (5, 6, 7, 8))
    happened = play(it, (6, 6, 7, 8), now=10.0)
    end = last(happened)
    assert texts(happened) == [(6, 6, 7, 8)]
    assert isinstance(end, Finished)
    assert (end.reason, end.usage.converged) == (FinishReason.DEADLINE, False)


def test_a_step_that_would_end_after_the_deadline_is_not_begun() -> None:
    it = scheduler()
    it.add(replace(REQUEST, deadline_s=10.0), 0.0)
    batch = it.next_batch(0.0)
    happened = it.update_from_output(batch, StepResult(canvases=(canvas(1, (5, 6, 7, 8)),)), 6.0)  # a step takes 6 s
    assert texts(list(happened)) == [(5, 6, 7, 8)]


def test_an_answer_that_is_complete_at_its_deadline_is_called_complete() -> None:
    it = scheduler()
    it.add(replace(REQUEST, deadline_s=10.0), 0.0)
    batch = it.next_batch(0.0)
    [*_, (_, end)] = it.update_from_output(batch, StepResult(canvases=(canvas(1, (5, END, 0, 0)),)), 11.0)
    assert isinstance(end, Finished)
    assert (end.reason, end.usage.converged) == (FinishReason.STOP, False)


def test_a_deadline_that_passes_in_the_queue_is_a_fault_not_an_empty_answer() -> None:
    it = scheduler(running=1)
    it.add(REQUEST, 0.0)
    late = it.add(replace(REQUEST, deadline_s=1.0), 0.0)
    play(it, (5,) * 4)
    [(sequence, end)] = play(it, (5,) * 4, now=2.0)
    assert sequence == late
    assert isinstance(end, Faulted)
    assert isinstance(end.error, DeadlineExceeded)


def test_decoding_returns_what_it_has_at_the_deadline() -> None:
    it = scheduler()
    it.add(replace(READ, deadline_s=5.0), 0.0)
    happened = [*read(it, 5), *read(it, 6, now=5.0)]
    end = last(happened)
    assert texts(happened) == [(5,), (6,)]
    assert isinstance(end, Finished)
    assert end.reason is FinishReason.DEADLINE


def test_the_wait_is_unknown_until_a_step_was_measured_and_zero_while_places_are_free() -> None:
    it = scheduler(running=2)
    it.add(REQUEST, 0.0)
    assert it.predicted_wait_s(0.5) is None
    batch = it.next_batch(0.0)
    it.update_from_output(batch, StepResult(canvases=(canvas(1, (5,) * 4),)), 0.5)
    assert it.predicted_wait_s(0.5) == 0.0


def test_the_predicted_wait_grows_with_the_work_ahead() -> None:
    it, now = scheduler(running=1, waiting=9), 0.0
    it.add(REQUEST, now)
    while it.running or it.waiting:  # the duration of a request is learnt from one
        batch = it.next_batch(now)
        now += 0.5
        it.update_from_output(
            batch, StepResult(canvases=tuple(canvas(d.sequence, (5,) * 4) for d in batch.denoises)), now
        )
    waits = []
    for _ in range(4):
        waits.append(it.predicted_wait_s(now) or 0.0)
        it.add(REQUEST, now)
    assert waits == pytest.approx([0.0, 3.0, 6.0, 9.0]), "two blocks of three steps of half a second each"


def test_what_happens_is_observed() -> None:
    seen: list[Observation] = []
    it = scheduler(seen=seen)
    it.add(replace(REQUEST, max_tokens=4), 1.0)
    batch = it.next_batch(2.0)
    it.update_from_output(batch, StepResult(canvases=(canvas(1, (5,) * 4, converged=True),)), 2.5)
    assert StepObserved(seconds=0.5, rows=1) in seen
    assert BlockObserved(stop=BlockStop.STABLE, denoising_steps=1, mean_entropy=0.25) in seen
    [ended] = [o for o in seen if isinstance(o, SequenceObserved)]
    assert (ended.outcome, ended.first_block_s, ended.total_s) == (Outcome.FINISHED, 1.5, 1.5)


def test_an_idle_scheduler_has_nothing_to_do_once_rows_are_freed() -> None:
    it = scheduler()
    it.add(replace(REQUEST, max_tokens=4), 0.0)
    play(it, (5,) * 4, converged=True)
    assert it.has_work, "the rows of the finished sequence are still held"
    assert it.next_batch(0.0) == Batch(releases=(1,))
    assert not it.has_work


def test_contexts_that_are_forgotten_are_not_copied_into_slots_that_are_gone() -> None:
    """A copy into the prefix cache is pending when memory pressure removes its slot."""
    layers = (LayerKv(heads=1, head_dim=1, window=5),)
    limits = Limits(max_num_seqs=2, max_waiting=4, max_context=64)
    it = Scheduler(INFO, limits, SlotTable(layers, 5, itemsize=4))
    common = tuple(range(10, 30)) * 2
    for tail in (40, 41):
        it.add(replace(REQUEST, prompt_ids=(*common, tail), max_tokens=4), 0.0)
        batch = it.next_batch(0.0)
        while not batch.denoises:
            it.update_from_output(batch, StepResult(), 0.0)
            if it._copies:
                break
            batch = it.next_batch(0.0)
        if it._copies:
            break
        it.update_from_output(batch, StepResult(canvases=(canvas(1, (5,) * 4, converged=True),)), 0.0)
    assert it._copies, "no copy was due: the test says nothing"
    it.evict_retained()
    batch = it.next_batch(0.0)
    assert batch.slots == 2
    assert all(max(copy.source, copy.target) < 2 for copy in batch.copies)


@given(st.randoms(use_true_random=False), st.integers(1, 4), st.sampled_from((None, 1, 6, 20)), st.integers(1, 9))
def test_every_sequence_ends_exactly_once_and_every_slot_is_free_again(
    dice: Random, running: int, budget: int | None, chunk: int
) -> None:
    """Requests arrive, end, fail, exceed deadlines and are preempted, the batch shrinks and steps fail, at any time."""
    limits = Limits(
        max_num_seqs=running, max_waiting=99, max_context=64, max_step_tokens=budget, max_prefill_tokens=chunk
    )
    table = SlotTable((LayerKv(heads=1, head_dim=1, window=9),), running + 1, itemsize=4)
    it, now, due = Scheduler(INFO, limits, table), 0.0, dice.randint(1, 12)
    added, ends, owned = [], [], dict[int, int]()
    for _ in range(2000):
        if not due and not it.has_work:
            break
        now += dice.random()
        if due and dice.random() < 0.5:
            due -= 1
            one = replace(
                dice.choice((REQUEST, READ)),
                prompt_ids=tuple(range(10, 10 + dice.randint(1, 40))),
                max_tokens=dice.randint(1, 20),
                deadline_s=dice.choice((None, None, 3.0)),
                stream_prefix=dice.random() < 0.5,
            )
            added.append(it.add(one, now))
        disturb(it, added, dice, now)
        batch = it.next_batch(now)
        items = (*batch.prefills, *batch.denoises, *batch.decodes)
        owned = {item.slot: item.sequence for item in items}
        assert all(owned[item.slot] == item.sequence for item in items), "a slot with two owners"
        assert len({item.sequence for item in items}) <= running
        if added and dice.random() < 0.1:
            it.leave(dice.choice(added), now)  # in the middle of a step
        result = made_up(batch, dice)
        if batch.slots is not None:  # memory for more slots may be short
            result = replace(result, slots=dice.choice((batch.slots, min(batch.slots, len(table)))))
        happened = it.update_from_output(batch, result, now + dice.random())
        ends += [sequence for sequence, event in happened if isinstance(event, Finished | Faulted)]
    assert sorted(ends) == added
    assert table.free == len(table)


def disturb(it: Scheduler, added: list[int], dice: Random, now: float) -> None:
    if added and dice.random() < 0.05:
        it.leave(dice.choice(added), now, outcome=dice.choice((Outcome.FINISHED, Outcome.CANCELLED)))
    if dice.random() < 0.1:
        it.set_max_rows(dice.randint(1, 4), now)
    if dice.random() < 0.1:
        it.evict_retained()
    if dice.random() < 0.2:
        it.restore_slots(5)
    if dice.random() < 0.03:
        it.reset(StepFailed("broken"), now, slots=len(it.slots))


def made_up(batch: Batch, dice: Random) -> StepResult:
    """Results of random ids and ends; now and then a row faults."""
    faults = [
        RowFault(sequence=d.sequence, slot=0, error=NotFinite("NaN")) for d in batch.denoises if dice.random() < 0.02
    ]
    failed = {fault.sequence for fault in faults}
    return StepResult(
        faults=tuple(faults),
        canvases=tuple(
            canvas(
                d.sequence,
                (*d.pinned_prefix, *(dice.choice((5, 6, 7, END)) for _ in range(4 - len(d.pinned_prefix)))),
                converged=dice.random() < 0.2,
            )
            for d in batch.denoises
            if d.sequence not in failed
        ),
        tokens=tuple(
            TokenResult(sequence=r.sequence, id=dice.choice((5, 6, 7, END)), logprob=-1.0) for r in batch.decodes
        ),
    )


CONTEXT_LIMITS = Limits(max_num_seqs=1, max_waiting=0, max_context=64)


@given(prompt=st.integers(1, 100), max_tokens=st.integers(1, 100))
def test_prompt_and_answer_fit_exactly_if_together_they_are_no_longer_than_the_context(
    prompt: int, max_tokens: int
) -> None:
    request = replace(REQUEST, prompt_ids=(5,) * prompt, max_tokens=max_tokens)
    if prompt + max_tokens <= 64:
        CONTEXT_LIMITS.check(request, 10)
    else:
        with pytest.raises(PromptTooLong, match=f"need {prompt + max_tokens} tokens, but the context length is 64"):
            CONTEXT_LIMITS.check(request, 10)


@pytest.mark.parametrize(
    ("field", "param"), [("prompt_ids", "messages"), ("start_ids", "prediction"), ("suffix_ids", "suffix")]
)
@pytest.mark.parametrize(("token", "is_known"), [(-1, False), (0, True), (9, True), (10, False)])
def test_ids_outside_the_vocabulary_are_refused_by_the_name_of_their_field(
    field: str, param: str, token: int, is_known: bool
) -> None:
    request = replace(REQUEST, **{"prompt_ids": (5,), field: (5, token)})
    if is_known:
        CONTEXT_LIMITS.check(request, 10)
    else:
        with pytest.raises(OutOfRange, match="outside the vocabulary") as wrong:
            CONTEXT_LIMITS.check(request, 10)
        assert wrong.value.param == param


LOOSEST = replace(DENOISING, entropy_bound=1.1, confidence_threshold=0.105, stability=0)


def thresholds(batch: Batch) -> list[tuple[float, float, int]]:
    params = [item.denoising for item in batch.denoises]
    return [(each.entropy_bound, pytest.approx(each.confidence_threshold), each.stability) for each in params]


def test_thresholds_follow_the_queue_within_the_limits_of_the_request() -> None:
    """In every step anew, and the usage says how high the load was; a request without limits is left alone."""
    it = scheduler(running=4, waiting=9)
    it.add(replace(REQUEST, loosest=LOOSEST), 0.0)
    for _ in range(3):
        it.add(REQUEST, 0.0)
    own = (DENOISING.entropy_bound, DENOISING.confidence_threshold, DENOISING.stability)
    assert thresholds(it.next_batch(0.0)) == [own] * 4
    it.add(REQUEST, 0.0)
    assert thresholds(it.next_batch(0.0)) == [(pytest.approx(0.6), 0.055, 0), own, own, own]
    for _ in range(7):
        it.add(REQUEST, 0.0)
    assert thresholds(it.next_batch(0.0)) == [(pytest.approx(1.1), 0.105, 0), own, own, own]
    happened = play(it, (5, END, 0, 0), converged=True)
    ends = {sequence: event.usage.load for sequence, event in happened if isinstance(event, Finished)}
    assert ends == {1: 1.0, 2: None, 3: None, 4: None}


def test_in_exact_mode_and_without_a_queue_thresholds_stay() -> None:
    exact = scheduler(running=1, waiting=9, is_exact=True)
    for _ in range(4):
        exact.add(replace(REQUEST, loosest=LOOSEST), 0.0)
    idle = scheduler(running=2)
    idle.add(replace(REQUEST, loosest=LOOSEST), 0.0)
    for it in (exact, idle):
        ends = [event for _, event in play(it, (5, END, 0, 0), converged=True) if isinstance(event, Finished)]
        assert [end.usage.load for end in ends] == [None]
