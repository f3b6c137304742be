"""Scores of context tokens: whatever is cached, chunked or copied, a context has those of one pass over all of it."""

from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from diffusion_worker.memory.prompt_scores import PromptScores, TokenPlace
from diffusion_worker.memory.slots import SlotTable
from diffusion_worker.types.confidence import WEAKEST
from diffusion_worker.types.model_info import LayerKv

VOCAB, HIDDEN, TOKENS = 7, 5, 24
_draw = torch.Generator().manual_seed(1)
TABLE, HEAD = torch.randn(VOCAB, HIDDEN, generator=_draw), torch.randn(VOCAB, HIDDEN, generator=_draw)
IDS = st.lists(st.integers(0, VOCAB - 1), min_size=2, max_size=TOKENS)


def hidden_of(ids: Sequence[int]) -> torch.Tensor:
    """A causal reading: the hidden state [tokens, hidden] of a token depends on all tokens up to it."""
    return TABLE[torch.tensor(ids)].cumsum(0).tanh()


def logits(hidden: torch.Tensor) -> torch.Tensor:
    return hidden @ HEAD.T


def scores(slots: int = 3) -> PromptScores:
    return PromptScores(
        slots=slots, slot_tokens=TOKENS, hidden_size=HIDDEN, dtype=torch.float32, device=torch.device("cpu")
    )


def expected(ids: Sequence[int]) -> float:
    """The mean surprise of the eight least likely tokens, or of all of fewer, computed directly."""
    return -fmean(sorted(logprobs_of(ids))[:WEAKEST])


def logprobs_of(ids: Sequence[int]) -> list[float]:
    """Log-probabilities of all tokens but the first."""
    scored = logits(hidden_of(ids))[:-1].log_softmax(-1).gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]
    return [float(each) for each in scored]


def read(
    found: PromptScores, slot: int, ids: Sequence[int], at: int = 0, until: int | None = None, *, spare: int = 2
) -> None:
    """A causal pass over the tokens from `at` on, behind a row of the slot `spare` and padding."""
    until = len(ids) if until is None else until
    other, padding = [0] * TOKENS, 3
    places = [
        TokenPlace(slot=spare, at=0, count=TOKENS, first=0),
        TokenPlace(slot=slot, at=at, count=until - at, first=TOKENS + padding),
    ]
    tokens = torch.tensor([*other, *[0] * padding, *ids[at:until]])
    hidden = torch.cat([hidden_of(other), torch.zeros(padding, HIDDEN), hidden_of(ids[:until])[at:]])
    found.score(places, tokens, hidden, logits)()


@given(IDS, st.sets(st.integers(1, TOKENS - 1)))
def test_chunks_give_the_scores_of_a_single_pass(ids: list[int], cuts: set[int]) -> None:
    found = scores()
    for start, end in pairwise([0, *sorted(cut for cut in cuts if cut < len(ids)), len(ids)]):
        read(found, 0, ids, start, end)
    assert float(found.surprise(0, len(ids))) == pytest.approx(expected(ids), abs=1e-4)


@given(IDS, IDS, st.integers(2, TOKENS), st.booleans())
def test_a_reused_prefix_keeps_its_scores_if_its_last_token_is_read_again(
    ids: list[int], tail: list[int], shared: int, in_place: bool
) -> None:
    """Within another context, from which it is copied or that it replaces."""
    shared = min(shared, len(ids))
    other = [*ids[:shared], *tail][:TOKENS]
    found = scores()
    read(found, 0, other)
    slot = 0 if in_place else 1
    if not in_place:
        found.copy(0, slot, shared - 1)
    read(found, slot, ids, at=shared - 1)
    assert float(found.surprise(slot, len(ids))) == pytest.approx(expected(ids), abs=1e-4)


@given(IDS, st.integers(1, TOKENS - 1))
def test_a_context_that_continues_a_whole_cached_one_need_not_read_anything_again(ids: list[int], held: int) -> None:
    held = min(held, len(ids) - 1)
    found = scores()
    read(found, 0, ids[:held])
    found.copy(0, 1, held)
    read(found, 1, ids, at=held)
    assert float(found.surprise(1, len(ids))) == pytest.approx(expected(ids), abs=1e-4)


@given(IDS, IDS)
def test_a_skipped_token_and_the_one_after_it_count_as_certain_whatever_the_slot_held(
    ids: list[int], old: list[int]
) -> None:
    found = scores()
    read(found, 0, old)
    read(found, 0, ids[:-1])
    found.skip(0, len(ids) - 1)
    least = sorted([*logprobs_of(ids[:-1]), 0.0])[:WEAKEST] if len(ids) > 2 else [0.0]
    assert float(found.surprise(0, len(ids))) == pytest.approx(-fmean(least), abs=1e-4)


SHARED = tuple(range(7)) * 3  # longer than the shortest prefix that is reused
PROMPTS = st.lists(
    st.tuples(st.integers(16, len(SHARED)), st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=3)),
    min_size=1,
    max_size=12,
)


# The third context continues a prefix that the second one has reused and not yet read to its end.
@example(prompts=[(21, [1, 2]), (20, [0, 0]), (19, [6, 6])], together=1)
@example(prompts=[(21, [1, 2]), (21, [1, 2]), (20, [0, 0]), (19, [6, 6])], together=2)
@given(PROMPTS, st.integers(1, 4))
def test_whatever_contexts_share_slots_each_has_the_scores_that_it_has_alone(
    prompts: list[tuple[int, list[int]]], together: int
) -> None:
    """Slots are allocated for several contexts before their first passes, as the scheduler does."""
    found = scores(slots=6)
    table = SlotTable((LayerKv(heads=1, head_dim=1, window=None),), 5, itemsize=4, rereads_last=True)
    contexts = [[*SHARED[:count], *tail] for count, tail in prompts]
    for first in range(0, len(contexts), together):
        batch = contexts[first : first + together]
        allocated = [table.acquire(number, ids, at_most=len(ids)) for number, ids in enumerate(batch)]
        for each in allocated:
            if each.copy:
                found.copy(each.copy.source, each.copy.target, each.copy.tokens)
        for ids, each in zip(batch, allocated, strict=True):
            if each.reused < len(ids):
                read(found, each.slot, ids, at=each.reused, spare=5)
                table.extend(each.slot, ids[each.reused :])
            assert float(found.surprise(each.slot, len(ids))) == pytest.approx(expected(ids), abs=1e-4)
        for each in allocated:
            table.release(each.slot)


def test_a_pass_that_is_not_stored_leaves_no_trace() -> None:
    found = scores()
    ids = [1, 2, 3, 4]
    found.score([TokenPlace(slot=0, at=0, count=4, first=0)], torch.tensor(ids), hidden_of(ids), logits)
    assert float(found.surprise(0, 4)) == 0.0


def test_slots_that_are_dropped_zeroed_or_reset_are_forgotten() -> None:
    ids = [1, 2, 3, 4]
    for forget in (
        lambda found: found.zero(0),
        lambda found: found.reset(),
        lambda found: (found.resize(0), found.resize(3)),
    ):
        found = scores()
        read(found, 0, ids)
        forget(found)
        assert float(found.surprise(0, 4)) == 0.0
        read(found, 0, ids)
        assert float(found.surprise(0, 4)) == pytest.approx(expected(ids), abs=1e-4)


def test_slots_that_stay_keep_their_scores_when_others_are_added() -> None:
    found, ids = scores(), [1, 2, 3, 4]
    read(found, 0, ids)
    found.resize(9)
    assert float(found.surprise(0, 4)) == pytest.approx(expected(ids), abs=1e-4)
