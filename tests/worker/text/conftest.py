"""Three kinds of tokenizers: the embedded checkpoint's bytes, byte-level BPE with merges, and Gemma's kind."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Library

from diffusion_worker.text.tokenizer import Tokenizer
from training.vocabulary import save_tokenizer

SPECIALS = ("<pad>", "<eos>", "<bos>", "<user>", "<model>")
CORPUS = ["the worker seals the canvas, the gateway holds the line", "größer als ein Wörterbuch", "日本語の文字"] * 4


def document_of(library: Library) -> dict[str, Any]:
    """What `tokenizer.json` would hold."""
    document: dict[str, Any] = json.loads(library.to_str())
    return document


def merged() -> Library:
    """Byte-level BPE with merges, as GPT-2's and Llama 3's."""
    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, special_tokens=list(SPECIALS))
    library.train_from_iterator(CORPUS, trainer)
    library.add_tokens([AddedToken("\n\n", special=False, normalized=False)])
    return library


def byte_fallback() -> Library:
    """Text pieces with U+2581 for the space and `<0xAB>` for bytes without a piece, as Gemma's."""
    pieces = [*SPECIALS, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcdefghijklmnopqrstuvwxyz", "▁t", "he"]
    vocab = {piece: rank for rank, piece in enumerate(pieces)}
    merges = [("▁", "t"), ("h", "e")]
    library = Library(models.BPE(vocab=vocab, merges=merges, byte_fallback=True, fuse_unk=True))
    library.normalizer = normalizers.Replace(" ", "▁")
    library.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    library.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIALS])
    return library


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder with the tokenizer files only."""
    path = tmp_path_factory.mktemp("checkpoint")
    save_tokenizer(path)
    return path


@pytest.fixture(scope="session", params=["bytes", "merged", "byte_fallback"])
def library(request: pytest.FixtureRequest, folder: Path) -> Library:
    """The library's own object, to compare with."""
    if request.param == "bytes":
        return Library.from_file(str(folder / "tokenizer.json"))
    return merged() if request.param == "merged" else byte_fallback()


@pytest.fixture(scope="session")
def tokenizer(library: Library) -> Tokenizer:
    """Ours, of the same vocabulary."""
    return Tokenizer(document_of(library), {"bos_token": "<bos>", "eos_token": {"content": "<eos>"}})
