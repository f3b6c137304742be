"""Features: deterministic, bounded, and defined for any text."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.classifier.features import HASHED, HASHED_ROWS, REQUEST_FLAGS, UNIT_FLAGS, Features, features
from gateway.classifier.tokens import BREAKS, FIRST_WORD, Ids, Vocabulary

ANY_TEXT = st.text(max_size=3000) | st.text(alphabet=st.characters(categories=None), max_size=300)
VOCABULARY = Vocabulary(["alpha", "beta", "short", "text", "dear", "翻译"], [1, 2, 0, 0, 0, 3])


def of(user: str, *, system: str = "", earlier: str = "", answer: str = "") -> Features:
    return features(VOCABULARY, system=system, user=user, earlier=earlier, answer=answer)


def words(found: Features) -> list[str]:
    return [VOCABULARY.names[number] for number in found.rows[0].tolist() if number >= FIRST_WORD]


def is_within(rows: Ids, first: int, end: int) -> bool:
    return bool(((rows >= first) & (rows < end)).all())


@pytest.mark.slow
@given(system=ANY_TEXT, user=ANY_TEXT, earlier=ANY_TEXT, answer=ANY_TEXT)
def test_any_text_has_features_inside_the_table(system: str, user: str, earlier: str, answer: str) -> None:
    found = of(user, system=system, earlier=earlier, answer=answer)
    hashed = len(VOCABULARY.names)
    units, requests = hashed + HASHED_ROWS, hashed + HASHED_ROWS + UNIT_FLAGS
    assert found.rows.shape == (1 + HASHED, found.sizes.sum())
    assert is_within(found.rows[0], 0, hashed)
    assert is_within(found.rows[1:], hashed, units)
    assert found.unit_rows.shape == (3, found.firsts.size)
    assert is_within(found.unit_rows[0], hashed, units)
    assert is_within(found.unit_rows[1:], units, requests)
    assert is_within(np.array(found.request), requests, requests + REQUEST_FLAGS)
    assert is_within(found.past, hashed, units)
    assert found.firsts[0] == 0
    assert (np.diff(found.firsts) > 0).all()
    assert found.rows[0, -1] < len(BREAKS)


@given(user=ANY_TEXT, filler=st.text(alphabet=st.characters(exclude_characters="`"), max_size=5))
def test_only_the_head_and_tail_of_a_long_text_are_used(user: str, filler: str) -> None:
    """The time is bounded: the middle of a long text has no effect."""
    head, tail = (user.replace("`", "") * 3000)[:3000].ljust(3000), (user.replace("`", "") * 3000)[:3000].rjust(3000)
    middle, other = "x" * 5000, (filler * 9000)[:9000].rjust(9000)
    one, two = of(head + middle + tail), of(head + other + tail)
    assert np.array_equal(one.rows, two.rows)


def test_the_hashes_are_the_same_in_every_process() -> None:
    """Python's own hash of text is salted; weights trained with it would be noise in the next process."""
    text = "Translate “this” 翻訳 into Greek: naïve café\n```\nx = 1\n```"
    code = (
        "import sys, hashlib; from gateway.classifier.features import features;"
        "from gateway.classifier.tokens import Vocabulary;"
        "found = features(Vocabulary(['translate', 'into'], [1, 2]), system='S', user=sys.argv[1]);"
        "print(hashlib.sha256(found.rows.tobytes()).hexdigest())"
    )
    command = [sys.executable, "-c", code, text]
    outcomes = {
        subprocess.run(command, env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True).stdout
        for seed in ("1", "2")
    }
    assert len(outcomes) == 1


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("alpha beta", 1),
        ("alpha. beta", 2),
        ("alpha: beta", 2),
        ("alpha 3.14 beta", 1),
        ("alpha\nbeta\n\nbeta", 3),
        ('alpha "beta" text', 3),
        ("alpha。beta", 2),
        ("alpha। beta॥ text", 3),
        ("alpha؟ beta؛ text", 3),
        ("«alpha» beta", 3),
    ],
)
def test_a_unit_is_a_sentence_a_line_or_a_quoted_span(text: str, units: int) -> None:
    """Beside them are the ends of the (empty) system prompt and of the turn before."""
    assert of(text).firsts.size == units + 2


def test_fenced_blocks_are_left_out_unless_the_text_is_one() -> None:
    assert words(of("short:\n```\nalpha beta\n```\ntext")) == ["short", "text"]
    assert words(of("```\nalpha beta\n```")) == ["alpha", "beta"]


def test_words_of_different_roles_have_different_rows() -> None:
    by_user, by_system = of("alpha"), of("", system="alpha")
    assert words(by_user) == words(by_system) == ["alpha"]
    assert by_system.rows[1, 0] not in by_user.rows[1].tolist()


def test_what_stands_beside_the_words_changes_their_rows() -> None:
    alone, beside = of("short text"), of("short text\n```\ncode\n```")
    assert alone.rows[1, 2] != beside.rows[1, 2]
    assert alone.rows[0, 2] == beside.rows[0, 2]


def test_concepts_are_hashed_in_sequence_whatever_stands_between_them() -> None:
    near, far = of("alpha beta"), of("alpha text text beta")
    assert near.rows[4, 3] == far.rows[4, 5]
    apart = of("alpha. beta")
    assert near.rows[4, 3] not in apart.rows[4].tolist()


@pytest.mark.parametrize("text", ["", " ", "\x00", "\ud800", "🦊" * 2000, "İ" * 5000, "\n" * 100_000, "'" * 1000])
def test_unusual_texts_are_accepted(text: str) -> None:
    assert of(text, system=text, earlier=text, answer=text).request


def test_a_text_in_a_script_with_spaces_is_read_as_far_as_an_english_one() -> None:
    """Devanagari takes three bytes a character, too, but a word has several."""
    assert words(of("शब्द " * 64 + "alpha " + "शब्द " * 200)) == ["alpha"]


@pytest.mark.parametrize("text", ["alpha, beta. text", "(alpha) [beta]; dear"])
def test_the_first_word_of_a_unit_has_a_row_of_its_own(text: str) -> None:
    one, other = of(text), of(text.replace("alpha", "text"))
    assert one.unit_rows[0, 2] != other.unit_rows[0, 2]
    assert np.array_equal(one.unit_rows[1:], other.unit_rows[1:])


def test_an_instruction_behind_a_text_is_read_from_its_beginning() -> None:
    """It says what to do first, and then at length how."""
    text = "beta " * 300 + "\n\nalpha text: " + "no commas, few words. " * 25 + "dear"
    assert {"alpha", "text", "dear"} <= set(words(of(text)))


def test_a_follow_up_has_rows_for_the_words_before_it() -> None:
    none, other = of("alpha"), of("alpha", earlier="beta", answer="text text")
    assert none.past.size == 0
    assert other.past.size == 3
    assert np.unique(other.past).size == 2
    assert not np.array_equal(other.past, of("alpha", earlier="text", answer="beta text").past)


@pytest.mark.parametrize("answers", [("Dear Ada, see you.", "x = {}; y = [0]"), ("It rains.", "Which day?")])
def test_words_after_answers_of_other_kinds_have_other_rows(answers: tuple[str, str]) -> None:
    one, other = (of("alpha", answer=answer) for answer in answers)
    assert one.rows[1, 2] != other.rows[1, 2]
