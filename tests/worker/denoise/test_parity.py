"""Our loop and transformers' `generate()` agree on the argmax canvas of every step of every block.

In fp64, so that rounding explains no difference, and on chaotic random models, so that a wrong operation is visible.
Each sequence is compared with its own `generate()`, for any other rows in the batch.
"""

from dataclasses import dataclass, replace
from random import Random
from typing import Any

import pytest
import torch

from diffusion_worker.denoise.draws import GeneratorDraws
from diffusion_worker.denoise.stepper import Stepper
from diffusion_worker.engine.limits import Limits
from diffusion_worker.engine.scheduler import Scheduler
from diffusion_worker.memory.kv_cache import KvCache
from diffusion_worker.memory.slots import SlotTable
from diffusion_worker.types.events import BlockSealed, Finished, FinishReason
from diffusion_worker.types.observations import Observation, PreemptionObserved, PrefixObserved
from diffusion_worker.types.requests import DenoisingParams, GenerationRequest

STEPS_ONLY = DenoisingParams(steps=6, canvas_length=12, confidence_threshold=1e-12)
Drafts = list[tuple[int, ...]]
Seen = list[Observation]


@dataclass
class Output:
    """The drafts and the output of one sequence."""

    drafts: Drafts
    ids: list[int]
    end: Finished | None = None


class _Recorder:
    """A streamer that keeps the drafts of `generate()`."""

    def __init__(self) -> None:
        self.drafts: Drafts = []

    def put(self, value: torch.Tensor) -> None:
        pass

    def put_draft(self, value: torch.Tensor) -> None:
        self.drafts.append(tuple(value[0].tolist()))

    def end(self) -> None:
        pass


def theirs(model: Any, request: GenerationRequest, end_ids: tuple[int, ...]) -> Output:
    from transformers.models.diffusion_gemma.generation_diffusion_gemma import (
        DiffusionGemmaGenerationConfig,
        EntropyBoundSamplerConfig,
    )

    recorder, denoising = _Recorder(), request.denoising
    torch.manual_seed(request.seed)
    start = {"decoder_input_ids": torch.tensor([request.start_ids])} if request.start_ids else {}
    out = model.generate(
        torch.tensor([request.prompt_ids]),
        streamer=recorder,
        generation_config=DiffusionGemmaGenerationConfig(
            max_new_tokens=request.max_tokens,
            max_denoising_steps=denoising.steps,
            sampler_config=EntropyBoundSamplerConfig(entropy_bound=denoising.entropy_bound),
            t_min=denoising.t_min,
            t_max=denoising.t_max,
            stability_threshold=denoising.stability,
            confidence_threshold=denoising.confidence_threshold,
            pad_token_id=0,
            eos_token_id=list(end_ids) or None,
        ),
        **start,
    )
    return Output(recorder.drafts, out.sequences[0, len(request.prompt_ids) :].tolist())


def ours(
    model: Any,
    requests: list[GenerationRequest],
    *,
    slots: int = 4,
    arrivals: Random | None = None,
    seen: Seen | None = None,
    **limits: Any,
) -> list[Output]:
    """Run all requests through scheduler and stepper with transformers' draws. With `arrivals` they arrive at random
    iterations, and the batch shrinks and grows as under memory pressure."""
    table = SlotTable(model.kv_layers, slots, itemsize=model.dtype.itemsize)
    cache = KvCache(model.kv_layers, slots=slots, slot_tokens=256, dtype=model.dtype, device=model.device)
    bounds = Limits(max_num_seqs=slots, max_waiting=len(requests), max_context=256, **limits)
    scheduler = Scheduler(model.info, bounds, table, seen.append if seen is not None else None)
    generators: dict[int, torch.Generator] = {}
    stepper, outputs, due = Stepper(model, cache, GeneratorDraws(generators)), dict[int, Output](), list(requests)
    while due or scheduler.has_work:
        while due and (arrivals is None or arrivals.random() < 0.3):
            sequence = scheduler.add(due[0], 0.0)
            generators[sequence] = torch.Generator().manual_seed(due.pop(0).seed)
            outputs[sequence] = Output([], [])
        if arrivals and arrivals.random() < 0.3:
            scheduler.set_max_rows(arrivals.randint(1, slots), 0.0)
        if arrivals and arrivals.random() < 0.1:
            scheduler.evict_retained()
        if arrivals and arrivals.random() < 0.2:
            scheduler.restore_slots(slots)
        batch = scheduler.next_batch(0.0)
        result = stepper.step(batch)
        assert result.faults == ()
        for canvas in result.canvases:
            outputs[canvas.sequence].drafts.append(canvas.ids)
        for sequence, event in scheduler.update_from_output(batch, result, 0.0):
            if isinstance(event, BlockSealed):
                outputs[sequence].ids += event.ids
            else:
                assert isinstance(event, Finished)
                outputs[sequence].end = event
    assert table.free == len(table)
    return [outputs[sequence] for sequence in sorted(outputs)]


def prompt(seed: int, length: int, vocab: int = 61) -> tuple[int, ...]:
    return tuple(torch.randint(6, vocab, (length,), generator=torch.Generator().manual_seed(seed)).tolist())


def request(
    seed: int, *, length: int = 9, blocks: int = 1, denoising: DenoisingParams = STEPS_ONLY
) -> GenerationRequest:
    return GenerationRequest(
        prompt_ids=prompt(seed, length), max_tokens=blocks * denoising.canvas_length, seed=seed, denoising=denoising
    )


