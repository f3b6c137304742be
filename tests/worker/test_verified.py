"""Verified answers equal those of reading left to right, token by token, whatever the drafts are; so does the cache.

The model is random and chaotic, in fp64, with a window shorter than its contexts: one wrong key or value would show.
"""

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest
import torch

from diffusion_worker.constraints.inference.matcher import open_matcher
from diffusion_worker.denoise import verify
from diffusion_worker.engine.loop import Capacity, Loop, run
from diffusion_worker.memory.kv_cache import KvCache
from diffusion_worker.models.interface import CanvasContext
from diffusion_worker.types.events import BlockSealed, Finished, FinishReason
from diffusion_worker.types.requests import (
    DecodingMode,
    DenoisingParams,
    GenerationRequest,
    Penalties,
    Truncation,
)
from tests.worker.test_constrained import CONSTRAINTS, VOCABULARY, automaton_of

VOCAB, CANVAS = 23, 12
DENOISING = DenoisingParams(steps=5, canvas_length=CANVAS)
Ending = tuple[tuple[int, ...], FinishReason, float | None]


@pytest.fixture(scope="module")
def model(make_model: Any) -> Any:
    return make_model(vocab=VOCAB, window=8, canvas=CANVAS, spread=0.5)


def request_of(dice: Random, **changes: Any) -> GenerationRequest:
    """A request with a random length, temperature and rules."""
    request = GenerationRequest(
        prompt_ids=tuple(dice.randrange(6, VOCAB) for _ in range(dice.randint(1, 40))),
        max_tokens=dice.choice((1, 2, CANVAS, CANVAS + 1, 3 * CANVAS, 40)),
        seed=dice.randrange(1000),
        denoising=replace(DENOISING, canvas_length=dice.choice((CANVAS, CANVAS, 5, 1))),
        decoding_mode=DecodingMode.VERIFIED,
        temperature=dice.choice((None, 0.0, 1.0, 1.0, 1.7)),
        truncation=dice.choice((None, None, Truncation(top_p=0.8, min_p=0.01), Truncation(top_k=3))),
        penalties=dice.choice((None, None, Penalties(presence=0.5, frequency=0.3, repetition=1.2))),
    )
    return replace(request, **changes)


def read(request: GenerationRequest) -> GenerationRequest:
    return replace(request, decoding_mode=DecodingMode.AUTOREGRESSIVE, start_ids=(), anchor=0.0)


def served(loop: Loop, *requests: GenerationRequest, dice: Random | None = None) -> list[Ending]:
    """What the requests answer. With `dice`, they arrive at random and are sometimes preempted."""
    due, ids, ends = list(requests), dict[int, list[int]](), dict[int, Finished]()
    while due or loop.scheduler.has_work:
        while due and (dice is None or dice.random() < 0.3):
            ids[loop.add(due.pop(0))] = []
        if dice:
            loop.scheduler.set_max_rows(dice.choice((1, 2, 4)), 0.0)
        for sequence, event in loop.step():
            if isinstance(event, BlockSealed):
                ids[sequence] += event.ids
            else:
                assert isinstance(event, Finished), event
                ends[sequence] = event
    return [(tuple(ids[n]), ends[n].reason, pytest.approx(ends[n].usage.confidence, rel=1e-6)) for n in sorted(ids)]


def misread(ids: Sequence[int], dice: Random) -> tuple[int, ...]:
    """The ids with some errors: a draft that is accepted in part."""
    return tuple(token if dice.random() < 0.9 else dice.randrange(6, VOCAB) for token in ids)


def loop_of(model: Any, **capacity: Any) -> Loop:
    return Loop(model, Capacity(**{"max_num_seqs": 4, "max_context": 128, **capacity}), gauge=lambda: (0, 0))


def cached(loop: Loop, tokens: int) -> list[torch.Tensor]:
    """What the first slot holds."""
    cache = loop._stepper.cache
    stores = zip((*cache.keys, *cache.values), (*cache.capacities, *cache.capacities), strict=True)
    return [store[0, :, : min(tokens, capacity)] for store, capacity in stores]


