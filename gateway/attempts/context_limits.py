"""Context lengths of models, learned from the errors in which their servers named them."""

from typing import Final

from gateway.types import Target

KEEP_S: Final = 600.0  # a server may be restarted with a longer context


class ContextLimits:
    """Of all targets of a process. Targets at the same URL with the same model share one."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], tuple[int, float]] = {}

    def learn(self, target: Target, limit: int, now_s: float) -> None:
        """The server said that its context has `limit` tokens."""
        self._known[target.url, target.model] = limit, now_s

    def of(self, target: Target, now_s: float) -> int | None:
        """The context in tokens; None: not known, or not any more."""
        limit, learned_s = self._known.get((target.url, target.model), (None, now_s))
        return limit if now_s - learned_s <= KEEP_S else None
