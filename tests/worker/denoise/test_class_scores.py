"""Scores of classes in torch equal those of their members, and their tokens those found among all; few launches, few
bytes to the host."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.gpu.dispatch_counts import DispatchCounts
from diffusion_worker.constraints.inference.class_reduction import ClassLayout
from diffusion_worker.constraints.tokens.token_automaton import TokenSets
from diffusion_worker.denoise import class_scores
from diffusion_worker.denoise.class_scores import (
    Chunks,
    class_numbers,
    class_scores_of,
    likeliest_members,
    on_device,
    sampled_members,
)
from tests.worker.live_bytes import LiveBytes

MIB = 1 << 20
SIZES = (*[1] * 20, 2, 5, 130, 300, 1900)  # of classes; the last one covers most of the vocabulary
EVEN = (1, 1, 700, 800, 900)  # none does


def token_sets_of(sizes: tuple[int, ...], seed: int = 0) -> TokenSets:
    """Classes of random tokens. Without sets: only the classes matter here."""
    tokens = np.random.default_rng(seed).permutation(sum(sizes)).astype(np.int32)
    ends = np.cumsum(sizes)
    parts = [np.sort(part) for part in np.split(tokens, ends[:-1])]
    class_of = np.empty(len(tokens), np.int32)
    for index, part in enumerate(parts):
        class_of[part] = index
    nothing = np.zeros(1, np.int32)
    return TokenSets(
        order=np.concatenate(parts),
        class_start=np.append(0, ends).astype(np.int32),
        class_of=class_of,
        leaf_of=np.arange(len(sizes), dtype=np.int32),
        class_at=nothing,
        set_start=nothing,
        set_node=nothing,
    )


def annealed(raw: torch.Tensor, cap: float, temperature: float) -> np.ndarray:
    """In double precision."""
    logits = raw.double().numpy()
    return (np.tanh(logits / cap) * cap if cap else logits) / temperature


@given(
    st.sampled_from([SIZES, EVEN, (1,) * 9]),
    st.sampled_from([0.0, 1.0, 30.0]),
    st.sampled_from([(0.0, 1.0), (30.0, 0.6)]),
    st.sampled_from([1.0, 0.5, 2.0]),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=25, deadline=None)
def test_scores_and_tokens_are_those_of_the_members(
    sizes: tuple[int, ...], scale: float, head: tuple[float, float], sampling: float, seed: int
) -> None:
    """Of logits that are flat or peaked, with and without a soft cap, and at a temperature of sampling."""
    token_sets, (cap, temperature) = token_sets_of(sizes), head
    layout = ClassLayout(token_sets)
    random = torch.Generator().manual_seed(seed % 2**31)
    raw = torch.randn((len(sizes), len(token_sets.order)), generator=random) * scale
    here = on_device(layout, raw.device)
    numbers, chunks = class_numbers(raw, here, torch.tensor(temperature), sampling, cap)
    found, exact = class_scores_of(numbers.numpy(), len(raw), layout, sampling), annealed(raw, cap, temperature)
    for index in range(len(sizes)):
        values = exact[:, token_sets.tokens_of(index)]
        mass = np.logaddexp.reduce(values, axis=1)
        surprise = (np.exp(values - mass[:, None]) * (mass[:, None] - values)).sum(axis=1)
        assert found.peak[:, index] == pytest.approx(values.max(axis=1), rel=1e-5, abs=1e-4)
        assert found.mass[:, index] == pytest.approx(mass, rel=1e-5, abs=1e-4)
        assert found.entropy[:, index] == pytest.approx(surprise, abs=1e-3)
        if found.sampled is not None:
            warm = np.logaddexp.reduce(values * sampling, axis=1)
            assert found.sampled[:, index] == pytest.approx(warm, rel=1e-5, abs=1e-3)
    _check_tokens(token_sets, chunks, raw, (cap, temperature), seed)


def _check_tokens(
    token_sets: TokenSets, chunks: Chunks, raw: torch.Tensor, head: tuple[float, float], seed: int
) -> None:
    """Position i asks for class i."""
    (cap, temperature), layout = head, on_device(ClassLayout(token_sets), raw.device)
    logits = torch.from_numpy(annealed(raw, cap, temperature)).float()
    classes, rests = torch.arange(len(raw)), np.random.default_rng(seed).uniform(0.01, 0.99, len(raw))
    best = likeliest_members(layout, chunks, classes, lambda tokens: logits.gather(1, tokens))
    drawn = sampled_members(layout, chunks, classes, torch.from_numpy(rests), lambda tokens: logits.gather(1, tokens))
    for index, (most, sample) in enumerate(zip(best.tolist(), drawn.tolist(), strict=True)):
        tokens = token_sets.tokens_of(index)
        values = logits[index, tokens].double().numpy()
        assert most in tokens[values >= values.max() - 1e-5]
        ends = np.cumsum(np.exp((values - values.max()) * chunks.sampling))
        near = [np.searchsorted(ends, (rests[index] + by) * ends[-1], side="right") for by in (-1e-4, 1e-4)]
        assert sample in tokens[near[0] : near[1] + 1], "the same draw as from all members in order"


@pytest.fixture(scope="module")
def large() -> ClassLayout:
    """As many classes as a schema has over 262,144 tokens."""
    several = (*[3] * 60, *[40] * 20, 2_000, 7_800, 10_600)
    return ClassLayout(token_sets_of((*[1] * 400, *several, 262_144 - 400 - sum(several))))


@pytest.mark.parametrize("sampling", [1.0, 1.4])
def test_a_row_is_few_launches_and_one_megabyte_for_the_host(large: ClassLayout, sampling: float) -> None:
    """The logits are read once, and the tokens of 256 classes are found in one chunk each."""
    meta = torch.device("meta")
    raw = torch.empty(256, 262_144, dtype=torch.bfloat16, device=meta)
    here = on_device(large, meta)
    with DispatchCounts("meta") as counts:
        numbers, chunks = class_numbers(raw, here, torch.empty((), device=meta), sampling, 30.0)
    assert numbers.numel() * 4 <= 1.25 * MIB
    assert counts.launches["chunk_sums"] == 1
    assert counts.launches.total() <= 45, counts.launches
    assert counts.moved <= 2 * raw.numel() * raw.element_size(), counts.bytes_by_operation
    classes, rests = torch.empty(256, dtype=torch.long, device=meta), torch.empty(256, dtype=torch.double, device=meta)
    with DispatchCounts("meta") as counts:
        likeliest_members(here, chunks, classes, lambda tokens: raw.gather(1, tokens).float())
        sampled_members(here, chunks, classes, rests, lambda tokens: raw.gather(1, tokens).float())
    assert counts.launches.total() <= 110, counts.launches
    assert counts.moved <= 2 * raw.numel() * raw.element_size(), counts.bytes_by_operation


def test_without_a_compiler_logits_are_reduced_in_blocks_of_bounded_memory(large: ClassLayout) -> None:
    meta = torch.device("meta")
    raw = torch.empty(16, 262_144, dtype=torch.bfloat16, device=meta)
    here = on_device(large, meta)
    with LiveBytes([raw, here.slots]) as memory:
        class_scores._sums_in_blocks(raw, here.slots, torch.empty(2, device=meta), 30.0)
    assert (memory.peak - raw.numel() * 2) / MIB <= 40
