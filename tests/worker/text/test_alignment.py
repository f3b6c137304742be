"""Alignment of edited answers with their original text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_worker.text.alignment import aligned_index, count_kept

IDS = st.lists(st.integers(0, 3), max_size=300)


@pytest.mark.parametrize(
    ("answered", "text", "kept"),
    [
        ("the quick fox", "the quick fox", 13),
        ("the very quick fox", "the quick fox", 13),  # inserted
        ("the fox", "the quick fox", 7),  # left out
        ("the slow fox", "the quick fox", 8),  # replaced
        ("", "abc", 0),
        ("xyz", "abc", 0),
    ],
)
def test_kept_tokens_are_counted_across_insertions_and_deletions(answered: str, text: str, kept: int) -> None:
    assert count_kept([*answered.encode()], [*text.encode()]) == kept


def test_matching_continues_after_a_long_insertion() -> None:
    """Texts longer than the window are aligned piece by piece without losing tokens at the borders."""
    text = list(range(1000))
    assert count_kept([*text[:300], *range(2000, 2040), *text[300:]], text) == 1000


@given(text=IDS, more=IDS)
def test_an_unchanged_text_is_counted_completely_and_only_once(text: list[int], more: list[int]) -> None:
    """Also for repetitive texts."""
    assert count_kept(text, text) == len(text)
    assert count_kept([*text, *more], text) == len(text)
    assert count_kept(more, text) <= min(len(more), len(text))


@given(text=IDS, share=st.floats(0.0, 1.0))
def test_after_an_unchanged_prefix_the_index_is_its_length(text: list[int], share: float) -> None:
    """Also for repetitive texts: among equally good indices the nearest one is chosen."""
    end = int(share * len(text))
    assert aligned_index(text[:end], text) == end


@given(at=st.integers(20, 150), shift=st.integers(-40, 40), behind=st.integers(16, 50))
def test_insertions_and_deletions_shift_the_index(at: int, shift: int, behind: int) -> None:
    text = list(range(300))
    inserted, left_out = list(range(1000, 1000 + max(0, shift))), max(0, -shift)
    end = at + left_out + behind
    assert aligned_index([*text[:at], *inserted, *text[at + left_out : end]], text) == end


def test_an_answer_longer_than_the_text_is_at_the_end_of_the_text() -> None:
    assert aligned_index([7] * 100, [5, 6]) == 2
    assert aligned_index([5, 6], []) == 0
