"""A streamed prefix never changes: every later canvas of its block keeps it, and so does the final output."""

from dataclasses import replace
from random import Random
from typing import Any

import pytest

from diffusion_worker.denoise import stop
from diffusion_worker.engine.loop import Capacity, Loop
from diffusion_worker.types.events import (
    BlockSealed,
    CanvasDrafted,
    Faulted,
    Finished,
    FinishReason,
    PrefixStable,
)
from diffusion_worker.types.requests import DenoisingParams, GenerationRequest

DENOISING = DenoisingParams(steps=12, canvas_length=12, confidence_threshold=1e-12, entropy_bound=6.0)


@pytest.mark.parametrize("seed", range(6))
def test_what_has_been_told_stays(make_model: Any, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks, cut by max_tokens, end tokens and deadlines; preemptions; a confidence that is often wrong."""
    monkeypatch.setattr(stop, "STABLE_PROBABILITY", 0.2)
    monkeypatch.setattr(stop, "STABLE_STEPS", 1)
    dice, model = Random(seed), make_model(end_ids=(6, 7), spread=0.5, seed=seed)
    loop = Loop(model, Capacity(max_num_seqs=3, max_context=128), gauge=lambda: (0, 0))
    streamed: dict[int, list[int]] = {}
    texts: dict[int, list[int]] = {}
    ends: dict[int, Finished] = {}
    early = 0
    for n in range(6):
        one = GenerationRequest(
            prompt_ids=tuple(dice.randint(8, 60) for _ in range(20)),
            max_tokens=dice.randint(1, 40),
            seed=n,
            denoising=DENOISING,
            stream_prefix=True,
            stream_drafts=n % 2 == 0,
            suffix_ids=dice.choice(((), (9, 9))),
            deadline_s=dice.choice((None, None, 0.15)),
        )
        sequence = loop.add(one)
        streamed[sequence], texts[sequence] = [], []
    while loop.scheduler.has_work:
        loop.scheduler.set_max_rows(dice.choice((1, 3, 3)), 0.0)
        for sequence, event in loop.step():
            if isinstance(event, PrefixStable):
                assert event.ids, "no event without ids"
                streamed[sequence] += event.ids
                texts[sequence] += event.ids
                early += len(event.ids)
                assert event.usage.completion_tokens == len(texts[sequence])
            elif isinstance(event, CanvasDrafted):
                assert list(event.ids[: len(streamed[sequence])]) == streamed[sequence], (
                    "a later canvas keeps what was streamed"
                )
            elif isinstance(event, BlockSealed):
                texts[sequence] += event.ids
                streamed[sequence] = []
            elif isinstance(event, Finished):
                ends[sequence] = event
            else:
                assert isinstance(event, Faulted), event
                assert event.error.code == "deadline_exceeded", "only who never got a slot"
    for sequence, end in ends.items():
        has_end = end.reason is FinishReason.STOP
        assert end.usage.completion_tokens == len(texts[sequence]) + has_end
        assert not {6, 7} & set(texts[sequence])
    assert early > 0, "nothing was streamed early: the test proves nothing"


def test_drafts_show_every_step_and_promise_nothing(make_model: Any) -> None:
    model = make_model(end_ids=())
    loop = Loop(model, Capacity(max_num_seqs=1, max_context=64))
    loop.add(
        GenerationRequest(
            prompt_ids=(9,) * 9, max_tokens=24, seed=1, stream_drafts=True, denoising=replace(DENOISING, steps=4)
        )
    )
    drafts = []
    while loop.scheduler.has_work:
        drafts += [event for _, event in loop.step() if isinstance(event, CanvasDrafted)]
    assert [(draft.block, draft.step) for draft in drafts] == [
        (block, step) for block in (0, 1) for step in (1, 2, 3, 4)
    ]
    assert all(len(draft.ids) == len(draft.logprobs) == len(draft.states) == 12 for draft in drafts)
    assert {state for draft in drafts for state in draft.states} == {"accepted", "renoised"}
    assert all(draft.entropy > 0 for draft in drafts)
