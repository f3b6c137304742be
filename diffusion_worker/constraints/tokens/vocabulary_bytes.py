"""The words of a checkpoint as the compiler's process is told them: the bytes of every id, and which ids end an answer.

Plain data that crosses a pipe; the trie that is walked (`vocabulary`) is made from it on the other side.
"""

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class VocabularyBytes:
    """`tokens` are empty for control tokens. `digest` names the content: equal digests lift equally."""

    tokens: tuple[bytes, ...]
    end_ids: tuple[int, ...]
    tail_id: int  # written behind the end
    digest: str


def read_lexicon(tokens: Sequence[bytes], end_ids: Sequence[int], tail_id: int) -> VocabularyBytes:
    """Raises ValueError when an end token is text or no token."""
    if not end_ids or any(not 0 <= token < len(tokens) or tokens[token] for token in (*end_ids, tail_id)):
        raise ValueError(f"end tokens {tuple(end_ids)} and tail token {tail_id} must be control tokens")
    content = hashlib.sha256(_lengths(tokens) + b"".join(tokens))
    content.update(repr((tuple(end_ids), tail_id)).encode())
    return VocabularyBytes(tokens=tuple(tokens), end_ids=tuple(end_ids), tail_id=tail_id, digest=content.hexdigest())


def to_bytes(lexicon: VocabularyBytes) -> bytes:
    """A line of facts, then the lengths of all tokens, then their bytes."""
    info = {"tokens": len(lexicon.tokens), "end_ids": lexicon.end_ids, "tail_id": lexicon.tail_id}
    return json.dumps(info).encode() + b"\n" + _lengths(lexicon.tokens) + b"".join(lexicon.tokens)


def from_bytes(content: bytes) -> VocabularyBytes:
    """The reverse."""
    line, _, rest = content.partition(b"\n")
    info = json.loads(line)
    count = int(info["tokens"])
    ends = (4 * count + np.append(0, np.cumsum(np.frombuffer(rest, np.uint32, count), dtype=np.int64))).tolist()
    tokens = [rest[low:high] for low, high in itertools.pairwise(ends)]
    return read_lexicon(tokens, info["end_ids"], info["tail_id"])


def _lengths(tokens: Sequence[bytes]) -> bytes:
    return np.array([len(token) for token in tokens], np.uint32).tobytes()
