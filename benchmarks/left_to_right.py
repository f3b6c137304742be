"""Left-to-right constrained decoding with llguidance: mask the logits, take the most likely token, repeat.

Every autoregressive engine enforces a schema this way. On the logits of a canvas it is the greedy path through the
lattice of which our engine takes the best path; with a model it is the baseline for accuracy, passes and time. It takes
into account neither later positions nor the number of tokens left.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.vocabularies import Words
from diffusion_worker.denoise.autoregressive import padded
from diffusion_worker.memory.kv_cache import KvCache
from diffusion_worker.models.interface import DiffusionModel
from diffusion_worker.types.requests import GenerationRequest

Floats = NDArray[np.float32]
Source = Callable[[Sequence[int]], Floats | None]  # ids so far -> logits [vocab] of the next token; None: at the end


@dataclass(frozen=True, slots=True, kw_only=True)
class Greedy:
    """One decoding: the time to compile the grammar and to decode the text, and whether the text was closed."""

    compile_ms: float
    ms: float
    is_closed: bool
    ids: tuple[int, ...]
    logprob: float


class LeftToRight:
    """llguidance over one vocabulary. `tokenise`: of texts that the grammar forces, of which it allows only this
    tokenisation; byte by byte without. Raises ImportError without the extra `bench`."""

    def __init__(self, words: Words, tokenise: Callable[[bytes], list[int]] | None = None) -> None:
        import llguidance
        import llguidance.numpy as masks

        self._library = llguidance
        self._masks = masks
        self._words = words
        spelling = llguidance.TokenizerWrapper(_Spelling(words, tokenise))
        self._tokenizer = llguidance.LLTokenizer(spelling, len(words.tokens))

    def decode(self, schema: Any, source: Source) -> Greedy | None:
        """The greedy text; None if llguidance refuses the schema."""
        started = time.thread_time()
        matcher = self.matcher(schema)
        if matcher is None:
            return None
        compiled = time.thread_time()
        ids, logprob = self._run(matcher, source)
        return Greedy(
            compile_ms=1000 * (compiled - started),
            ms=1000 * (time.thread_time() - compiled),
            is_closed=bool(ids) and ids[-1] == self._words.end_id,
            ids=tuple(ids),
            logprob=logprob,
        )

    def matcher(self, schema: Any) -> Any | None:
        """A matcher at the beginning of a text; None if llguidance refuses the schema."""
        try:
            grammar = self._library.LLMatcher.grammar_from_json_schema(json.dumps(schema))
            matcher = self._library.LLMatcher(self._tokenizer, grammar)
        except ValueError:
            return None
        return None if matcher.is_error() else matcher

    def mask(self, matcher: Any) -> NDArray[np.uint8]:
        """[vocab] 1 where a token may follow."""
        bitmask = self._masks.allocate_token_bitmask(1, len(self._words.tokens))
        self._masks.fill_next_token_bitmask(matcher, bitmask)
        return np.unpackbits(bitmask[0].view(np.uint8), bitorder="little")

    def _run(self, matcher: Any, source: Source) -> tuple[list[int], float]:
        bitmask = self._masks.allocate_token_bitmask(1, len(self._words.tokens))
        ids, logprob = list[int](), 0.0
        while (row := source(ids)) is not None:
            self._masks.fill_next_token_bitmask(matcher, bitmask)
            allowed = np.unpackbits(bitmask[0].view(np.uint8), bitorder="little")[: len(row)]
            token = int(np.where(allowed, row, np.float32(-np.inf)).argmax())
            top = row.max()
            logprob += float(row[token] - top - np.log(np.exp(row - top).sum()))
            ids.append(token)
            if token == self._words.end_id or not matcher.consume_token(token):
                break
        return ids, logprob


def of_canvas(logits: Floats) -> Source:
    """A source that returns logits [positions, vocab] position by position."""
    return lambda ids: logits[len(ids)] if len(ids) < len(logits) else None


class OfModel:
    """A source that runs one causal pass of a model per token, over its own context."""

    def __init__(self, model: DiffusionModel, request: GenerationRequest) -> None:
        self._model, self._request, self._at = model, request, 0
        slot_tokens = len(request.prompt_ids) + request.max_tokens
        self._cache = KvCache(model.kv_layers, slots=1, slot_tokens=slot_tokens, dtype=model.dtype, device=model.device)

    @torch.inference_mode()
    def __call__(self, ids: Sequence[int]) -> Floats | None:
        """Run one pass over the new tokens."""
        if len(ids) == self._request.max_tokens:
            return None
        new = (*self._request.prompt_ids, *ids)[self._at :]
        view = self._cache.prefill_view([0], [self._at], [len(new)])
        hidden = self._model.encode(padded([new], self._model.device), view)
        self._cache.seal(view)
        self._at += len(new)
        logits: Floats = self._model.logits(hidden[0, -1]).numpy()
        return logits


class _Spelling:
    """A vocabulary in the form that llguidance expects."""

    def __init__(self, words: Words, tokenise: Callable[[bytes], list[int]] | None) -> None:
        self._tokenise = tokenise
        self.eos_token_id = words.end_id
        self.bos_token_id = None
        self.tokens = [spelling or b"\xff<%d>" % token for token, spelling in enumerate(words.tokens)]
        self.special_token_ids = [token for token, spelling in enumerate(words.tokens) if not spelling]
        self._single = {spelling: token for token, spelling in enumerate(words.tokens) if len(spelling) == 1}

    def __call__(self, text: bytes | str) -> list[int]:
        """The tokens of a text."""
        content = text.encode() if isinstance(text, str) else text
        if self._tokenise is not None:
            return self._tokenise(content)
        return [
            self._single[content[at : at + 1]] for at in range(len(content)) if content[at : at + 1] in self._single
        ]
