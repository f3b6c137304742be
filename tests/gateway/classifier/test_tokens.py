"""Tokens: every text has them, unknown words have that of a stem or shape, and negated words are found."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.classifier.tokens import FIRST_WORD, NEGATED, Vocabulary, counted_words, lowered, split

SENTENCES = (
    "don't summarize this explain it do not translate without rewriting rather than a summary instead of joke never"
    " ever more five forget to only übersetze das nicht erkläre es vertaal dit niet no traduzcas explica не переводи"
    " объясни one two three four अनुवाद मत करो لا تترجم"
)
VOCABULARY = Vocabulary(sorted(set(SENTENCES.split())))


def denied(text: str) -> list[str]:
    tokens = split(lowered(text))
    return [tokens[at] for at in VOCABULARY.negated(VOCABULARY.ids(tokens))]


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
        ("अनुवाद मत करो।", ["अनुवाद"]),
        ("لا تترجم، explain", ["تترجم"]),
        ("not one two three four", ["one", "two", "three"]),
        ("not", []),
        ("translate it", []),
    ],
)
def test_negated_words_are_found(text: str, words: list[str]) -> None:
    assert denied(text) == words


@given(text=st.text(max_size=300))
def test_every_token_of_any_text_has_a_number(text: str) -> None:
    tokens = split(text.lower())
    assert all(0 <= number < len(VOCABULARY.names) for number in VOCABULARY.ids(tokens))
    assert NEGATED not in VOCABULARY.ids(tokens)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("it's 3.14, no?", ["it's", "3", ".", "14", ",", "no", "?"]),
        ("请翻译 ok", ["请", "翻", "译", "ok"]),
        ("a_b2 = f(x);\n\n", ["a_b2", "=", "f", "(", "x", ")", ";", "\n\n"]),
        ("e.g. this", ["e", "g", ".", "this"]),
        ("क्या है? हिंदी।", ["क्या", "है", "?", "हिंदी", "।"]),
        ("ما هذا؟ نص، آخر؛", ["ما", "هذا", "؟", "نص", "،", "آخر", "؛"]),
        ("«été» 2º", ["«", "été", "»", "2", "º"]),
    ],
)
def test_words_signs_and_breaks_are_tokens(text: str, tokens: list[str]) -> None:
    assert [each for each in split(text) if each != "."] == [each for each in tokens if each != "."]


@given(text=st.text(st.characters(max_codepoint=127), max_size=300))
def test_a_text_of_ascii_characters_has_the_same_tokens_beside_others(text: str) -> None:
    """They are found by a faster expression."""
    assert split(text.lower()) == split("é\x00" + text.lower())[2:]


def test_words_with_vowel_signs_are_words() -> None:
    """A Devanagari word of letters and vowel signs has stems, and enters the vocabulary."""
    assert "लिखिए" in counted_words({"लिखिए": 3}, least=3)
    vocabulary = Vocabulary(["अनुव~"])
    assert vocabulary.names[vocabulary.ids(["अनुवाद"])[0]] == "अनुव~"


def test_vowel_signs_of_arabic_are_left_out() -> None:
    assert lowered("لخّصْ النصَّ") == "لخص النص"


def test_an_unknown_word_has_the_token_of_its_longest_known_stem() -> None:
    vocabulary = Vocabulary(["transl~", "tran~", "translate"])
    names = [
        vocabulary.names[number] for number in vocabulary.ids(["translate", "translating", "trance", "other", "tra_n"])
    ]
    assert names == ["translate", "transl~", "tran~", "<unknown>", "<name_like>"]
    assert [vocabulary.names[number] for number in vocabulary.stems(FIRST_WORD + 2)] == ["transl~", "tran~"]


def test_two_characters_that_are_a_word_are_one_token() -> None:
    vocabulary = Vocabulary(["翻译"])
    assert vocabulary.merged(split("请翻译这")) == ["请", "翻译", "这"]


def test_rare_words_have_only_their_stems() -> None:
    found = counted_words({"translate": 2, "translation": 2, "shorten": 5, "x_y": 9, "7": 9}, least=3)
    assert sorted(found) == sorted(["shorten", "shor~", "shorte~", "tran~", "transl~"])
