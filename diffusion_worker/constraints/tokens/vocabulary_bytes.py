"""The bytes of every token of a vocabulary, and which tokens end an answer.

Plain data, sent over the pipe to the compiler process, which builds the token trie (`token_trie`) from it.
"""

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class VocabularyBytes:
    """`tokens` are empty for control tokens. Equal digests give equal token automata."""

    tokens: tuple[bytes, ...]
    end_ids: tuple[int, ...]
    padding_id: int  # fills the canvas after the end token
    digest: str


def make_vocabulary_bytes(tokens: Sequence[bytes], end_ids: Sequence[int], padding_id: int) -> VocabularyBytes:
    """Compute the digest. Raises ValueError when an end token spells text or does not exist."""
    if not end_ids or any(not 0 <= token < len(tokens) or tokens[token] for token in (*end_ids, padding_id)):
        raise ValueError(f"end tokens {tuple(end_ids)} and padding token {padding_id} must be control tokens")
    content = hashlib.sha256(_lengths(tokens) + b"".join(tokens))
    content.update(repr((tuple(end_ids), padding_id)).encode())
    return VocabularyBytes(
        tokens=tuple(tokens), end_ids=tuple(end_ids), padding_id=padding_id, digest=content.hexdigest()
    )


def to_bytes(vocabulary_bytes: VocabularyBytes) -> bytes:
    """One line of JSON, then the lengths of all tokens, then their bytes."""
    info = {
        "tokens": len(vocabulary_bytes.tokens),
        "end_ids": vocabulary_bytes.end_ids,
        "padding_id": vocabulary_bytes.padding_id,
    }
    return json.dumps(info).encode() + b"\n" + _lengths(vocabulary_bytes.tokens) + b"".join(vocabulary_bytes.tokens)


def from_bytes(content: bytes) -> VocabularyBytes:
    """Deserialise."""
    line, _, rest = content.partition(b"\n")
    info = json.loads(line)
    count = int(info["tokens"])
    ends = (4 * count + np.append(0, np.cumsum(np.frombuffer(rest, np.uint32, count), dtype=np.int64))).tolist()
    tokens = [rest[low:high] for low, high in itertools.pairwise(ends)]
    return make_vocabulary_bytes(tokens, info["end_ids"], info["padding_id"])


def _lengths(tokens: Sequence[bytes]) -> bytes:
    return np.array([len(token) for token in tokens], np.uint32).tobytes()
