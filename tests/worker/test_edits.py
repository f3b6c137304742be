"""Anchored edits through the serving loop: the cost of an unchanged text, and the continuation of a longer one."""

import pytest

from diffusion_worker.engine.loop import run
from diffusion_worker.models.toy import ToyModel
from diffusion_worker.types.requests import DenoisingParams, GenerationRequest

DENOISING = DenoisingParams(canvas_length=8, steps=12)
TEXT = (*range(30, 34), *range(40, 55))  # 19 ids: two canvases and a part of a third


def edit(
    answer: tuple[int, ...], source: tuple[int, ...], anchor: float, *, confidence: float = 1.0
) -> tuple[tuple[int, ...], int]:
    """(ids, denoising steps) of a request whose correct answer is `answer` and whose prediction is `source`."""
    model = ToyModel(lambda _prompt: answer, denoising=DENOISING, pace=4, confidence=confidence)
    request = GenerationRequest(
        prompt_ids=(20, 21), max_tokens=40, seed=1, denoising=DENOISING, start_ids=source, anchor=anchor
    )
    [found] = run(model, [request])
    return found.ids, found.end.usage.denoising_steps


@pytest.mark.parametrize("confidence", [1.0, 0.9])
def test_a_block_that_does_not_change_costs_one_step_however_sure_the_model_is(confidence: float) -> None:
    ids, steps = edit(TEXT, TEXT, 1.0, confidence=confidence)
    assert ids == TEXT
    assert steps == 3, "one for each canvas"


def test_without_an_anchor_a_start_is_only_a_hint() -> None:
    ids, steps = edit(TEXT, TEXT, 0.0)
    assert ids == TEXT
    assert steps > 3


@pytest.mark.parametrize("changed", [(*TEXT[:3], 99, *TEXT[3:]), (*TEXT[:3], *TEXT[5:]), (*TEXT[:3], 99, *TEXT[4:])])
def test_canvases_behind_an_insertion_or_a_loss_go_on_where_the_text_does(changed: tuple[int, ...]) -> None:
    """Only the first canvas differs from the text; later canvases are shifted, and still cost one step each."""
    ids, steps = edit(changed, TEXT, 1.0)
    _, first = edit(changed[:8], TEXT[:8], 1.0)
    assert ids == changed
    assert steps <= first + 2


@pytest.mark.parametrize("anchor", [0.3, 0.8, 1.0])
def test_a_text_that_is_all_wrong_is_released(anchor: float) -> None:
    ids, _ = edit(TEXT, tuple(range(200, 219)), anchor)
    assert ids == TEXT


def test_a_text_that_is_too_short_leaves_the_rest_to_noise() -> None:
    ids, steps = edit(TEXT, TEXT[:8], 1.0)
    assert ids == TEXT
    assert steps > 3
