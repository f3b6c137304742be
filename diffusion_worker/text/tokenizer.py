"""Tokenizer of a checkpoint: text to token ids, ids to bytes, and special tokens by name.

Reads `tokenizer.json` with the `tokenizers` library. The model loader checks that the vocabulary fits the weights.
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Library

from diffusion_worker.errors import CheckpointBroken, CheckpointForeign, CheckpointMissing, PromptTooLong
from twolane.process.errors import first_line

# The library's own threads only serve batches of several texts; with them it warns in every process that is started.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Tokenizer:
    """Converts text to ids and back. Immutable and therefore thread-safe.

    `specials` maps the text of every control token to its id; control tokens are never part of an answer's text.
    `named` maps roles such as `bos_token` to their text, for chat templates. `opening` contains the ids that the
    checkpoint expects before raw text; chat templates write them themselves.
    """

    def __init__(self, document: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        """Create from `tokenizer.json` and `tokenizer_config.json`. Raises CheckpointBroken, CheckpointForeign."""
        text = json.dumps(document)
        self._library = _library(text)
        # A second copy encodes control tokens in user text as ordinary characters: a prompt must not change roles.
        self._plain = _library(text)
        self._plain.encode_special_tokens = True
        self.specials: Mapping[str, int] = {
            str(token["content"]): int(token["id"]) for token in document.get("added_tokens", ()) if token["special"]
        }
        self.named: Mapping[str, str] = _named_tokens(config)
        self.opening = self._opening(config.get("add_bos_token"))
        self.size: int = self._library.get_vocab_size(with_added_tokens=True)
        self._bytes = _byte_table(document, self._library.get_vocab(with_added_tokens=True))
        self._controls = {token: text for text, token in self.specials.items()}
        self._longest_bytes = _longest_bytes(document, self._library.get_vocab(with_added_tokens=True), self._bytes)

    def _opening(self, add_bos: Any) -> tuple[int, ...]:
        """The opening ids as the config specifies, otherwise those that the library adds before a text."""
        if isinstance(add_bos, bool):
            bos = self.specials.get(self.named.get("bos_token", ""))
            return () if bos is None or not add_bos else (bos,)
        encoded = self._library.encode("a", add_special_tokens=True)
        marked = zip(encoded.ids, encoded.special_tokens_mask, strict=True)
        return tuple(token for token, _ in takewhile(lambda pair: pair[1], marked))

    def encode(self, text: str) -> tuple[int, ...]:
        """Ids of text from a template, with control tokens recognised. No ids are added."""
        return _ids(self._library, text)

    def encode_plain(self, text: str) -> tuple[int, ...]:
        """Ids of untrusted text: the characters `<eos>` are encoded as characters."""
        return _ids(self._plain, text)

    def check_length(self, text: str, max_tokens: int, param: str) -> None:
        """Raise PromptTooLong if the text certainly has more than `max_tokens` tokens, without encoding it."""
        size = len(text.encode("utf-8", "surrogatepass"))
        if self._longest_bytes is not None and size > max_tokens * self._longest_bytes:
            least = -(-size // self._longest_bytes)
            raise PromptTooLong(
                f"The maximum context length is {max_tokens} tokens; {param!r} has at least {least}.", param=param
            )

    def token_bytes(self, token: int) -> bytes:
        """The UTF-8 bytes of a token, possibly an incomplete character.

        Empty for control tokens and for ids outside the vocabulary, because weights may have more rows than that."""
        return self._bytes.get(token, b"")

    def decode_with_specials(self, ids: Iterable[int]) -> str:
        """Decode ids to readable text that includes control tokens."""
        decoded = (self._controls.get(token, "").encode() or self.token_bytes(token) for token in ids)
        return b"".join(decoded).decode(errors="replace")


def _ids(library: Library, text: str) -> tuple[int, ...]:
    """A batch of one, without positions in the text: this releases the interpreter, and is several times faster."""
    return tuple(library.encode_batch_fast([text], add_special_tokens=False)[0].ids)


def load_tokenizer(folder: Path) -> Tokenizer:
    """Load the tokenizer of a checkpoint folder. Raises CheckpointMissing, CheckpointBroken, CheckpointForeign."""
    document = read_json(folder / "tokenizer.json")
    config = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").exists() else {}
    return Tokenizer(document, config)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object of a checkpoint file. Raises CheckpointMissing and CheckpointBroken, with the path."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointMissing(f"{path} does not exist") from None
    except (OSError, ValueError) as error:
        raise CheckpointBroken(f"{path} cannot be read: {first_line(error)}") from error
    if not isinstance(value, dict):
        raise CheckpointBroken(f"{path} does not contain a JSON object")
    return value


def _library(text: str) -> Library:
    try:
        return Library.from_str(text)
    except Exception as error:  # the library raises plain Exception for invalid files
        raise CheckpointBroken(f"tokenizer.json is not a usable tokenizer: {first_line(error)}") from error


def _named_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """`bos_token` and similar entries as strings; some files contain objects with a `content`."""
    named = {}
    for name, value in config.items():
        text = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(text, str):
            named[name] = text
    return named


def _byte_table(document: Mapping[str, Any], vocabulary: Mapping[str, int]) -> dict[int, bytes]:
    """The bytes of every id; an added token has its own text, a control token has none."""
    spell = _speller(document.get("decoder"))
    table = {token: spell(symbol) for symbol, token in vocabulary.items()}
    for added in document.get("added_tokens", ()):
        table[int(added["id"])] = b"" if added["special"] else str(added["content"]).encode()
    return table


def _longest_bytes(
    document: Mapping[str, Any], vocabulary: Mapping[str, int], decoded: Mapping[int, bytes]
) -> int | None:
    """The most bytes of text that one token stands for; None if there is no bound: a normalizer that shortens the
    text, unknown words that become one token, or control tokens that include the spaces around them."""
    model, added = document.get("model") or {}, document.get("added_tokens") or ()
    steps = _steps(document.get("normalizer"), "normalizers")
    if not all(step.get("type") == "Prepend" or _lengthens(step) for step in steps):
        return None
    if model.get("type") != "BPE" or (model.get("fuse_unk") and not model.get("byte_fallback")):
        return None
    if document.get("truncation") or any(token.get("lstrip") or token.get("rstrip") for token in added):
        return None
    return max(4, *(max(len(symbol.encode()), len(decoded[token])) for symbol, token in vocabulary.items()))


def _lengthens(step: Mapping[str, Any]) -> bool:
    """Whether a normalizer replaces a text by one of at least as many bytes."""
    pattern = (step.get("pattern") or {}).get("String")
    return step.get("type") == "Replace" and pattern is not None and len(step["content"]) >= len(pattern)


def _steps(component: Any, name: str) -> list[Mapping[str, Any]]:
    """The parts of a sequence, or the component alone; none if it is null."""
    return list(component.get(name, [component])) if isinstance(component, dict) else []


def _speller(decoder: Any) -> Callable[[str], bytes]:
    """Decoder of vocabulary entries: GPT-2's printable symbols, or text with `<0xAB>` for single bytes (Gemma)."""
    steps = _steps(decoder, "decoders")
    kinds = [step.get("type") for step in steps]
    if kinds == ["ByteLevel"]:
        return _byte_level_speller()
    if kinds and set(kinds) <= {"Replace", "ByteFallback", "Fuse"}:
        replacements = [(step["pattern"]["String"], step["content"]) for step in steps if step["type"] == "Replace"]
        return lambda symbol: _spell_text(symbol, replacements)
    raise CheckpointForeign(f"tokenizer.json: decoder {'+'.join(map(str, kinds)) or 'none'} is not supported")


def _byte_level_speller() -> Callable[[str], bytes]:
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    shifted = [byte for byte in range(256) if byte not in printable]
    values = {chr(byte): byte for byte in printable} | {chr(256 + rank): byte for rank, byte in enumerate(shifted)}
    return lambda symbol: bytes(values[character] for character in symbol if character in values)


def _spell_text(symbol: str, replacements: list[tuple[str, str]]) -> bytes:
    if match := _BYTE_TOKEN.fullmatch(symbol):
        return bytes([int(match[1], 16)])
    for pattern, content in replacements:
        symbol = symbol.replace(pattern, content)
    return symbol.encode()
