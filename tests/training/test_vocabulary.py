"""The byte vocabulary: training and the saved tokenizer encode text identically."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from training import vocabulary


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """The tokenizer as the worker would load it."""
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    vocabulary.save_tokenizer(folder)
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


@given(text=st.text())
def test_any_text_round_trips_through_bytes(text: str) -> None:
    """No character is outside the vocabulary."""
    assert vocabulary.decode_ids(vocabulary.encode_text(text)) == text


def test_the_saved_tokenizer_gives_the_same_ids_as_the_arithmetic(tokenizer: Tokenizer) -> None:
    """Every byte and every special has the id that training used."""
    text = "plain, Grüße, 漢字, \U0001f680, \x00\x7f \t\n"
    assert tokenizer.encode(text, add_special_tokens=False).ids == vocabulary.encode_text(text)
    assert tokenizer.decode(vocabulary.encode_text(text)) == text
    assert [tokenizer.token_to_id(token) for token in vocabulary.SPECIALS] == list(range(vocabulary.FIRST_BYTE))
    assert tokenizer.get_vocab_size() == vocabulary.VOCAB_SIZE


def test_the_chat_template_writes_what_training_wrote(tokenizer: Tokenizer) -> None:
    """One user turn, rendered and tokenised, is the training prompt."""
    template = ImmutableSandboxedEnvironment().from_string(vocabulary.CHAT_TEMPLATE)
    text = template.render(messages=[{"role": "user", "content": "héllo"}], add_generation_prompt=True)
    assert tokenizer.encode(text, add_special_tokens=False).ids == vocabulary.encode_prompt("héllo")


def test_text_ends_at_the_first_end_token() -> None:
    """The tokens after it are padding or noise."""
    ids = [*vocabulary.encode_text("ab"), vocabulary.EOS, *vocabulary.encode_text("c")]
    assert vocabulary.decode_ids(ids) == "ab"
