"""The likelihood of every context token under the causal reading, kept per slot like keys and values.

A prompt that the model finds unlikely is one that it was not trained on. Prefix reuse and chunked prefill skip tokens,
so their log-probabilities are kept with the slot, and the hidden state of the last token predicts the next one.
"""

from collections.abc import Callable, Sequence

import torch

from diffusion_worker.types.confidence import WEAKEST

_UNKNOWN = -1
_LOGITS_AT_ONCE = 1 << 24  # numbers: 64 MiB in fp32


class PromptScores:
    """Log-probabilities in nats, [slots, tokens]. Shares slot numbers with the KV cache and is changed with it."""

    def __init__(self, *, slots: int, slot_tokens: int, hidden_size: int, dtype: torch.dtype, device: torch.device):
        self._logprobs = torch.zeros(slots, slot_tokens, device=device)
        self._last = torch.zeros(slots, hidden_size, dtype=dtype, device=device)  # hidden state of the last token
        self._lengths = [_UNKNOWN] * slots  # tokens after which `_last` is valid

    def score(
        self,
        places: Sequence[tuple[int, int, int]],
        ids: torch.Tensor,
        hidden: torch.Tensor,
        logits: Callable[[torch.Tensor], torch.Tensor],
    ) -> Callable[[], None]:
        """Score the tokens of a causal pass: ids [rows, new] with hidden states [rows, new, hidden], where row i
        appends `count` tokens after `at` ones in `slot`, for (slot, at, count) of `places[i]`. Returns the function
        that stores the scores, to be called once the pass is complete."""
        last = torch.stack([self._last[slot] for slot, _, _ in places])
        before = torch.cat([last[:, None].to(hidden.dtype), hidden[:, :-1]], dim=1)
        logprobs = _logprobs_of(ids, before, logits)

        def store() -> None:
            for row, (slot, at, count) in enumerate(places):
                # A token that was cached before keeps its score; the first token of a context has none.
                first = 0 if at and self._lengths[slot] == at else 1
                self._logprobs[slot, at + first : at + count] = logprobs[row, first:count]
                if not at:
                    self._logprobs[slot, 0] = 0.0
                self._last[slot] = hidden[row, count - 1]
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
        """Keep the first `slots` slots, or add empty ones."""
        kept = min(slots, len(self._lengths))
        self._logprobs = _resized(self._logprobs, slots, kept)
        self._last = _resized(self._last, slots, kept)
        self._lengths = [*self._lengths[:kept], *[_UNKNOWN] * (slots - kept)]


def _logprobs_of(
    ids: torch.Tensor, hidden: torch.Tensor, logits: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Log-probabilities [rows, new] of ids under the hidden states before them, a slice of positions at a time: the
    logits of a whole chunk over a large vocabulary would not fit."""
    parts: list[torch.Tensor] = []
    done, width = 0, 1  # the first slice tells the size of the vocabulary
    while done < ids.shape[1]:
        scores = logits(hidden[:, done : done + width])
        chosen = scores.gather(-1, ids[:, done : done + width, None])[..., 0]
        parts.append(chosen - scores.logsumexp(-1))
        done += width
        width = max(1, _LOGITS_AT_ONCE // (scores.shape[0] * scores.shape[2]))
    return torch.cat(parts, dim=1)


def _resized(store: torch.Tensor, slots: int, kept: int) -> torch.Tensor:
    resized = store.new_zeros((slots, *store.shape[1:]))
    resized[:kept] = store[:kept]
    return resized
