"""Features: deterministic, bounded, and defined for any text."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.classifier.features import HASH_BITS, TABLE_ROWS, features
from gateway.classifier.hashing import word_hash

ANY_TEXT = st.text(max_size=3000) | st.text(alphabet=st.characters(categories=None), max_size=300)


@given(system=ANY_TEXT, user=ANY_TEXT)
def test_any_text_has_features_inside_the_table(system: str, user: str) -> None:
    found = features(system=system, user=user)
    assert found.rows.shape == found.weights.shape
    assert found.words.size <= found.rows.size
    assert found.rows.max() < TABLE_ROWS
    assert np.isfinite(found.weights).all()
    assert (found.weights > 0).all()


@given(user=ANY_TEXT, filler=st.text(max_size=5))
def test_only_the_head_and_tail_of_a_long_text_are_used(user: str, filler: str) -> None:
    """The time is bounded: the middle of a long text has no effect."""
    head, tail = (user * 500)[:500].ljust(500), (user * 400)[:400].rjust(400)
    middle, other = "x" * 5000, (filler * 9000)[:9000].rjust(9000)
    one, two = features(system="", user=head + middle + tail), features(system="", user=head + other + tail)
    assert np.array_equal(one.rows, two.rows)


@given(word=st.text(alphabet=st.characters(categories=["Ll", "Lo"], max_codepoint=0xFFFF), min_size=1, max_size=30))
def test_a_word_has_one_hash_wherever_it_stands(word: str) -> None:
    if word.lower() != word or not word.isalnum():
        return
    alone = features(system="", user=word).words
    behind = features(system="Be brief.", user=f"say: {word}, please").words
    assert int(alone[0]) == word_hash(word)
    assert word_hash(word) in behind.tolist()


def test_the_hash_is_the_same_in_every_process() -> None:
    """Python's own hash of text is salted; weights trained with it would be noise in the next process."""
    text = "Translate “this” 翻訳 into Greek: naïve café\n```\nx = 1\n```"
    code = (
        "import sys, hashlib; from gateway.classifier.features import features;"
        "print(hashlib.sha256(features(system='S', user=sys.argv[1]).rows.tobytes()).hexdigest())"
    )
    command = [sys.executable, "-c", code, text]
    outcomes = {
        subprocess.run(command, env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True).stdout
        for seed in ("1", "2")
    }
    assert len(outcomes) == 1


def test_no_word_or_pair_reaches_from_the_system_prompt_into_the_users_text() -> None:
    together = features(system="alpha", user="beta")
    assert together.words.tolist()[:2] == [word_hash("alpha"), word_hash("beta")]
    assert features(system="", user="alphabeta").words.tolist()[0] not in together.words.tolist()


@pytest.mark.parametrize("text", ["", " ", "\x00", "\ud800", "🦊" * 2000, "İ" * 5000, "\n" * 100_000, "'" * 1000])
def test_unusual_texts_are_accepted(text: str) -> None:
    found = features(system=text, user=text)
    assert (found.rows >= (1 << HASH_BITS)).any()  # at least the flag that every request has
