"""Requests of the worker's benchmark through the loop, on the scripted model."""

import pytest

from benchmarks.worker_requests import InstrumentedModel, answer, arrived, padded_left
from diffusion_worker.models.toy import ToyModel
from diffusion_worker.types.requests import DenoisingParams, GenerationRequest


def requests(model: ToyModel, count: int) -> list[GenerationRequest]:
    return [
        GenerationRequest(prompt_ids=(20 + i, 30), max_tokens=8, seed=0, denoising=model.info.denoising)
        for i in range(count)
    ]


def test_requests_arrive_some_steps_apart_until_all_seats_are_taken() -> None:
    """After that, one request arrives for every finished one."""
    assert [arrived(turn, 0, rows=3, stagger=2) for turn in range(7)] == [1, 1, 2, 2, 3, 3, 3]
    assert arrived(20, 4, rows=3, stagger=2) == 7


@pytest.mark.parametrize("stagger", [0, 1, 3])
def test_every_request_is_answered_in_order_however_they_arrive(stagger: int) -> None:
    """The scripted model repeats the prompt; the end token counts."""
    model = ToyModel()
    run = answer(model, requests(model, 7), rows=3, stagger=stagger)
    assert run.texts == tuple(bytes([20 + i - 16, 30 - 16]).decode() for i in range(7))
    assert run.tokens == 7 * 3


def test_a_watched_model_counts_the_passes_of_the_model() -> None:
    """Causal passes and canvas steps alike."""
    model = ToyModel(denoising=DenoisingParams(canvas_length=16))
    watched = InstrumentedModel(model)
    answer(watched, requests(model, 3), rows=2)
    assert watched.passes == model.passes > 0
    assert watched.seconds > 0


def test_prompts_are_padded_on_the_left() -> None:
    """The mask marks padding and tokens."""
    assert padded_left([(5,), (6, 7)]) == ([[0, 5], [6, 7]], [[0, 1], [1, 1]])
