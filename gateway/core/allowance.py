"""Extra attempts as a share of ordinary ones: what keeps hedges and retries from becoming a storm.

Every ordinary attempt earns a share of an extra one, and each extra one costs a whole (retry budgets, as in Finagle
and Envoy; for hedges: Dean and Barroso 2013, "The Tail at Scale"). So extras <= share x ordinary at any moment, in each
replica and therefore in all together: nothing needs to be shared. Knows neither clock nor target.
"""

from typing import Final

MOST_SAVED: Final = 10.0  # a quiet night must not pay for a storm in the morning
_SLACK: Final = 1e-9  # ten tenths are one


class Allowance:
    """Begins empty: the first extra attempt has been earned as well."""

    __slots__ = ("_saved",)

    def __init__(self) -> None:
        self._saved = 0.0

    def earn(self, share: float) -> None:
        """An ordinary attempt was made."""
        self._saved = min(self._saved + share, MOST_SAVED)

    def spend(self) -> bool:
        """May an extra attempt be made? If so, it is paid for."""
        if self._saved < 1.0 - _SLACK:
            return False
        self._saved -= 1.0
        return True
