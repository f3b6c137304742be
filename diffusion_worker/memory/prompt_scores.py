"""The likelihood of every context token under the causal reading, kept per slot like keys and values.

A prompt that the model finds unlikely is one that it was not trained on. Prefix reuse and chunked prefill skip tokens,
so their log-probabilities are kept with the slot, and the hidden state of the last token predicts the next one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from diffusion_worker.types.confidence import WEAKEST

_UNKNOWN = -1
_LOGITS_AT_ONCE = 1 << 24  # numbers: 64 MiB in fp32


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPlace:
    """The tokens of one row of a causal pass: `count` tokens after `at` ones in `slot`, which are those of the pass
    from `first` on."""

    slot: int
    at: int
    count: int
    first: int


class PromptScores:
    """Log-probabilities in nats, [slots, tokens]. Shares slot numbers with the KV cache and is changed with it."""

    def __init__(self, *, slots: int, slot_tokens: int, hidden_size: int, dtype: torch.dtype, device: torch.device):
        self._logprobs = torch.zeros(slots, slot_tokens, device=device)
        self._last = torch.zeros(slots, hidden_size, dtype=dtype, device=device)  # hidden state of the last token
        self._lengths = [_UNKNOWN] * slots  # tokens after which `_last` is valid

    def score(
        self,
        places: Sequence[TokenPlace],
        ids: torch.Tensor,
        hidden: torch.Tensor,
        logits: Callable[[torch.Tensor], torch.Tensor],
    ) -> Callable[[], None]:
        """Score the tokens of a causal pass: ids [tokens] with hidden states [tokens, hidden]. Returns the function
        that stores the scores, to be called once the pass is complete."""
        before = hidden.roll(1, 0)
        for place in places:
            before[place.first] = self._last[place.slot]
        logprobs = _logprobs_of(ids, before, logits)

        def store() -> None:
            for place in places:
                slot, at, count = place.slot, place.at, place.count
                # A token that was cached before keeps its score; the first token of a context has none.
                first = 0 if at and self._lengths[slot] == at else 1
                self._logprobs[slot, at + first : at + count] = logprobs[place.first + first : place.first + count]
                if not at:
                    self._logprobs[slot, 0] = 0.0
                self._last[slot] = hidden[place.first + count - 1]
                self._lengths[slot] = at + count

        return store

    def skip(self, slot: int, at: int, count: int = 1) -> None:
        """`count` generated tokens were appended after `at` ones without being scored: they count as certain, and so
        does the one that follows them."""
        self._logprobs[slot, at : at + count + 1] = 0.0
        self._lengths[slot] = _UNKNOWN

    def surprise(self, slot: int, tokens: int) -> torch.Tensor:
        """Mean surprise of the WEAKEST least likely of the first `tokens` tokens of a slot, or of all if there are
        fewer; the first one, which nothing predicts, does not count."""
        known = self._logprobs[slot, 1:tokens]
        return -known.topk(min(WEAKEST, len(known)), largest=False).values.mean() if len(known) else known.new_zeros(())

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Copy at least the first `tokens` tokens of a slot, and one more: a token that is read again keeps its
        score."""
        self._logprobs[target, : tokens + 1] = self._logprobs[source, : tokens + 1]
        self._last[target] = self._last[source]
        self._lengths[target] = self._lengths[source]

    def zero(self, slot: int) -> None:
        """Forget a slot."""
        self._logprobs[slot].zero_()
        self._last[slot].zero_()
        self._lengths[slot] = _UNKNOWN

    def reset(self) -> None:
        """Forget all slots."""
        for slot in range(len(self._lengths)):
            self.zero(slot)

    def resize(self, slots: int) -> None:
        """Keep the first `slots` slots, or add empty ones: all or nothing."""
        kept = min(slots, len(self._lengths))
        self._logprobs, self._last = _resized(self._logprobs, slots, kept), _resized(self._last, slots, kept)
        self._lengths = [*self._lengths[:kept], *[_UNKNOWN] * (slots - kept)]


def _logprobs_of(
    ids: torch.Tensor, hidden: torch.Tensor, logits: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Log-probabilities [tokens] of ids under the hidden states before them, a slice at a time: the logits of a whole
    chunk over a large vocabulary would not fit."""
    parts: list[torch.Tensor] = []
    done, width = 0, 1  # the first slice tells the size of the vocabulary
    while done < len(ids):
        scores = logits(hidden[done : done + width])
        chosen = scores.gather(-1, ids[done : done + width, None])[:, 0]
        parts.append(chosen - scores.logsumexp(-1))
        done += width
        width = max(1, _LOGITS_AT_ONCE // scores.shape[1])
    return torch.cat(parts)


def _resized(store: torch.Tensor, slots: int, kept: int) -> torch.Tensor:
    resized = store.new_zeros((slots, *store.shape[1:]))
    resized[:kept] = store[:kept]
    return resized
