"""When the gateway itself is overloaded, and which requests it then refuses.

Controlled delay with two limits (Nichols and Jacobson 2012, "Controlling Queue Delay"; Maurer 2015, "Fail at Scale"): a
burst may wait long, because it ends by itself, but a load that exceeds the capacity would fill any queue. So once a
request has waited too long, the gateway counts as overloaded and keeps only a short queue: those that it answers, it
answers quickly. It stays overloaded until it has had to refuse nothing for a while.
"""

from dataclasses import dataclass
from math import inf


@dataclass(frozen=True, slots=True, kw_only=True)
class SheddingRule:
    """How long a request may wait for the gateway in normal operation and under overload, and when overload ends."""

    max_delay_s: float = 0.25
    overloaded_delay_s: float = 0.01
    calm_s: float = 1.0


class LoadShedder:
    """Decides for each request when its turn comes."""

    def __init__(self, rule: SheddingRule | None = None) -> None:
        self._rule = rule or SheddingRule()
        self._overloaded_until_s = -inf

    def admits(self, delay_s: float, now_s: float) -> bool:
        """Whether to serve a request that waited for `delay_s`, or refuse it."""
        limit_s = self._rule.overloaded_delay_s if now_s < self._overloaded_until_s else self._rule.max_delay_s
        if delay_s <= limit_s:
            return True
        self._overloaded_until_s = now_s + self._rule.calm_s
        return False
