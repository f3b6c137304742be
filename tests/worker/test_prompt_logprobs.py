"""Log-probabilities of a prompt are those of one causal pass of the plain model, however the prompt was computed.

The model is random and chaotic, in fp64, with a window shorter than its contexts: one wrong position would show.
"""

import random
from array import array
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusion_worker.denoise import autoregressive
from diffusion_worker.engine.loop import Capacity, Loop
from diffusion_worker.memory.kv_cache import KvCache
from diffusion_worker.memory.scored_prompt import ScoredPrompt
from diffusion_worker.types.events import Event, Finished, FinishReason, PromptScored, TokenLogprobs
from diffusion_worker.types.requests import DecodingMode, DenoisingParams, GenerationRequest

VOCAB = 23
CAUSAL = (DecodingMode.VERIFIED, DecodingMode.AUTOREGRESSIVE)


@pytest.fixture(scope="module")
def model(make_model: Any) -> Any:
    return make_model(vocab=VOCAB, window=8, canvas=12, spread=0.5)


def request_of(dice: random.Random, length: int, **changes: Any) -> GenerationRequest:
    request = GenerationRequest(
        prompt_ids=tuple(dice.randrange(6, VOCAB) for _ in range(length)),
        max_tokens=dice.choice((1, 3)),
        seed=1,
        denoising=DenoisingParams(steps=3, canvas_length=12),
        decoding_mode=dice.choice(CAUSAL),
        prompt_logprobs=dice.choice((0, 1, 4)),
    )
    return replace(request, **changes)


def loop_of(model: Any, **capacity: Any) -> Loop:
    settings = {"max_num_seqs": 3, "max_context": 128, "max_prefill_tokens": 7, "prefix_slots": 2, **capacity}
    return Loop(model, Capacity(**settings), gauge=lambda: (0, 0))


def served(loop: Loop, *requests: GenerationRequest, dice: random.Random | None = None) -> list[list[Event]]:
    """The events of each request. With `dice`, sequences are preempted at random."""
    events: dict[int, list[Event]] = {loop.add(request): [] for request in requests}
    while loop.scheduler.has_work:
        for sequence, event in loop.step():
            events[sequence].append(event)
        for sequence in tuple(loop.scheduler._running.values()) if dice else ():
            if dice and dice.random() < 0.2:
                loop.scheduler._preempt(sequence, 0.0)
    return list(events.values())


def scored(events: Sequence[Event]) -> tuple[TokenLogprobs, ...]:
    """The only report of the prompt, which comes first."""
    assert [isinstance(event, PromptScored) for event in events] == [True] + [False] * (len(events) - 1)
    assert isinstance(events[-1], Finished), events[-1]
    first = events[0]
    assert isinstance(first, PromptScored)
    return first.tokens


def plain(model: Any, prompt: tuple[int, ...], top: int) -> list[TokenLogprobs]:
    """The same from one pass of the model over the whole prompt."""
    cache = KvCache(model.kv_layers, slots=1, slot_tokens=128, dtype=model.dtype, device=model.device)
    with torch.inference_mode():
        hidden = model.encode(torch.tensor([prompt]), cache.prefill_view([0], [0], [len(prompt)]))
        logprobs = model.logits(hidden)[0].log_softmax(-1)
    found = []
    for token, row in zip(prompt[1:], logprobs, strict=False):
        best = row.topk(top)
        pairs = tuple(
            zip(best.indices.tolist(), (pytest.approx(each, abs=1e-6) for each in best.values.tolist()), strict=True)
        )
        found.append(TokenLogprobs(id=token, logprob=pytest.approx(float(row[token]), abs=1e-6), top=pairs))
    return found


def assert_plain(model: Any, request: GenerationRequest, events: Sequence[Event]) -> None:
    assert request.prompt_logprobs is not None
    assert list(scored(events)) == plain(model, request.prompt_ids, request.prompt_logprobs)


