"""Pinned positions are certain: the model sees them, the answer keeps them, and their entropy is zero."""

from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusion_worker.constraints.inference.template import FREE
from diffusion_worker.denoise.pins import mean_over_free, pin_ids, pins_of
from diffusion_worker.denoise.score import CanvasLogits, Sampling, score
from diffusion_worker.engine.loop import run
from diffusion_worker.types.requests import DenoisingParams, GenerationRequest
from diffusion_worker.types.step_batch import Denoise

CPU = torch.device("cpu")


def item(*, head: tuple[int, ...] = (), tail: tuple[int, ...] = ()) -> Denoise:
    denoising = DenoisingParams(canvas_length=8)
    return Denoise(
        sequence=1,
        slot=0,
        at=0,
        block=0,
        step=3,
        opens=False,
        denoising=denoising,
        seed=0,
        pinned_prefix=head,
        pinned_suffix=tail,
    )


def test_rows_without_pins_cost_nothing() -> None:
    assert pins_of([item(), item()], 8, CPU) is None


@given(head=st.lists(st.integers(0, 9), max_size=4).map(tuple), tail=st.lists(st.integers(0, 9), max_size=4).map(tuple))
def test_head_and_tail_stand_at_the_two_ends_and_all_between_is_free(
    head: tuple[int, ...], tail: tuple[int, ...]
) -> None:
    pins = pins_of([item(head=head, tail=tail), item(head=(5,))], 8, CPU)
    assert pins is not None
    ids = torch.full((2, 8), 7)
    assert pin_ids(ids, pins)[0].tolist() == [*head, *[7] * (8 - len(head) - len(tail)), *tail]
    logits = CanvasLogits(raw=torch.zeros(2, 8, 10), cap=0.0, temperature=torch.tensor([0.5, 0.5]), pins=pins)
    found = score(logits, Sampling(keys=(), uniforms=None, asked={}))
    is_free = pins == FREE
    assert bool((found.entropy[~is_free] == 0.0).all())
    assert bool((found.surest[~is_free] == pins[~is_free]).all())
    torch.testing.assert_close(mean_over_free(found.entropy, pins), found.entropy.amax(-1), msg="pins dilute the mean")


def test_the_text_behind_a_gap_is_on_every_canvas_that_the_model_sees(make_model: Any) -> None:
    model, shown = make_model(dtype=torch.float32, end_ids=()), list[list[int]]()
    denoise, mixed = model.denoise, model.mixed_pass
    model.denoise = lambda canvas, soft, context: (shown.extend(canvas.tolist()), denoise(canvas, soft, context))[1]

    def recorded(ids: Any, canvas: torch.Tensor | None, *rest: Any) -> Any:
        shown.extend([] if canvas is None else canvas.tolist())
        return mixed(ids, canvas, *rest)

    model._mixed_pass = recorded
    one = GenerationRequest(
        prompt_ids=(20, 21),
        max_tokens=18,
        seed=1,
        suffix_ids=(30, 31, 32),
        denoising=DenoisingParams(steps=4, canvas_length=12),
    )
    [answer] = run(model, [one])
    assert len(answer.ids) == 18, "two canvases of which nine positions each are the gap"
    assert len(shown) == answer.end.usage.denoising_steps
    assert all(canvas[-3:] == [30, 31, 32] for canvas in shown)
