"""Truncated sampling keeps exactly the tokens that vLLM's definitions keep, on the device and on the host."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusion_worker.denoise.truncation import likeliest_tokens, truncated, truncated_canvas
from diffusion_worker.types.requests import Truncation

VOCAB = 23
truncations = st.builds(
    Truncation,
    top_k=st.one_of(st.just(0), st.integers(1, VOCAB + 5)),
    top_p=st.one_of(st.just(1.0), st.floats(0.001, 0.999)),
    min_p=st.one_of(st.just(0.0), st.floats(0.001, 1.0)),
)


def logits_of(seed: int, positions: int = 3) -> torch.Tensor:
    """Distinct logits, so that no token is exactly as likely as another."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(VOCAB, generator=generator) for _ in range(positions)]) * 0.37


def kept_by_vllm(logits: torch.Tensor, wanted: Truncation) -> torch.Tensor:
    """[positions, vocab] as in vLLM: `MinPLogitsProcessor`, then `apply_top_k_top_p` on ascending logits."""
    probabilities = logits.softmax(-1)
    least = probabilities.amax(-1, keepdim=True) * wanted.min_p
    logits = logits.masked_fill(probabilities < least, -torch.inf)
    ascending, order = logits.sort(-1)
    if wanted.top_k:
        smallest = ascending[:, -min(wanted.top_k, VOCAB)][:, None]
        ascending = ascending.masked_fill(ascending < smallest, -torch.inf)
    sums = ascending.double().softmax(-1).cumsum(-1)
    is_cut = sums <= 1 - wanted.top_p
    is_cut[:, -1] = False
    ascending = ascending.masked_fill(is_cut, -torch.inf)
    return (ascending > -torch.inf).gather(-1, order.argsort(-1))


@given(st.integers(0, 2**31), st.lists(truncations, min_size=3, max_size=3))
def test_each_position_keeps_the_tokens_that_vllm_keeps(seed: int, wanted: list[Truncation]) -> None:
    logits = logits_of(seed)
    found = truncated(logits, wanted)
    for position, each in enumerate(wanted):
        expected = kept_by_vllm(logits[position : position + 1], each)[0]
        assert (found[position] > 0).tolist() == expected.tolist()
        shares = torch.where(expected, logits[position].softmax(-1), 0.0)
        torch.testing.assert_close(found[position], shares / shares.sum())


@given(st.integers(0, 2**31), truncations)
def test_the_host_keeps_the_same_tokens_as_the_device(seed: int, wanted: Truncation) -> None:
    logits = logits_of(seed, positions=1)
    tokens, weights = likeliest_tokens(logits[0].double().numpy(), wanted)
    found = truncated(logits, [wanted])[0]
    assert sorted(tokens.tolist()) == found.nonzero()[:, 0].tolist()
    np.testing.assert_allclose(weights / weights.sum(), found[tokens].numpy(), rtol=1e-5)


def test_tokens_as_likely_as_the_last_one_are_kept() -> None:
    logits = torch.tensor([[2.0, 1.0, 1.0, 0.0]])
    for wanted in (Truncation(top_k=2), Truncation(top_p=0.7)):
        assert (truncated(logits, [wanted]) > 0).tolist() == [[True, True, True, False]]
        assert sorted(likeliest_tokens(logits[0].double().numpy(), wanted)[0].tolist()) == [0, 1, 2]


def test_tokens_that_a_constraint_excludes_are_not_counted() -> None:
    logits = torch.tensor([[9.0, 2.0, 1.0, 0.0]]).masked_fill(torch.tensor([True, False, False, False]), -torch.inf)
    assert (truncated(logits, [Truncation(top_k=2)]) > 0).tolist() == [[False, True, True, False]]


@pytest.mark.parametrize("wanted", [Truncation(top_k=3), Truncation(top_p=0.8), Truncation(min_p=0.2)])
def test_a_canvas_in_blocks_is_the_same_as_at_once(wanted: Truncation, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = logits_of(1, positions=7)
    whole = truncated_canvas(logits, wanted)
    monkeypatch.setattr("diffusion_worker.denoise.truncation._AT_ONCE", 2 * VOCAB)
    assert torch.equal(truncated_canvas(logits, wanted), whole)