SHAPES = {
    "one expert": {},
    "four experts, two at a time": {"experts": 4},
    "six layers, wide window": {"layers": 6, "window": 64},
    "window shorter than the prompt": {"window": 5},
    "a canvas of one": {"canvas": 1},
    "a canvas wider than the window": {"canvas": 20, "window": 8},
    "a vocabulary beyond one group of the sampler": {"vocab": 700},
}
QUICK = {"four experts, two at a time", "a canvas of one"}


@pytest.mark.parametrize(
    "shape",
    [pytest.param(shape, id=name, marks=[pytest.mark.slow] * (name not in QUICK)) for name, shape in SHAPES.items()],
)
def test_every_step_of_every_block_shows_the_canvas_that_generate_shows(make_model: Any, shape: dict[str, Any]) -> None:
    model = make_model(end_ids=(), **shape)
    denoising = replace(STEPS_ONLY, canvas_length=shape.get("canvas", 12))
    for seed in range(3):
        one = request(seed, blocks=3, denoising=denoising)
        expected, [found] = theirs(model._model, one, ()), ours(model, [one])
        assert found.drafts == expected.drafts
        assert found.ids == expected.ids
        assert len(found.drafts) == 3 * denoising.steps


@pytest.mark.slow
def test_rows_of_different_requests_do_not_touch_each_other(make_model: Any) -> None:
    model = make_model(end_ids=(), window=16)
    requests = [
        request(
            seed,
            length=length,
            blocks=blocks,
            denoising=replace(STEPS_ONLY, steps=steps, entropy_bound=bound, t_max=t_max),
        )
        for seed, length, blocks, steps, bound, t_max in (
            (1, 3, 1, 4, 0.1, 0.8),
            (2, 40, 3, 7, 0.5, 0.8),
            (3, 17, 2, 3, 3.0, 1.2),
            (4, 90, 2, 9, 0.1, 0.6),
            (5, 15, 3, 5, 9.0, 0.8),
            (6, 31, 1, 8, 0.1, 0.9),
        )
    ]
    for found, one in zip(ours(model, requests, slots=3), requests, strict=True):
        assert found.drafts == theirs(model._model, one, ()).drafts


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3))])
@pytest.mark.parametrize("window", [8, pytest.param(64, marks=pytest.mark.slow)])
def test_rows_that_come_and_go_and_are_preempted_and_reuse_prompts_change_nothing(
    make_model: Any, window: int, seed: int
) -> None:
    """As in serving: a budget of positions, prompts in chunks, preemptions and copied contexts."""
    model, dice, seen = make_model(end_ids=(), window=window), Random(seed), list[Observation]()
    common = prompt(77, 40)
    requests = [
        GenerationRequest(
            prompt_ids=common[: dice.choice((20, 33, 40))] + prompt(n, dice.randint(1, 30)),
            max_tokens=12 * dice.randint(1, 3),
            seed=n,
            denoising=replace(STEPS_ONLY, steps=dice.randint(2, 6), entropy_bound=dice.choice((0.1, 3.0))),
        )
        for n in range(8)
    ]
    found = ours(
        model,
        requests,
        slots=3,
        arrivals=dice,
        seen=seen,
        max_step_tokens=dice.choice((None, 12, 40)),
        max_prefill_tokens=21,
        is_mixed=True,
    )
    for one, mine in zip(requests, found, strict=True):
        assert mine.drafts == theirs(model._model, one, ()).drafts
    assert any(isinstance(each, PreemptionObserved) for each in seen), "nothing was preempted: the test proves nothing"
    assert any(isinstance(each, PrefixObserved) for each in seen), "nothing was reused: the test says nothing"


@pytest.mark.slow
def test_canvases_stop_early_at_the_step_where_generate_stops(make_model: Any) -> None:
    model = make_model(end_ids=(), spread=0.6)
    stopped_at = set()
    for stability in (0, 1, 2):
        denoising = replace(STEPS_ONLY, steps=20, stability=stability, confidence_threshold=1.0, entropy_bound=8.0)
        for seed in range(3):
            one = request(seed, blocks=2, denoising=denoising)
            expected, [found] = theirs(model._model, one, ()), ours(model, [one])
            assert found.drafts == expected.drafts
            stopped_at.add(len(found.drafts))
    assert min(stopped_at) < 40, "no canvas stopped early: the test says nothing"
    assert len(stopped_at) > 2


@pytest.mark.slow
def test_an_end_token_inside_a_canvas_ends_the_answer_there(make_model: Any) -> None:
    end_ids = tuple(range(6, 16))  # a chaotic model soon generates one of ten ids
    model = make_model(end_ids=end_ids)
    lengths = set()
    for seed in range(8):
        one = request(seed, blocks=4)
        expected, [found] = theirs(model._model, one, end_ids), ours(model, [one])
        assert found.drafts == expected.drafts
        assert found.end is not None
        if found.end.reason is FinishReason.STOP:
            end = next(index for index, token in enumerate(expected.ids) if token in end_ids)
            assert found.ids == expected.ids[:end]
            assert found.end.usage.completion_tokens == end + 1
            lengths.add(end)
    assert len(lengths) > 3, "too few answers ended: the test says nothing"


def test_a_given_canvas_is_denoised_as_generate_denoises_it(make_model: Any) -> None:
    """For one step: `generate()` draws a new canvas anyway and discards it, so the random streams diverge."""
    model = make_model()
    for seed in range(3):
        one = replace(request(seed, denoising=replace(STEPS_ONLY, steps=1)), start_ids=prompt(9, 12))
        assert ours(model, [one])[0].drafts == theirs(model._model, one, (1,)).drafts
