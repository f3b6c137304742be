"""Truncated sampling keeps exactly the tokens that vLLM's definitions keep, on the device and on the host."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusion_worker.denoise.truncation import likeliest_tokens, truncated
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


@pytest.mark.parametrize("top_p", [0.01, 0.5, 0.9, 0.999])
def test_the_host_sorts_few_tokens_of_a_large_vocabulary(top_p: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sorting 262,144 tokens at each of 256 positions would take seconds a step."""
    logits = torch.from_numpy(5 * np.random.default_rng(1).standard_normal((1, 20_000))).float()
    sort, sizes = np.sort, []

    def record(values: Any) -> Any:
        sizes.append(len(values))
        return sort(values)

    monkeypatch.setattr(np, "sort", record)
    tokens, _ = likeliest_tokens(logits[0].double().numpy(), Truncation(top_p=top_p))
    assert tokens.tolist() == truncated(logits, [Truncation(top_p=top_p)])[0].nonzero()[:, 0].tolist()
    assert sum(sizes) <= 16 * len(tokens) + 64


def test_tokens_as_likely_as_the_last_one_are_kept() -> None:
    logits = torch.tensor([[2.0, 1.0, 1.0, 0.0]])
    for wanted in (Truncation(top_k=2), Truncation(top_p=0.7)):
        assert (truncated(logits, [wanted]) > 0).tolist() == [[True, True, True, False]]
        assert sorted(likeliest_tokens(logits[0].double().numpy(), wanted)[0].tolist()) == [0, 1, 2]


def test_tokens_that_a_constraint_excludes_are_not_counted() -> None:
    logits = torch.tensor([[9.0, 2.0, 1.0, 0.0]]).masked_fill(torch.tensor([True, False, False, False]), -torch.inf)
    assert (truncated(logits, [Truncation(top_k=2)]) > 0).tolist() == [[False, True, True, False]]
