"""Creation of canvases."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusion_worker.denoise.canvas import fresh, warm_start

END, PAD = 1, 0


@given(start=st.lists(st.integers(2, 99), min_size=1, max_size=40).map(tuple), length=st.integers(1, 40))
def test_a_warm_start_fills_the_canvas_exactly_with_text_then_end_then_pads(
    start: tuple[int, ...], length: int
) -> None:
    canvas = warm_start(start, length=length, end_id=END, pad_id=PAD)
    assert len(canvas) == length
    kept = min(len(start), length)
    assert canvas[:kept] == start[:kept]
    assert canvas[kept:] == ((END,) + (PAD,) * (length - kept - 1) if kept < length else ())


def test_a_fresh_canvas_has_no_memory() -> None:
    canvas = fresh(torch.tensor([4, 5, 6]), 8, torch.float32)
    assert canvas.soft.shape == (3, 8)
    assert not canvas.soft.any()
    assert canvas.unchanged.tolist() == [0, 0, 0]
    assert not torch.isin(canvas.surest, torch.arange(100)).any(), "no first canvas can equal its predecessor"


def test_an_anchored_canvas_counts_as_the_most_likely_so_far() -> None:
    canvas = fresh(torch.tensor([4, 5, 6]), 8, torch.float32, is_anchored=True)
    assert canvas.surest.tolist() == canvas.ids.tolist() == [4, 5, 6]
    assert canvas.unchanged.tolist() == [0, 0, 0]
