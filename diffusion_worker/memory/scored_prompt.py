"""Log-probabilities of the tokens of a prompt, kept with the cached context that they belong to.

The values of a token depend on the prompt up to it and on nothing else, so prompts that begin alike share them.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from diffusion_worker.types.events import TokenLogprobs


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredPrompt:
    """The first tokens of a prompt with the log-probability of each but the first, which nothing predicts.

    `values` holds 1 + 2 * `top` numbers per token after the first: its log-probability, the ids of the `top` most
    likely tokens, and their log-probabilities.
    """

    top: int = 0
    ids: tuple[int, ...] = ()
    values: "array[float]" = field(default_factory=lambda: array("d"))

    def reusable(self, ids: Sequence[int], *, top: int) -> int:
        """How long a cached context may be from which a prompt `ids` continues without losing a value: the last token
        of the context predicts the next one, whose values must be known, too."""
        return max(0, common_prefix(self.ids, ids) - 1) if self.top >= top else 0

    def first(self, tokens: int) -> "ScoredPrompt":
        """The values of the first tokens."""
        stride = 1 + 2 * self.top
        return ScoredPrompt(top=self.top, ids=self.ids[:tokens], values=self.values[: max(0, tokens - 1) * stride])

    def extended(self, prompt: Sequence[int], at: int, values: "array[float]") -> "ScoredPrompt":
        """With the values of the tokens of `prompt` that follow the first `at` + 1. Those that are known stay: a
        context that was preempted is computed again."""
        stride = 1 + 2 * self.top
        known = max(1, len(self.ids))
        assert known > at, "the values of some tokens are missing"
        fresh = values[(known - 1 - at) * stride :]
        ids = tuple(prompt[: known + len(fresh) // stride])
        return ScoredPrompt(top=self.top, ids=ids, values=self.values + fresh)

    def token_logprobs(self, top: int) -> tuple[TokenLogprobs, ...]:
        """One record per token after the first, with the `top` most likely tokens."""
        stride, values = 1 + 2 * self.top, self.values
        return tuple(
            TokenLogprobs(
                id=token,
                logprob=values[place],
                top=tuple(
                    (int(values[place + 1 + rank]), values[place + 1 + self.top + rank])
                    for rank in range(min(top, self.top))
                ),
            )
            for token, place in zip(self.ids[1:], range(0, len(values), stride), strict=True)
        )


def common_prefix(held: Sequence[int], ids: Sequence[int]) -> int:
    """Length of the common prefix, by binary search over slice comparisons, which run at C speed."""
    low, high = 0, min(len(held), len(ids))
    while low < high:
        middle = (low + high + 1) // 2
        if list(held[low:middle]) == list(ids[low:middle]):
            low = middle
        else:
            high = middle - 1
    return low
