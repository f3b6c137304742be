"""Negation: up to three words after a negating word, within a clause."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.classifier.features import features
from gateway.classifier.hashing import word_hash


def denied(text: str) -> list[str]:
    """The words that are hashed as negated."""
    found = features(system="", user=text).words.tolist()
    words = re.findall(r"[\w']+", text.lower().replace("’", "'"))
    return [word for word, seen in zip(words, found, strict=False) if seen != word_hash(word)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't summarize this, explain it", ["summarize", "this"]),
        ("Don’t summarize. Explain", ["summarize"]),
        ("do not translate; explain", ["translate"]),
        ("Explain it without rewriting.", ["rewriting"]),
        ("Rather than rewriting, explain", ["rewriting"]),
        ("Instead of a summary, a joke", ["of", "a", "summary"]),
        ("Never, ever", []),
        ("more than five", []),
        ("Don't forget to translate", []),
        ("Do not only translate", []),
        ("Übersetze das nicht, erkläre es", ["übersetze", "das"]),
        ("Vertaal dit niet.", ["vertaal", "dit"]),
        ("No traduzcas, explica", ["traduzcas"]),
        ("Не переводи, объясни", ["переводи"]),
        ("not one two three four", ["one", "two", "three"]),
        ("not", []),
        ("translate it", []),
    ],
)
def test_negated_words_are_found(text: str, words: list[str]) -> None:
    assert denied(text) == words


def test_the_ngrams_of_a_negated_word_do_not_count_either() -> None:
    """N-grams recognise a word in all its forms."""
    plain, no = features(system="", user="summarize"), features(system="", user="never summarize")
    own_runs = set(plain.rows.tolist()[3:]) - {row for row in plain.rows.tolist() if row >= 1 << 15}
    assert len(own_runs & set(no.rows.tolist())) < len(own_runs) / 4


@given(before=st.text(max_size=200), behind=st.text(max_size=200))
def test_any_text_can_be_negated(before: str, behind: str) -> None:
    found = features(system=behind, user=f"{before} don't {behind} nicht {before}")
    assert found.rows.shape == found.weights.shape
    assert np.isfinite(found.weights).all()
