"""Suggestions: the closest name, or all allowed names if they are few."""

import pytest

from gateway.policy_files.section import suggestion


@pytest.mark.parametrize(
    ("word", "known", "says"),
    [
        ("fsat", ["fast", "quality"], "; did you mean 'fast'?"),
        ("zzz", ["b", "a"], "; allowed: a, b"),
        ("zzz", [], ""),
        ("zzz", [f"name{i}" for i in range(30)], ""),
    ],
)
def test_the_closest_name_is_suggested(word: str, known: list[str], says: str) -> None:
    assert suggestion(word, known) == says
