"""Anchoring: how strongly a canvas keeps a given text."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusion_worker.denoise.anchor import kept, reduced_span
from diffusion_worker.types.step_batch import late_start

STRENGTH = st.floats(0.0, 1.0)


@given(weaker=STRENGTH, stronger=STRENGTH, span=st.floats(0.0, 10.0), steps=st.integers(1, 4096))
def test_the_stronger_the_anchor_the_colder_and_the_later_the_schedule_begins(
    weaker: float, stronger: float, span: float, steps: int
) -> None:
    weaker, stronger = sorted((weaker, stronger))
    assert span >= reduced_span(span, weaker) >= reduced_span(span, stronger) >= 0.0
    assert steps >= late_start(steps, weaker) >= late_start(steps, stronger) >= 1


def test_without_an_anchor_nothing_is_cooled_or_skipped_and_at_full_strength_two_thirds_are() -> None:
    assert (reduced_span(0.4, 0.0), reduced_span(0.4, 1.0)) == (0.4, 0.0)
    assert (late_start(48, 0.0), late_start(48, 1.0), late_start(1, 1.0)) == (48, 16, 1)


@pytest.mark.parametrize(("anchor", "bar"), [(1.0, 0.5), (0.5, 0.75), (0.1, 0.95)])
def test_a_position_keeps_its_most_likely_token_where_that_is_likely_enough(anchor: float, bar: float) -> None:
    likeliest = torch.tensor([[bar - 0.01, bar + 0.01, 1.0]])
    assert kept(likeliest, torch.tensor([anchor])).tolist() == [[False, True, True]]


def test_rows_without_an_anchor_keep_nothing_whoever_shares_the_batch() -> None:
    assert kept(torch.ones(2, 3), torch.tensor([0.0, 0.8])).tolist() == [[False] * 3, [True] * 3]
