"""Tokenizer: ids, bytes and special tokens of byte-level and of large vocabularies."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library
from tokenizers.processors import TemplateProcessing

from diffusion_worker.errors import CheckpointBroken, CheckpointForeign, CheckpointMissing
from diffusion_worker.text.tokenizer import Tokenizer, load_tokenizer


def spell(tokenizer: Tokenizer, ids: tuple[int, ...]) -> bytes:
    return b"".join(map(tokenizer.token_bytes, ids))


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_any_unicode_text_survives_a_round_trip(tokenizer: Tokenizer, text: str) -> None:
    """Encoding a text and concatenating the bytes of its ids returns the text."""
    assert spell(tokenizer, tokenizer.encode_plain(text)) == text.encode()


@given(text=st.text(alphabet="the worker größer 日本é\n\n"))
def test_token_bytes_agree_with_the_library(tokenizer: Tokenizer, library: Library, text: str) -> None:
    ids = tokenizer.encode(text)
    assert spell(tokenizer, ids).decode() == library.decode(list(ids), skip_special_tokens=True)


def test_control_tokens_are_one_id_without_text(tokenizer: Tokenizer) -> None:
    """Templates may write them; answers never contain them."""
    assert tokenizer.encode("<eos>") == (tokenizer.specials["<eos>"],)
    assert tokenizer.token_bytes(tokenizer.specials["<eos>"]) == b""


def test_control_tokens_in_plain_text_stay_characters(tokenizer: Tokenizer) -> None:
    """In untrusted text, `<eos>` is five characters."""
    ids = tokenizer.encode_plain("a<eos>b")
    assert tokenizer.specials["<eos>"] not in ids
    assert spell(tokenizer, ids) == b"a<eos>b"


def test_an_id_outside_the_vocabulary_has_no_bytes(tokenizer: Tokenizer) -> None:
    """Weights may have more rows than the vocabulary has tokens."""
    assert tokenizer.token_bytes(tokenizer.size + 5) == b""


def test_named_tokens_are_read_from_strings_and_objects(tokenizer: Tokenizer) -> None:
    """Both forms occur in tokenizer_config.json."""
    assert tokenizer.named == {"bos_token": "<bos>", "eos_token": "<eos>"}


def test_the_embedded_vocabulary_has_272_tokens(folder: Path) -> None:
    """16 control tokens and 256 bytes."""
    tokenizer = load_tokenizer(folder)
    assert tokenizer.size == 272
    assert tokenizer.specials["<pad>"] == 0
    assert tokenizer.token_bytes(16 + ord("a")) == b"a"


def test_the_error_for_a_missing_file_names_it(tmp_path: Path) -> None:
    """In one line."""
    with pytest.raises(CheckpointMissing, match=r"tokenizer\.json does not exist"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"version": "1.0", "model": {"type": "none"}}', "\x00"])
def test_the_error_for_a_broken_file_names_it(tmp_path: Path, content: str) -> None:
    """Invalid JSON, no object, no tokenizer."""
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(CheckpointBroken, match=r"tokenizer\.json") as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in caught.value.message


def test_an_unsupported_decoder_is_refused(folder: Path, tmp_path: Path) -> None:
    """Its bytes per token would have to be guessed."""
    document = json.loads((folder / "tokenizer.json").read_text())
    document["decoder"] = {"type": "WordPiece", "prefix": "##", "cleanup": True}
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(CheckpointForeign, match="WordPiece"):
        load_tokenizer(tmp_path)


def opened(tokenizer_folder: Path, library: Library, **config: object) -> tuple[int, ...]:
    library.save(str(tokenizer_folder / "tokenizer.json"))
    (tokenizer_folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<bos>", **config}))
    return load_tokenizer(tokenizer_folder).opening


def test_raw_text_opens_as_the_checkpoint_specifies(tmp_path: Path, library: Library) -> None:
    """By its config, otherwise by what the library adds before a text."""
    begin = library.token_to_id("<bos>")
    assert opened(tmp_path, library) == ()
    assert opened(tmp_path, library, add_bos_token=True) == (begin,)
    plain = Library.from_str(library.to_str())
    plain.post_processor = TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", begin), ("<eos>", library.token_to_id("<eos>"))]
    )
    assert opened(tmp_path, plain) == (begin,)
    assert opened(tmp_path, plain, add_bos_token=False) == ()