class Drafting:
    """The model, whose drafts are `answer` with random errors: the share `right` of its tokens are right."""

    def __init__(self, model: Any, prompt: int, answer: Sequence[int], *, right: float, dice: Random) -> None:
        self._model = model
        self._prompt, self._answer, self._right, self._dice = prompt, answer, right, dice

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def denoise(self, canvas: torch.Tensor, soft: torch.Tensor, context: CanvasContext) -> torch.Tensor:
        logits: torch.Tensor = self._model.denoise(canvas, soft, context)
        for place in range(canvas.shape[1]):
            index = int(context.positions[0, place]) - self._prompt
            if index < len(self._answer) and self._dice.random() < self._right:
                logits[0, place, self._answer[index]] = 99.0
        return logits


@pytest.mark.parametrize("right", [0.0, 0.6, 0.95, 1.0])
@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 6))])
def test_any_pattern_of_rejections_leaves_the_answer_and_the_cache_of_reading(
    model: Any, seed: int, right: float
) -> None:
    dice = Random(f"{seed}/{right}")
    request = request_of(dice)
    reading = loop_of(model)
    wanted = served(reading, read(request))
    prompt, (answer, reason, _) = len(request.prompt_ids), wanted[0]
    verifying = loop_of(Drafting(model, prompt, answer, right=right, dice=dice))
    assert served(verifying, request) == wanted
    held = prompt + len(answer) - (reason is not FinishReason.STOP)  # the last token is never cached
    for mine, theirs in zip(cached(verifying, held), cached(reading, held), strict=True):
        assert torch.allclose(mine, theirs, rtol=0, atol=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_drafts_that_are_right_cost_two_passes_a_canvas(model: Any, seed: int) -> None:
    request = request_of(Random(seed), max_tokens=1 + 3 * CANVAS, denoising=DENOISING)
    [answer] = run(model, [read(request)])
    if len(answer.ids) < request.max_tokens:
        pytest.skip("the answer ends early")
    drafting = Drafting(model, len(request.prompt_ids), answer.ids, right=1.0, dice=Random(0))
    [verified] = run(drafting, [request])  # type: ignore[arg-type]
    assert verified.ids == answer.ids
    assert verified.end.usage.forward_passes == 1 + 3 * 2
    assert verified.end.usage.denoising_steps == 3


@pytest.mark.parametrize("is_exact", [False, True])
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_mixed_batches_preemption_and_reused_prefixes_change_nothing(model: Any, seed: int, is_exact: bool) -> None:
    dice = Random(seed)
    shared = tuple(dice.randrange(6, VOCAB) for _ in range(30))
    wanted = [request_of(dice) for _ in range(5)]
    wanted += [replace(wanted[0], prompt_ids=shared + each.prompt_ids) for each in wanted[1:]]
    modes = [dice.choice((*DecodingMode, DecodingMode.VERIFIED, DecodingMode.VERIFIED)) for _ in wanted]
    answers = [served(loop_of(model), read(each))[0] for each in wanted]
    loop = loop_of(model, prefix_slots=2, max_prefill_tokens=16, is_exact=is_exact)
    order = [
        replace(each, decoding_mode=mode, start_ids=misread(answer[0], dice) if mode is DecodingMode.VERIFIED else ())
        for each, mode, answer in zip(wanted, modes, answers, strict=True)
    ]
    together = served(loop, *order, dice=dice)
    for mode, found, answer in zip(modes, together, answers, strict=True):
        assert mode is DecodingMode.DIFFUSION or found == answer


@pytest.mark.parametrize("seed", range(3))
def test_a_preempted_answer_resumes_at_its_canvas_although_the_cache_knows_more(make_model: Any, seed: int) -> None:
    """An equal request has left its whole answer in the prefix cache, in rings that have not wrapped."""
    model, dice = make_model(vocab=VOCAB, window=100, canvas=CANVAS, spread=0.5), Random(seed)
    request = request_of(dice, prompt_ids=tuple(range(6, 22)), max_tokens=3 * CANVAS, denoising=DENOISING)
    loop = loop_of(model, prefix_slots=3, max_prefill_tokens=16)
    [wanted] = served(loop, read(request))
    loop.add(replace(request, start_ids=misread(wanted[0], dice)))
    ids: list[int] = []
    while loop.scheduler.has_work:
        ids += [token for _, event in loop.step() if isinstance(event, BlockSealed) for token in event.ids]
        for sequence in tuple(loop.scheduler._running.values()):
            loop.scheduler._preempt(sequence, 0.0)
    assert tuple(ids) == wanted[0]


@pytest.mark.parametrize("name", CONSTRAINTS)
@pytest.mark.parametrize("temperature", [0.0, pytest.param(1.0, marks=pytest.mark.slow)])
def test_constraints_hold_along_the_draft_as_left_to_right(make_model: Any, name: str, temperature: float) -> None:
    model = make_model(vocab=VOCABULARY.size, end_ids=VOCABULARY.end_ids, canvas=CANVAS, window=8)
    request = request_of(
        Random(name),
        max_tokens=60,
        temperature=temperature,
        denoising=DENOISING,
        matcher=open_matcher(automaton_of(name), 60),
    )
    [answer], [verified] = run(model, [read(request)]), run(model, [request])
    assert isinstance(verified.end, Finished), verified.end
    assert verified.ids == answer.ids
    assert verified.end.usage.confidence == pytest.approx(answer.end.usage.confidence)


@pytest.mark.parametrize("seed", range(3))
def test_log_probabilities_are_those_of_the_model_before_all_rules(model: Any, seed: int) -> None:
    """For verified tokens as for decoded ones: those of the text read in one pass."""
    request = request_of(Random(seed), max_tokens=30, penalties=Penalties(presence=0.5, logit_bias=((9, 3.0),)))
    cache = KvCache(model.kv_layers, slots=1, slot_tokens=128, dtype=model.dtype, device=model.device)
    for each in (request, read(request)):
        loop, blocks = loop_of(model), list[BlockSealed]()
        loop.add(replace(each, top_logprobs=4))
        loop.add(replace(each, top_logprobs=2, seed=1))
        while loop.scheduler.has_work:
            blocks += [event for sequence, event in loop.step() if sequence == 1 and isinstance(event, BlockSealed)]
        ids = [token for block in blocks for token in block.ids]
        found = [token for block in blocks for token in block.logprobs]
        assert [token.id for token in found] == ids
        text = torch.tensor([(*request.prompt_ids, *ids)])
        with torch.inference_mode():
            hidden = model.encode(text, cache.prefill_view([0], [0], [text.shape[1]]))
            logprobs = model.logits(hidden)[0, len(request.prompt_ids) - 1 : -1].log_softmax(-1)
        for token, wanted in zip(found, logprobs, strict=True):
            assert token.logprob == pytest.approx(float(wanted[token.id]), abs=1e-5)
            likeliest = wanted.topk(4)
            assert [other for other, _ in token.top] == likeliest.indices.tolist()
            assert [logprob for _, logprob in token.top] == pytest.approx(likeliest.values.tolist(), abs=1e-5)


@pytest.mark.parametrize("penalties", [None, Penalties(presence=0.5)])
def test_the_logits_of_a_few_positions_are_computed_at_a_time(
    model: Any, penalties: Penalties | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many rows verify drafts, with the same answers."""
    requests = [request_of(Random(seed), max_tokens=30, denoising=DENOISING, penalties=penalties) for seed in range(4)]
    answers = [answer.ids for answer in run(model, requests)]
    counts = list[int]()

    class Counting(Drafting):
        def logits(self, hidden: torch.Tensor) -> torch.Tensor:
            counts.append(hidden.numel() // hidden.shape[-1])
            return self._model.logits(hidden)

    monkeypatch.setattr(verify, "LOGITS_AT_ONCE", 5 * VOCAB)
    counting = Counting(model, 0, (), right=0.0, dice=Random(0))
    assert [answer.ids for answer in run(counting, requests)] == answers
    assert max(counts) == 5


@pytest.mark.parametrize("seed", range(3))
def test_a_prediction_that_the_model_agrees_with_costs_one_verification_a_canvas(model: Any, seed: int) -> None:
    request = request_of(Random(seed), max_tokens=1 + 3 * CANVAS, denoising=DENOISING, temperature=0.0)
    [answer] = run(model, [read(request)])
    [verified] = run(model, [replace(request, start_ids=answer.ids, anchor=0.8)])
    assert verified.ids == answer.ids
    canvases = -(-(len(answer.ids)) // CANVAS)
    assert verified.end.usage.forward_passes <= 1 + canvases
    assert verified.end.usage.denoising_steps == 0


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 6))])
def test_a_prediction_only_changes_the_cost(model: Any, seed: int) -> None:
    dice = Random(seed)
    request = request_of(dice, max_tokens=40)
    [answer] = run(model, [read(request)])
    text = list(misread(answer.ids, dice))
    del text[dice.randrange(40) : dice.randrange(40)]
    [verified] = run(model, [replace(request, start_ids=tuple(text), anchor=dice.choice((0.0, 0.8, 1.0)))])
    assert verified.ids == answer.ids
