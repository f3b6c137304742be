"""When the gateway itself is overloaded, and which requests it then refuses.

Controlled delay with two limits (Nichols and Jacobson 2012, "Controlling Queue Delay"; Maurer 2015, "Fail at Scale"):
a burst may wait, because it ends by itself, but a load that exceeds the capacity fills any queue. So once all requests
of a whole second have waited too long, the gateway counts as overloaded and keeps only a short queue, so that the
requests which it accepts are answered quickly. It stays overloaded until it has refused no request for `calm_s`.
"""

from collections import deque
from dataclasses import dataclass
from math import inf
from typing import Final

_RECENT: Final = 32  # admitted requests that tell the present rate
_ROOM_USED: Final = 0.75  # the rest is for turns that take longer than others


@dataclass(frozen=True, slots=True, kw_only=True)
class SheddingRule:
    """The gateway is overloaded when all requests of `interval_s` have waited for longer than `target_s`. From then on,
    they may wait for `overloaded_delay_s`, until none was refused for `calm_s`. None ever waits for longer than
    `max_delay_s`."""

    target_s: float = 0.25
    interval_s: float = 1.0
    overloaded_delay_s: float = 0.01
    calm_s: float = 1.0
    max_delay_s: float = 2.0


class LoadShedder:
    """Decides for each request when its turn comes."""

    def __init__(self, rule: SheddingRule | None = None) -> None:
        self._rule = rule or SheddingRule()
        self._served_s = deque[float](maxlen=_RECENT)  # when the last requests were admitted
        self._late_since_s = inf  # requests have waited for longer than the target since then
        self._overloaded_until_s = -inf

    def room(self, now_s: float) -> int | None:
        """How many requests may wait from now on; None: any number. Under overload, as many as will be admitted in
        time at the present rate: a request that is refused at once costs less than one that has waited first."""
        served_s = self._served_s
        if now_s >= self._overloaded_until_s or len(served_s) < _RECENT:
            return None
        per_s = _RECENT / max(now_s - served_s[0], 1e-6)
        return max(1, int(_ROOM_USED * per_s * self._rule.overloaded_delay_s))

    def refuse(self, now_s: float) -> None:
        """A request was refused for lack of room."""
        self._overloaded_until_s = now_s + self._rule.calm_s

    def admits(self, delay_s: float, now_s: float) -> bool:
        """Whether to serve a request that waited for `delay_s`, or refuse it."""
        rule = self._rule
        if delay_s <= rule.target_s:
            self._late_since_s = inf
        elif now_s < self._late_since_s:
            self._late_since_s = now_s
        if now_s >= self._overloaded_until_s and now_s - self._late_since_s < rule.interval_s:
            limit_s = rule.max_delay_s
        else:
            limit_s = rule.overloaded_delay_s
        if delay_s <= limit_s:
            self._served_s.append(now_s)
            return True
        self.refuse(now_s)
        return False
