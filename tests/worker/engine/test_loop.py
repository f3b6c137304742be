"""The loop without asyncio: evaluation uses the same loop as serving."""

from dataclasses import replace
from typing import Any

import pytest

from diffusion_worker.engine.loop import Capacity, Loop, run
from diffusion_worker.models.toy import ToyModel
from diffusion_worker.types.events import BlockSealed, Faulted, Finished
from diffusion_worker.types.requests import DecodingMode, GenerationRequest


def request(model: Any, prompt: tuple[int, ...], **changes: Any) -> GenerationRequest:
    return replace(
        GenerationRequest(prompt_ids=prompt, max_tokens=40, seed=0, denoising=model.info.denoising), **changes
    )


def test_answers_come_in_the_order_of_the_requests_however_many_run_together() -> None:
    model = ToyModel()
    requests = [request(model, tuple(range(20, 21 + n)), decoding_mode=tuple(DecodingMode)[n % 2]) for n in range(10)]
    for together in (1, 3, 16):
        answers = run(model, requests, max_num_seqs=together)
        assert [answer.ids for answer in answers] == [one.prompt_ids for one in requests]
        assert all(isinstance(answer.end, Finished) for answer in answers)


def test_no_requests_no_answers() -> None:
    assert run(ToyModel(), []) == ()


def test_batching_saves_passes_and_not_one_is_wasted() -> None:
    model = ToyModel()
    requests = [request(model, (20, 21, 22))] * 4
    run(model, requests, max_num_seqs=1)
    alone, model.passes = model.passes, 0
    run(model, requests, max_num_seqs=4)
    assert alone == 4 * model.passes == 4 * 3, "one for the prompt, two for the canvas"


def test_the_last_canvas_is_not_encoded_for_nobody() -> None:
    model = ToyModel(denoising=replace(ToyModel().info.denoising, canvas_length=4))
    [answer] = run(model, [request(model, (20,) * 8, max_tokens=8)])
    assert answer.end.usage.forward_passes == answer.end.usage.denoising_steps + 2 == model.passes


@pytest.mark.parametrize(("is_exact", "is_broken"), [(False, False), (False, True), (True, False)])
def test_every_pass_that_ran_for_an_answer_counts_once(make_model: Any, is_exact: bool, is_broken: bool) -> None:
    """A prompt, or a seal, and a canvas in one pass are one; apart, or after a pass that failed, they are two."""
    model, ran = make_model(is_exact=is_exact), []

    def counted(run: Any, *, is_mixed: bool = False) -> Any:
        def call(*inputs: Any) -> Any:
            if is_broken and is_mixed and inputs[1] is not None:
                raise RuntimeError("no such kernel")
            ran.append(None)
            return run(*inputs)

        return call

    model._mixed_pass = model._mixed_pass and counted(model._mixed_pass, is_mixed=True)
    model.encode, model.denoise = counted(model.encode), counted(model.denoise)
    loop = Loop(model, Capacity(max_num_seqs=1, max_context=64, is_exact=is_exact))
    ids, end = answered(loop, request(model, tuple(range(6, 30)), max_tokens=24, seed=3))
    assert len(ids) == 24, "two canvases"
    assert end.usage.forward_passes == len(ran) == end.usage.denoising_steps + 2 * (is_exact or is_broken)


def test_context_length_is_what_the_model_knows_unless_less_is_asked_for() -> None:
    assert Loop(ToyModel(max_context=500), Capacity()).limits.max_context == 500
    assert Loop(ToyModel(max_context=500), Capacity(max_context=90)).limits.max_context == 90
    assert Loop(ToyModel(max_context=500), Capacity(max_context=900)).limits.max_context == 500


@pytest.mark.parametrize("decoding_mode", DecodingMode)
def test_when_all_is_answered_nothing_is_held(decoding_mode: DecodingMode) -> None:
    model = ToyModel()
    loop = Loop(model, Capacity())
    loop.add(request(model, (20, 21), decoding_mode=decoding_mode))
    while loop.scheduler.has_work:
        loop.step()
    assert loop.scheduler.slots.used_bytes() == 0
    assert loop.scheduler.slots.free == len(loop.scheduler.slots)


def test_a_prompt_that_a_slot_already_holds_is_not_computed_again(make_model: Any) -> None:
    model = make_model()
    one = GenerationRequest(
        prompt_ids=tuple(range(6, 30)), max_tokens=12, seed=3, denoising=replace(model.info.denoising, steps=4)
    )
    loop = Loop(model, Capacity(max_num_seqs=2, max_context=64))
    answers = [answered(loop, one) for _ in range(3)]
    assert [end.usage.cached_tokens for _, end in answers] == [0, 24, 24]
    assert [end.usage.forward_passes for _, end in answers] == [4, 4, 4], (
        "its first canvas shares the pass of the prompt"
    )
    assert answers[0][0] == answers[1][0] == answers[2][0]


def answered(loop: Loop, one: GenerationRequest) -> tuple[tuple[int, ...], Finished | Faulted]:
    """The answer of a loop without other requests."""
    sequence, ids = loop.add(one), ()
    while True:
        for who, event in loop.step():
            if who == sequence and isinstance(event, BlockSealed):
                ids += event.ids
            elif who == sequence and isinstance(event, Finished | Faulted):
                return ids, event


def test_a_context_whose_ring_was_overwritten_after_its_owner_had_left_is_not_kept(make_model: Any) -> None:
    """A client disconnects while its canvas is being sealed: the pass has overwritten the oldest tokens of every
    window."""
    model = make_model(window=8)
    one = GenerationRequest(
        prompt_ids=tuple(range(6, 30)), max_tokens=36, seed=3, denoising=replace(model.info.denoising, steps=4)
    )
    undisturbed, _ = answered(Loop(model, Capacity(max_num_seqs=2, max_context=64)), one)

    loop = Loop(model, Capacity(max_num_seqs=2, max_context=64))
    leaving, step = loop.add(one), loop._stepper.step

    def stepped(batch: Any) -> Any:
        result = step(batch)
        if any(append.is_seal for append in batch.prefills):
            loop.scheduler.leave(leaving, 0.0)
        return result

    loop._stepper.step = stepped  # type: ignore[method-assign]
    while loop.scheduler.running or loop.scheduler.waiting:
        loop.step()
    loop._stepper.step = step  # type: ignore[method-assign]
    assert loop.scheduler.slots.retained == 0
    again, end = answered(loop, one)
    assert again == undisturbed
    assert end.usage.cached_tokens == 0
