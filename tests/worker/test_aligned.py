"""aligned: what an edit has kept, wherever it has moved it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_worker.aligned import count_kept

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
