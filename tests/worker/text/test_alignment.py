"""aligned: what an edit has kept, wherever it has moved it."""

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
def test_what_edits_leave_is_counted(answered: str, text: str, kept: int) -> None:
    """Insertions and deletions move the rest; they do not make it another text."""
    assert count_kept([*answered.encode()], [*text.encode()]) == kept


def test_an_insertion_beyond_a_window_is_followed_on_the_other_side() -> None:
    """Long texts are aligned piece by piece, none is lost at the borders."""
    text = list(range(1000))
    assert count_kept([*text[:300], *range(2000, 2040), *text[300:]], text) == 1000


@given(text=IDS, more=IDS)
def test_an_unchanged_text_is_kept_whole_and_nothing_is_counted_twice(text: list[int], more: list[int]) -> None:
    """However repetitive."""
    assert count_kept(text, text) == len(text)
    assert count_kept([*text, *more], text) == len(text)
    assert count_kept(more, text) <= min(len(more), len(text))


@given(text=IDS, share=st.floats(0.0, 1.0))
def test_behind_an_unchanged_beginning_the_place_is_exactly_there(text: list[int], share: float) -> None:
    """However repetitive: of equally good places the nearest to counting."""
    end = int(share * len(text))
    assert aligned_index(text[:end], text) == end


@given(at=st.integers(20, 150), shift=st.integers(-40, 40), behind=st.integers(16, 50))
def test_insertions_and_deletions_before_it_move_the_place(at: int, shift: int, behind: int) -> None:
    text = list(range(300))
    inserted, left_out = list(range(1000, 1000 + max(0, shift))), max(0, -shift)
    end = at + left_out + behind
    assert aligned_index([*text[:at], *inserted, *text[at + left_out : end]], text) == end


def test_an_answer_longer_than_the_text_has_arrived_at_its_end() -> None:
    assert aligned_index([7] * 100, [5, 6]) == 2
    assert aligned_index([5, 6], []) == 0
