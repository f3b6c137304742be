"""The contexts of all slots: keys and values, and, for models that score prompts, the likelihood of every token."""

from collections.abc import Callable, Sequence

import torch

from diffusion_worker.memory.kv_cache import CacheDamaged, KvCache
from diffusion_worker.memory.prompt_scores import PromptScores, TokenPlace
from diffusion_worker.models.device_errors import is_out_of_memory
from diffusion_worker.models.interface import DiffusionModel


class Contexts:
    """The KV cache and, beside it, the scores of its tokens, which are changed together."""

    def __init__(self, model: DiffusionModel, cache: KvCache) -> None:
        self.cache = cache
        self._logits = model.prompt_logits
        self._scores = _scores_of(model, cache) if model.info.scores_prompts else None

    def resize(self, slots: int) -> None:
        """See `KvCache.resize`; without memory for the scores of more slots, the number stays what it was, too."""
        before = self.cache.slots
        self.cache.resize(slots)
        if self._scores is None:
            return
        try:
            self._scores.resize(self.cache.slots)
        except Exception as error:  # they may be more than the slots, but not fewer
            self.cache.resize(min(before, self.cache.slots))
            if not is_out_of_memory(error):
                raise

    def copy(self, source: int, target: int, tokens: int) -> None:
        """See `KvCache.copy`."""
        self.cache.copy(source, target, tokens)
        if self._scores is not None:
            self._scores.copy(source, target, tokens)

    def zero(self, slot: int) -> None:
        """See `KvCache.zero`."""
        self.cache.zero(slot)
        if self._scores is not None:
            self._scores.zero(slot)

    def reset(self) -> None:
        """See `KvCache.reset`."""
        self.cache.reset()
        if self._scores is not None:
            self._scores.reset()

    def score(
        self, places: Sequence[TokenPlace], ids: torch.Tensor, hidden: torch.Tensor, *, skipped: Sequence[TokenPlace]
    ) -> Callable[[], None]:
        """Score the tokens of a causal pass over ids [tokens], from their hidden states [tokens, hidden]; returns the
        function that stores the scores once the pass is complete. The tokens of the `skipped` places, which are among
        all `places`, are not scored. Raises CacheDamaged if storing fails halfway: a repeated pass would take the
        hidden state of its own last token for that of the token before it."""
        scores = self._scores
        if scores is None:
            return lambda: None
        store = scores.score(places, ids, hidden, self._logits) if len(skipped) < len(places) else None

        def keep() -> None:
            try:
                if store is not None:
                    store()
                for place in skipped:
                    scores.skip(place.slot, place.at, place.count)
            except Exception as error:  # of any kind: part of the scores may be stored
                raise CacheDamaged(f"storing the scores of a prompt failed: {error}") from error

        return keep

    def skip(self, slot: int, at: int, count: int) -> None:
        """See `PromptScores.skip`."""
        if self._scores is not None and count:
            self._scores.skip(slot, at, count)

    def surprise(self, tokens: Sequence[tuple[int, int]]) -> torch.Tensor:
        """Surprise [rows, 1] of the first `count` tokens of each (slot, count); 0 for no tokens. See
        `types.confidence`."""
        surprises = torch.zeros(len(tokens), 1, dtype=torch.double, device=self.cache.device)
        for row, (slot, count) in enumerate(tokens):
            if self._scores is not None and count:
                surprises[row] = self._scores.surprise(slot, count)
        return surprises


def _scores_of(model: DiffusionModel, cache: KvCache) -> PromptScores:
    return PromptScores(
        slots=cache.slots,
        slot_tokens=cache.slot_tokens,
        hidden_size=model.info.hidden_size,
        dtype=model.dtype,
        device=model.device,
    )
