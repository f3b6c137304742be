"""Regular expressions, checked against Python's `re` where the two dialects agree."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_worker.constraints.automata.code_point_dfa import (
    accepts,
    dfa_of_pattern,
    dfa_of_words,
    difference,
    intersection,
    length_range,
    union,
)
from diffusion_worker.constraints.automata.regex import NotRegular

PATTERNS = [
    *(
        "",
        "a|b",
        "^a+$",
        "^$",
        "(^a|b$)",
        "^(?:a|b|)c{0,2}$",
        "x?y*z+?",
        "a{2",
        "a{1,2}b{2,}",
        "[^a-c]",
        "[a-]",
        r"^\.$",
    ),
    *(
        "^(?!ab).*$",
        "^(?=.*a)(?=.*b)[abc]{2,}$",
        "^(?!a)|^ab",
        "^[a-c]{3}$|^x",
        r"^\d{1,2}\.\d+$",
        r"[\]\[-]",
        "(?<n>a)b",
    ),
    *("^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$", r"^[\w.-]+@[\w-]+\.[a-z]{2,}$"),
]
ANCHORS = [
    *("^([^,]+(,|$)){2,}$", "(^|,)a(,|$)", "^(^a|b)+$", "^^a$$", "^(a$|b|$)*$", "(^a|^(b|^c))x", "^(?!(^a)|b$)"),
    *("$^", "^$^$", "a$b|$^|x^"),
]
TEXTS = st.text(alphabet="aabbcxyz01-.@[]{,", max_size=8)


@given(st.sampled_from(PATTERNS), st.lists(TEXTS, min_size=5, max_size=30))
def test_a_pattern_is_searched_as_re_searches_it(pattern: str, texts: list[str]) -> None:
    """Patterns are unanchored unless they contain anchors."""
    language = dfa_of_pattern(pattern)
    reference = pattern.replace("(?<n>", "(?P<n>")
    for text in texts:
        assert accepts(language, text) == (re.search(reference, text) is not None), text


@given(st.sampled_from(ANCHORS), st.lists(st.text(alphabet="aabcx,,", max_size=8), min_size=5, max_size=30))
def test_anchors_in_groups_match_without_consuming(pattern: str, texts: list[str]) -> None:
    """So a text may match the same anchor several times."""
    language = dfa_of_pattern(pattern)
    for text in texts:
        assert accepts(language, text) == (re.search(pattern, text) is not None), text


@pytest.mark.parametrize(
    "pattern", [r"(a)\1", r"\bword\b", "(?<=a)b", r"\p{L}", "(?i)a", "a(?=b)c", "a(", "[]a]", "a{,2}", "*"]
)
def test_unsupported_expressions_raise_not_regular(pattern: str) -> None:
    """Unsupported syntax is not misinterpreted."""
    with pytest.raises(NotRegular):
        dfa_of_pattern(pattern)


def test_readings_differ_only_where_ecma_and_python_do() -> None:
    """What must match is read narrowly, what must not match widely."""
    assert not accepts(dfa_of_pattern(r"^\d$"), "٣")
    assert accepts(dfa_of_pattern(r"^\d$", wide=True), "٣")
    assert not accepts(dfa_of_pattern(r"^\D$"), "٣")
    assert not accepts(dfa_of_pattern("^a$"), "a\n")
    assert accepts(dfa_of_pattern("^a$", wide=True), "a\n")
    assert not accepts(dfa_of_pattern("^.$"), "\u2028")


@given(st.sets(TEXTS, max_size=6), TEXTS)
def test_boolean_operations_on_languages(members: set[str], text: str) -> None:
    """Sets of words, and their algebra."""
    some = dfa_of_words(frozenset(members))
    pattern = dfa_of_pattern("a")
    assert accepts(some, text) == (text in members)
    assert accepts(difference(pattern, some), text) == ("a" in text and text not in members)
    assert accepts(intersection(pattern, some), text) == ("a" in text and text in members)
    assert accepts(union(pattern, some), text) == ("a" in text or text in members)


@pytest.mark.parametrize(("pattern", "found"), [("^a{2,5}$", (2, 5)), ("a", (1, None)), ("^(|abc)$", (0, 3))])
def test_the_length_range_of_a_language(pattern: str, found: tuple[int, int | None]) -> None:
    """Shortest and longest member."""
    assert length_range(dfa_of_pattern(pattern)) == found
