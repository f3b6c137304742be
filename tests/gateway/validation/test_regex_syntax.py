"""Regular expressions: the pattern of their prefixes, and what they cost."""

import re
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.validation.json_schema import Schema, SchemaError, TextPattern
from gateway.validation.regex_syntax import UNKNOWN_WEIGHT, parse, prefix_pattern, weight_of
from tests.measured import cpu_s

TEXTS = ["".join(each) for length in range(7) for each in product("ab", repeat=length)]
ATOMS = st.sampled_from(["a", "b", "[ab]", "[^a]", ".", "(?:ab)", "(a|ba)", "aa", "", "(?<name>b)", r"\x61", "[b-b]"])
QUANTIFIERS = st.sampled_from(["", "*", "+", "?", "{2}", "{1,2}", "{0,1}", "{2,}", "{0}", "*?", "{1,2}?"])


def combined(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    repeated = st.tuples(inner, QUANTIFIERS).map(lambda pair: f"(?:{pair[0]}){pair[1]}")
    return repeated | st.tuples(inner, inner).map("".join) | st.tuples(inner, inner).map(lambda p: f"({p[0]}|{p[1]})")


PATTERNS = st.recursive(ATOMS, combined, max_leaves=5)


@given(PATTERNS)
def test_a_text_may_match_if_and_only_if_it_is_the_beginning_of_a_match(pattern: str) -> None:
    try:
        compiled = TextPattern(pattern)
    except SchemaError:  # a repetition of nothing
        return
    matching = [text for text in TEXTS if re.fullmatch(pattern.replace("?<", "?P<"), text)]
    prefixes = {text[:length] for text in matching for length in range(len(text) + 1)}
    for text in TEXTS:
        if text in prefixes:
            assert compiled.may_match(text)
        elif len(text) <= 3 and len(pattern) < 12 and matching:  # a continuation would be among the texts
            assert not compiled.may_match(text)


@pytest.mark.parametrize(
    ("pattern", "possible", "impossible"),
    [
        ("[a-z]+!", ["", "abc", "abc!"], ["A", "abc!x", "!"]),
        ("^(?:yes|no)$", ["", "y", "yes", "n"], ["yo", "yess", "x"]),
        (r"\d{4}-\d{2}", ["2026", "2026-", "2026-11"], ["20261", "-", "2026-111"]),
        ("(foo|bar){2}", ["foob", "barbar"], ["fob", "foobarf"]),
        (r"\$[0-9]+(\.[0-9]{2})?", ["$", "$12.", "$12.5"], ["12", "$12.555"]),
        ("(?i)hello", ["HEL", "hello"], ["help"]),
        (r"[\]x\\]+\u00e9?", ["]x\\", "xé"], ["é]", "y"]),
        (r"\p{Lu}\p{Ll}*", ["Ä", "Äöü"], ["ä", "A1"]),
        ("a{2,}b", ["a", "aaaa", "aab"], ["ab", "b"]),
        ("(?:a+)+b", ["aaa"], ["aac"]),
        ("", [""], ["a"]),
    ],
)
def test_prefixes_of_common_patterns(pattern: str, possible: list[str], impossible: list[str]) -> None:
    compiled = TextPattern(pattern)
    assert [text for text in possible if not compiled.may_match(text)] == []
    assert [text for text in impossible if compiled.may_match(text)] == []


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (r"(a+)x\1", "aaxaa"),
        (r"(?=ab)[a-z]+", "abz"),
        (r"(?!b)[a-z]+", "abz"),
        (r"\bab\b c", "ab c"),
    ],
)
def test_what_is_not_regular_never_rejects_the_beginning_of_a_match(pattern: str, text: str) -> None:
    compiled = TextPattern(pattern)
    assert compiled.matches(text)
    assert all(compiled.may_match(text[:length]) for length in range(len(text) + 1))


@pytest.mark.parametrize("pattern", ["[a[b]]", "(?#note)a", "(a", "a)", "*a", "[]", "(?(1)a)", "(" * 300 + ")" * 300])
def test_unknown_syntax_has_no_prefixes_and_a_high_weight(pattern: str) -> None:
    assert parse(pattern) is None
    assert (prefix_pattern(pattern), weight_of(pattern)) == (None, UNKNOWN_WEIGHT)


@given(st.text("ab()[]{}|*+?.\\^$1,2-<>=!:p", max_size=20))
def test_any_text_is_parsed_or_refused(pattern: str) -> None:
    """And what the engine can compile, it can compile the prefixes of."""
    parse(pattern)
    try:
        compiled = TextPattern(pattern)
    except SchemaError:
        return
    assert compiled.may_match("")


@pytest.mark.parametrize("pattern", [r"^[\p{L} ]{1,100}$", "^.{0,5000}$", r"^\S{1,1000}$", "^[^<>]+$"])
def test_the_length_of_one_class_costs_nothing(pattern: str) -> None:
    long, short = (
        {"allOf": [{"pattern": each, "title": str(number)} for number in range(200)]} for each in (pattern, "^[a-z]$")
    )
    assert weight_of(pattern) < 100
    assert cpu_s(lambda: Schema(long)) < 50 * cpu_s(lambda: Schema(short))


@pytest.mark.parametrize(
    ("pattern", "least"), [(r"\p{L}{20}", 10_000), ("(a{100}){100}", 20_000), ("[a-z]{5000}", 10_000), ("abc", 6)]
)
def test_the_weight_counts_repetitions(pattern: str, least: int) -> None:
    assert least <= weight_of(pattern) <= 2 * least


def test_a_long_pattern_takes_little_time() -> None:
    compiled = TextPattern("a" * 700)
    assert compiled.may_match("a" * 699)
    assert not compiled.may_match("a" * 699 + "b")
    assert TextPattern("a" * 4000).may_match("b")  # not decided
    assert cpu_s(lambda: parse("(a|b)*" * 600)) < 50 * cpu_s(lambda: parse("(a|b)*" * 60))
