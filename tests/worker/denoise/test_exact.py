"""In exact mode, results are bitwise equal regardless of batching and preemption."""

from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import Any

import pytest
import torch

from diffusion_worker.engine.loop import Capacity, Loop
from diffusion_worker.types.events import Faulted
from diffusion_worker.types.requests import (
    DecodingMode,
    DenoisingParams,
    GenerationRequest,
    Penalties,
    Truncation,
)
from diffusion_worker.types.step_batch import StepResult

DENOISING = DenoisingParams(steps=5, canvas_length=12, confidence_threshold=1e-12)
ROWS = 4
MODES = (*[DecodingMode.DIFFUSION] * 3, DecodingMode.VERIFIED, DecodingMode.AUTOREGRESSIVE)
Drafts = list[tuple[tuple[int, ...], tuple[float, ...]]]  # ids and log-probabilities of every step


def requests(dice: Random, count: int) -> list[GenerationRequest]:
    return [
        GenerationRequest(
            prompt_ids=tuple(dice.randint(6, 60) for _ in range(dice.randint(2, 70))),
            max_tokens=12 * dice.randint(1, 3),
            seed=n,
            denoising=replace(
                DENOISING,
                steps=dice.randint(2, 6),
                entropy_bound=dice.choice((0.1, 4.0)),
                canvas_length=dice.choice((12, 12, 12, 7)),
            ),
            temperature=dice.choice((None, 0.0, 1.3)),
            truncation=dice.choice((None, None, None, Truncation(top_p=0.9, min_p=0.01), Truncation(top_k=5))),
            penalties=dice.choice((None, None, Penalties(presence=0.5, repetition=1.2))),
            stream_prefix=dice.random() < 0.3,
            suffix_ids=dice.choice(((), (7, 8, 9))),
            decoding_mode=MODES[n % 5],
        )
        for n in range(count)
    ]


def served(
    model: Any, wanted: list[GenerationRequest], *, dice: Random | None = None, is_exact: bool = True
) -> list[Drafts]:
    """Drafts of every step of every request. With `dice`, requests arrive at random and are sometimes preempted."""
    capacity = Capacity(max_num_seqs=ROWS, max_context=128, is_exact=is_exact, max_prefill_tokens=16)
    loop = Loop(model, capacity, gauge=lambda: (0, 0))
    shown: dict[int, Drafts] = {}
    step = loop._stepper.step

    def stepped(batch: Any) -> StepResult:
        result: StepResult = step(batch)
        for canvas in result.canvases:
            shown[canvas.sequence].append((canvas.ids, canvas.logprobs))
        for token in result.tokens:
            shown[token.sequence].append(((token.id,), (token.logprob,)))
        for verified in result.verifications:
            shown[verified.sequence].append((verified.ids, tuple(token.logprob for token in verified.tokens)))
        return result

    loop._stepper.step = stepped  # type: ignore[method-assign]
    due = list(wanted)
    while due or loop.scheduler.has_work:
        while due and (dice is None or dice.random() < 0.4):
            shown[loop.add(due.pop(0))] = []
        if dice:
            loop.scheduler.set_max_rows(dice.choice((1, 2, ROWS, ROWS)), 0.0)
        assert [event.error for _, event in loop.step() if isinstance(event, Faulted)] == []
    return [shown[sequence] for sequence in sorted(shown)]


def in_any_company(model: Any, seed: int, *, is_exact: bool = True) -> Iterator[bool]:
    """For every request, whether its bits are the same in a random batch as alone."""
    dice = Random(seed)
    wanted = requests(dice, 6)
    order = dice.sample(range(len(wanted)), len(wanted))
    together = served(model, [wanted[index] for index in order], dice=dice, is_exact=is_exact)
    for place, index in enumerate(order):
        yield together[place] == served(model, [wanted[index]], is_exact=is_exact)[0]


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)])
@pytest.mark.parametrize("experts", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_every_step_shows_the_same_bits_whoever_shares_the_batch(
    make_model: Any, experts: int, dtype: torch.dtype
) -> None:
    model = make_model(dtype=dtype, experts=experts, is_exact=True, end_ids=())
    assert all(in_any_company(model, 1))


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "threads"), [(0, 1), (1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_holds_for_more_orders_and_threads(make_model: Any, dtype: torch.dtype, seed: int, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        model = make_model(dtype=dtype, experts=1 + 3 * (seed % 2), is_exact=True, end_ids=(), hidden=64, seed=seed)
        assert all(in_any_company(model, seed))
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
def test_without_it_rounding_shows_so_the_promise_is_worth_something(make_model: Any) -> None:
    model = make_model(dtype=torch.bfloat16, experts=4, end_ids=())
    assert not all(in_any_company(model, 1, is_exact=False))
