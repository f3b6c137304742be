"""Draws depend only on their key, and follow the probabilities."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusion_worker.denoise.draws import CounterDraws, DrawKey, invert_cdf

DRAWS = CounterDraws(torch.device("cpu"))


def key(*, seed: int = 7, block: int = 0, step: int = 3, sequence: int = 1) -> DrawKey:
    return DrawKey(sequence=sequence, seed=seed, block=block, step=step)


def test_neighbours_in_a_batch_do_not_change_a_row() -> None:
    keys = [key(seed=1), key(seed=2), key(seed=3, step=9)]
    together = DRAWS.noise(keys, 20, 1000)
    for row, one in enumerate(keys):
        assert torch.equal(DRAWS.noise([one], 20, 1000)[0], together[row])


def test_the_number_of_the_sequence_does_not_matter_only_its_seed_does() -> None:
    assert torch.equal(DRAWS.noise([key(sequence=1)], 20, 1000), DRAWS.noise([key(sequence=2)], 20, 1000))


def test_another_seed_block_step_or_purpose_draws_otherwise() -> None:
    base = key()
    variants = [
        DRAWS.noise([other], 40, 2**40)
        for other in (base, key(seed=8), key(seed=-7), key(block=1), key(step=4), key(block=3, step=0))
    ]
    variants.append(DRAWS.opening(base, 40, 2**40)[None])
    assert len(torch.cat(variants).unique()) == 40 * len(variants)


@given(seed=st.integers(-(2**63), 2**63 - 1), step=st.integers(1, 4096))
def test_every_seed_draws_ids_of_the_vocabulary(seed: int, step: int) -> None:
    ids = DRAWS.noise([key(seed=seed, step=step)], 64, 11)
    assert 0 <= int(ids.min()) <= int(ids.max()) < 11


def test_noise_is_uniform_over_the_vocabulary() -> None:
    ids = DRAWS.noise([key(step=step) for step in range(200)], 64, 16).flatten()
    counts = torch.bincount(ids, minlength=16).double()
    expected = len(ids) / 16
    assert float(((counts - expected) ** 2 / expected).sum()) < 37.7, "chi squared of 15 degrees, p = 0.001"


def test_samples_follow_the_probabilities() -> None:
    probabilities = torch.tensor([0.5, 0.25, 0.2, 0.05, 0.0])
    ids = DRAWS.sample([key(step=step) for step in range(200)], probabilities.expand(200, 64, 5)).flatten()
    shares = torch.bincount(ids, minlength=5) / len(ids)
    torch.testing.assert_close(shares, probabilities, atol=0.015, rtol=0.0)
    assert shares[4] == 0.0


@given(
    weights=st.lists(st.sampled_from([0.0, 1e-30, 1e-7, 0.1, 1.0, 5.0]), min_size=1, max_size=50),
    uniform=st.floats(0.0, 1.0, exclude_max=True),
    width=st.integers(1, 60),
)
def test_no_word_of_probability_zero_is_ever_drawn(weights: list[float], uniform: float, width: int) -> None:
    weights = [*weights, 1.0] if not any(weights) else weights
    probabilities = (torch.tensor(weights) / sum(weights))[None, None]
    drawn = invert_cdf(probabilities, torch.tensor([[uniform]], dtype=torch.float64), width=width)
    assert drawn.shape == (1, 1)
    assert probabilities[0, 0, drawn.item()] > 0.0


def test_both_levels_of_a_large_vocabulary_draw_what_one_level_draws() -> None:
    probabilities = torch.rand(2, 8, 1000, generator=torch.Generator().manual_seed(0)).softmax(-1)
    uniform = torch.rand(2, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.equal(invert_cdf(probabilities, uniform, width=1000), invert_cdf(probabilities, uniform, width=64))
