"""text.detokenize: text leaves when it is final, never before."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_worker.text.detokenize import Detokenizer, StopScanner
from diffusion_worker.text.tokenizer import Tokenizer

TEXT = st.text(alphabet="abé日🙂 \n", max_size=30)


@given(text=TEXT, cuts=st.lists(st.integers(1, 4), max_size=40))
def test_text_is_the_same_however_the_ids_arrive(tokenizer: Tokenizer, text: str, cuts: list[int]) -> None:
    """Borders between blocks leave no trace, and no piece shows half a character."""
    ids = list(tokenizer.encode_plain(text))
    detokenizer, pieces = Detokenizer(tokenizer), []
    for cut in [*cuts, len(ids)]:
        pieces.append(detokenizer.feed(ids[:cut]).text)
        ids = ids[cut:]
    assert not any("\ufffd" in piece for piece in pieces)
    assert "".join(pieces) + detokenizer.flush().text == text


def test_an_unfinished_character_is_held_back_then_replaced(tokenizer: Tokenizer) -> None:
    """Bytes that never become a character end as one U+FFFD."""
    ids = [token for token in range(tokenizer.size) if tokenizer.token_bytes(token) == b"\xe2"]
    detokenizer = Detokenizer(tokenizer)
    assert detokenizer.feed(ids[:1]).text == ""
    assert detokenizer.flush().text == "\ufffd"


@given(ids=st.lists(st.integers(0, 300), max_size=60))
def test_any_ids_give_valid_text(tokenizer: Tokenizer, ids: list[int]) -> None:
    """An untrained net writes any bytes; the text is Unicode all the same."""
    detokenizer = Detokenizer(tokenizer)
    text = detokenizer.feed(ids).text + detokenizer.flush().text
    assert text == b"".join(map(tokenizer.token_bytes, ids)).decode(errors="replace")
    text.encode()


@given(
    pieces=st.lists(st.text(alphabet="ab\n", max_size=5), max_size=10),
    stops=st.lists(st.text(alphabet="ab\n", min_size=1, max_size=4), max_size=4),
)
def test_the_first_stop_string_ends_the_text_whatever_the_borders(pieces: list[str], stops: list[str]) -> None:
    """Feeding by pieces stops where the piece-free search does, up to overlapping stops that end at the same time."""
    scanner = StopScanner(tuple(stops))
    out = "".join(map(scanner.feed, pieces))
    out += scanner.flush()
    whole = "".join(pieces)
    assert scanner.stopped == any(stop in whole for stop in stops)
    assert whole.startswith(out)
    assert not any(stop in out for stop in stops)
    if not scanner.stopped:
        assert out == whole


def test_what_may_become_a_stop_string_is_held_back() -> None:
    """Half of it must not leave; when it turns out otherwise, it does."""
    scanner = StopScanner(("END",))
    assert scanner.feed("word E") == "word "
    assert scanner.feed("N") == ""
    assert scanner.feed("O") == "ENO"
    assert scanner.feed(" EN") == " "
    assert scanner.feed("D and more") == ""
    assert scanner.stopped
    assert scanner.flush() == ""


def test_ids_behind_a_stop_string_are_not_read(tokenizer: Tokenizer) -> None:
    """The count of ids read is what the answer is charged for."""
    ids = tokenizer.encode_plain("aEbbbb")
    piece = Detokenizer(tokenizer, ("E",)).feed(ids)
    assert (piece.text, piece.stopped) == ("a", True)
    assert piece.ids_read < len(ids)


@pytest.mark.parametrize("special", ["<eos>", "<pad>"])
def test_control_tokens_leave_no_text(tokenizer: Tokenizer, special: str) -> None:
    """Not even when a net writes them in the middle."""
    ids = [*tokenizer.encode_plain("a"), tokenizer.specials[special], *tokenizer.encode_plain("b")]
    assert Detokenizer(tokenizer).feed(ids).text == "ab"
