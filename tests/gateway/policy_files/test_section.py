"""Suggestions: the nearest word, or what there is if there is little of it."""

import pytest

from gateway.policy_files.section import suggestion


@pytest.mark.parametrize(
    ("word", "known", "says"),
    [
        ("fsat", ["fast", "quality"], "; did you mean 'fast'?"),
        ("zzz", ["b", "a"], "; known: a, b"),
        ("zzz", [], ""),
        ("zzz", [f"name{i}" for i in range(30)], ""),
    ],
)
def test_the_nearest_word_is_suggested(word: str, known: list[str], says: str) -> None:
    assert suggestion(word, known) == says
