"""Left-to-right constrained decoding with llguidance, on the same logits: mask, take the likeliest, go on.

What every autoregressive engine does with a schema. On a canvas it is the greedy way through the same lattice of which
our engine takes the best path; it sees neither what comes later nor how many tokens are left.
"""

import json
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.vocabularies import Words

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Greedy:
    """One decoding: how long the grammar took to compile and the text to find, and whether it was closed."""

    compile_ms: float
    ms: float
    is_closed: bool
    ids: tuple[int, ...]
    logprob: float


class LeftToRight:
    """llguidance over one vocabulary. Raises ImportError without the extra `bench`."""

    def __init__(self, words: Words) -> None:
        import llguidance
        import llguidance.numpy as masks

        self._library = llguidance
        self._masks = masks
        self._words = words
        self._tokenizer = llguidance.LLTokenizer(llguidance.TokenizerWrapper(_Spelling(words)), len(words.tokens))

    def decode(self, schema: Any, logits: Floats) -> Greedy | None:
        """The greedy text of logits [positions, vocab]; None where llguidance refuses the schema."""
        started = time.thread_time()
        try:
            grammar = self._library.LLMatcher.grammar_from_json_schema(json.dumps(schema))
            matcher = self._library.LLMatcher(self._tokenizer, grammar)
        except ValueError:
            return None
        if matcher.is_error():
            return None
        compiled = time.thread_time()
        ids, logprob = self._run(matcher, logits)
        return Greedy(
            compile_ms=1000 * (compiled - started),
            ms=1000 * (time.thread_time() - compiled),
            is_closed=bool(ids) and ids[-1] == self._words.end_id,
            ids=tuple(ids),
            logprob=logprob,
        )

    def _run(self, matcher: Any, logits: Floats) -> tuple[list[int], float]:
        bitmask = self._masks.allocate_token_bitmask(1, logits.shape[1])
        ids, logprob = list[int](), 0.0
        for row in logits:
            self._masks.fill_next_token_bitmask(matcher, bitmask)
            allowed = np.unpackbits(bitmask[0].view(np.uint8), bitorder="little")[: len(row)]
            token = int(np.where(allowed, row, np.float32(-np.inf)).argmax())
            top = row.max()
            logprob += float(row[token] - top - np.log(np.exp(row - top).sum()))
            ids.append(token)
            if token == self._words.end_id or not matcher.consume_token(token):
                break
        return ids, logprob


class _Spelling:
    """A vocabulary as llguidance asks for it."""

    def __init__(self, words: Words) -> None:
        self.eos_token_id = words.end_id
        self.bos_token_id = None
        self.tokens = [spelling or b"\xff<%d>" % token for token, spelling in enumerate(words.tokens)]
        self.special_token_ids = [token for token, spelling in enumerate(words.tokens) if not spelling]
        self._single = {spelling: token for token, spelling in enumerate(words.tokens) if len(spelling) == 1}

    def __call__(self, text: bytes | str) -> list[int]:
        """Byte by byte: only forced texts are tokenised, and none are asked for here."""
        content = text.encode() if isinstance(text, str) else text
        return [
            self._single[content[at : at + 1]] for at in range(len(content)) if content[at : at + 1] in self._single
        ]