@pytest.mark.parametrize("is_exact", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_prompts_of_any_length_are_scored_in_mixed_batches(model: Any, seed: int, is_exact: bool) -> None:
    dice = random.Random(seed)
    wanted = [request_of(dice, length) for length in (1, 2, 7, 8, 15, 40)]
    others = [request_of(dice, 20, decoding_mode=DecodingMode.DIFFUSION, prompt_logprobs=None, max_tokens=12)]
    found = served(loop_of(model, is_exact=is_exact), *wanted, *others, dice=dice)
    for request, events in zip(wanted, found, strict=False):
        assert_plain(model, request, events)


@pytest.mark.parametrize("window", [8, 100])
@pytest.mark.parametrize("seed", range(4))
def test_values_are_kept_with_retained_contexts(make_model: Any, seed: int, window: int) -> None:
    """Choices that continue one context, as in multiple-choice tasks: also where rings of keys have wrapped."""
    model, dice = make_model(vocab=VOCAB, window=window, canvas=12, spread=0.5), random.Random(seed)
    context = request_of(dice, 40, prompt_logprobs=3)
    choices = [
        replace(context, prompt_ids=(*context.prompt_ids, *request_of(dice, dice.randint(1, 9)).prompt_ids))
        for _ in range(5)
    ]
    loop, reused = loop_of(model, max_num_seqs=1, prefix_slots=3), list[int]()
    for request in choices:
        [events] = served(loop, replace(request, prompt_logprobs=dice.choice((0, 3))))
        top = len(scored(events)[0].top)
        assert_plain(model, replace(request, prompt_logprobs=top), events)
        assert isinstance(events[-1], Finished)
        reused.append(events[-1].usage.cached_tokens)
    assert reused[-1] >= 16, "a context that is known is not computed again"


def test_a_context_whose_values_are_not_kept_is_read_again(make_model: Any) -> None:
    """It was computed without them, or with fewer of the most likely tokens."""
    model = make_model(vocab=VOCAB, window=100, canvas=12, spread=0.5)
    request = request_of(random.Random(0), 30, decoding_mode=DecodingMode.AUTOREGRESSIVE, max_tokens=1)
    loop, reused = loop_of(model, max_num_seqs=1), list[bool]()
    for top in (None, 2, 2, 1, 3, 3):
        request = replace(request, prompt_ids=(*request.prompt_ids, 7), prompt_logprobs=top)
        [events] = served(loop, request)
        if top is not None:
            assert_plain(model, request, events)
        assert isinstance(events[-1], Finished)
        reused.append(events[-1].usage.cached_tokens > 0)
    assert reused == [False, False, True, True, False, True]


@pytest.mark.parametrize("mode", CAUSAL)
def test_a_scored_prompt_does_not_change_the_answer(model: Any, mode: DecodingMode) -> None:
    request = request_of(random.Random(3), 25, decoding_mode=mode, max_tokens=9, temperature=1.0)
    [with_scores], [without] = (
        served(loop_of(model), each) for each in (request, replace(request, prompt_logprobs=None))
    )
    assert with_scores[1:-1] == without[:-1]


def test_without_tokens_to_write_the_prompt_is_only_read(model: Any) -> None:
    request = request_of(random.Random(4), 25, decoding_mode=DecodingMode.AUTOREGRESSIVE, max_tokens=0)
    [events] = served(loop_of(model), request)
    assert_plain(model, request, events)
    assert len(events) == 2
    end = events[-1]
    assert isinstance(end, Finished)
    assert (end.reason, end.usage.completion_tokens, end.usage.forward_passes) == (FinishReason.LENGTH, 0, 4)


def test_the_head_runs_over_a_few_positions_at_a_time(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = list[int]()

    class Counting:
        def __getattr__(self, name: str) -> Any:
            return getattr(model, name)

        def logits(self, hidden: torch.Tensor) -> torch.Tensor:
            counts.append(hidden.numel() // hidden.shape[-1])
            return model.logits(hidden)

    monkeypatch.setattr(autoregressive, "LOGITS_AT_ONCE", 5 * VOCAB)
    dice = random.Random(5)
    requests = [request_of(dice, 30) for _ in range(3)]
    found = served(loop_of(Counting(), max_prefill_tokens=30), *requests)
    for request, events in zip(requests, found, strict=True):
        assert_plain(model, request, events)
    assert max(counts) == 5


IDS = st.lists(st.integers(0, 2), max_size=12).map(tuple)


@given(held=IDS, prompt=IDS, at=st.integers(0, 12), chunk=st.integers(1, 5))
def test_values_of_a_shared_beginning_continue_without_a_gap(
    held: tuple[int, ...], prompt: tuple[int, ...], at: int, chunk: int
) -> None:
    """An artificial model: the value of a token is its position, with its id as the most likely token."""

    def extended(known: ScoredPrompt, ids: tuple[int, ...], start: int) -> ScoredPrompt:
        for place in range(start, len(ids), chunk):
            following = enumerate(ids[place + 1 : place + 1 + chunk], place + 1)
            values = array("d", [number for index, token in following for number in (index, token, 0.0)])
            known = known.extended(ids, place, values)
        return known

    kept = extended(ScoredPrompt(top=1), held, 0)
    reused = min(at, kept.reusable(prompt, top=1))
    assert kept.reusable(prompt, top=2) == 0
    whole = extended(kept.first(reused + 1) if reused else ScoredPrompt(top=1), prompt, reused)
    wanted = [TokenLogprobs(id=prompt[n], logprob=n, top=((prompt[n], 0.0),)) for n in range(1, len(prompt))]
    assert list(whole.token_logprobs(1)) == wanted
