"""Detokenizer: only final text is returned."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_worker.text.detokenize import Detokenizer, StopScanner
from diffusion_worker.text.tokenizer import Tokenizer

TEXT = st.text(alphabet="abé日🙂 \n", max_size=30)


@given(text=TEXT, cuts=st.lists(st.integers(1, 4), max_size=40))
def test_text_does_not_depend_on_how_ids_are_split(tokenizer: Tokenizer, text: str, cuts: list[int]) -> None:
    """No piece ends in an incomplete character."""
    ids = list(tokenizer.encode_plain(text))
    detokenizer, pieces = Detokenizer(tokenizer), []
    for cut in [*cuts, len(ids)]:
        pieces.append(detokenizer.feed(ids[:cut]).text)
        ids = ids[cut:]
    assert not any("\ufffd" in piece for piece in pieces)
    assert "".join(pieces) + detokenizer.flush().text == text


def test_an_incomplete_character_is_held_back_then_replaced(tokenizer: Tokenizer) -> None:
    """At the end, its bytes become one U+FFFD."""
    ids = [token for token in range(tokenizer.size) if tokenizer.token_bytes(token) == b"\xe2"]
    detokenizer = Detokenizer(tokenizer)
    assert detokenizer.feed(ids[:1]).text == ""
    assert detokenizer.flush().text == "\ufffd"


@given(ids=st.lists(st.integers(0, 300), max_size=60))
def test_any_ids_produce_valid_unicode(tokenizer: Tokenizer, ids: list[int]) -> None:
    """An untrained model emits arbitrary bytes."""
    detokenizer = Detokenizer(tokenizer)
    text = detokenizer.feed(ids).text + detokenizer.flush().text
    assert text == b"".join(map(tokenizer.token_bytes, ids)).decode(errors="replace")
    text.encode()


@given(
    pieces=st.lists(st.text(alphabet="ab\n", max_size=5), max_size=10),
    stops=st.lists(st.text(alphabet="ab\n", min_size=1, max_size=4), max_size=4),
)
def test_the_first_stop_string_ends_the_text_across_pieces(pieces: list[str], stops: list[str]) -> None:
    """The result equals a search in the complete text, up to overlapping stop strings that end at the same position."""
    scanner = StopScanner(tuple(stops))
    out = "".join(map(scanner.feed, pieces))
    out += scanner.flush()
    whole = "".join(pieces)
    assert scanner.stopped == any(stop in whole for stop in stops)
    assert whole.startswith(out)
    assert not any(stop in out for stop in stops)
    if not scanner.stopped:
        assert out == whole


def test_the_start_of_a_stop_string_is_held_back() -> None:
    """It is returned when it turns out not to be a stop string."""
    scanner = StopScanner(("END",))
    assert scanner.feed("word E") == "word "
    assert scanner.feed("N") == ""
    assert scanner.feed("O") == "ENO"
    assert scanner.feed(" EN") == " "
    assert scanner.feed("D and more") == ""
    assert scanner.stopped
    assert scanner.flush() == ""


def test_ids_after_a_stop_string_are_not_consumed(tokenizer: Tokenizer) -> None:
    """The number of consumed ids is the number that is billed."""
    ids = tokenizer.encode_plain("aEbbbb")
    piece = Detokenizer(tokenizer, ("E",)).feed(ids)
    assert (piece.text, piece.stopped) == ("a", True)
    assert piece.ids_read < len(ids)


@pytest.mark.parametrize("special", ["<eos>", "<pad>"])
def test_control_tokens_produce_no_text(tokenizer: Tokenizer, special: str) -> None:
    """Also in the middle of an answer."""
    ids = [*tokenizer.encode_plain("a"), tokenizer.specials[special], *tokenizer.encode_plain("b")]
    assert Detokenizer(tokenizer).feed(ids).text == "ab"
