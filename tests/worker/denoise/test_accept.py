"""Acceptance keeps the most certain positions within the bound; renoising replaces the others, and nothing else."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusion_worker.denoise.accept import accept, renoise

# Multiples of 1/64 add up without rounding, so the properties hold exactly.
ENTROPIES = st.lists(st.integers(0, 400).map(lambda count: count / 64), min_size=1, max_size=40)
BOUND = st.integers(0, 1300).map(lambda count: count / 64)
TOKENS, NOISE = torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([[70, 80, 90], [71, 81, 91]])
SUREST = torch.tensor([[11, 12, 13], [14, 15, 16]])
ACCEPTED = torch.tensor([[True, False, True], [False, False, False]])


@given(entropies=ENTROPIES, bound=BOUND)
def test_it_takes_the_longest_run_of_most_likely_positions_whose_predecessors_fit(
    entropies: list[float], bound: float
) -> None:
    accepted = accept(torch.tensor([entropies]), torch.tensor([bound]))[0].tolist()
    taken = sorted(entropy for entropy, is_in in zip(entropies, accepted, strict=True) if is_in)
    left = sorted(entropy for entropy, is_in in zip(entropies, accepted, strict=True) if not is_in)
    assert taken, "the surest position is always accepted"
    assert not left or taken[-1] <= left[0], "no position is passed over for a less sure one"
    assert sum(taken[:-1]) <= bound
    assert not left or sum(taken) > bound, "it does not stop before the bound"


@given(entropies=ENTROPIES, bound=BOUND)
def test_a_higher_bound_never_accepts_fewer(entropies: list[float], bound: float) -> None:
    row = torch.tensor([entropies])
    few, more = accept(row, torch.tensor([bound])), accept(row, torch.tensor([bound + 1.0]))
    assert bool((few <= more).all())


def test_each_row_has_its_own_bound() -> None:
    row = torch.tensor([0.25, 0.125, 0.5, 0.75])
    accepted = accept(row.repeat(3, 1), torch.tensor([0.0, 0.125, 10.0]))
    assert accepted.tolist() == [[False, True, False, False], [True, True, False, False], [True] * 4]


def test_accepted_positions_keep_their_token_and_all_others_become_noise() -> None:
    kept = torch.zeros_like(ACCEPTED)
    assert renoise(TOKENS, ACCEPTED, NOISE, surest=SUREST, kept=kept).tolist() == [[1, 80, 3], [71, 81, 91]]


def test_kept_positions_show_the_most_likely_token_unless_they_were_accepted() -> None:
    kept = torch.tensor([[True, True, False], [False, False, True]])
    assert renoise(TOKENS, ACCEPTED, NOISE, surest=SUREST, kept=kept).tolist() == [[1, 12, 3], [71, 81, 16]]
