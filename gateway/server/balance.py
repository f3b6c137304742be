"""Which process gets the next connection.

Least connections, because connections live long and differ in use; but among any 64 consecutive connections, no process
gets more than 1.25 times its share, so that a process that was just restarted is not flooded.
"""

from collections import Counter, deque
from collections.abc import Mapping
from math import ceil
from typing import Final

WINDOW: Final = 64
MAX_SHARES: Final = 1.25


class Balance:
    """Remembers the last picks."""

    def __init__(self) -> None:
        self._recent: deque[int] = deque(maxlen=WINDOW - 1)

    def pick(self, connections: Mapping[int, int]) -> int:
        """One of the processes, of which `connections` has the number of open connections."""
        most = ceil(MAX_SHARES * WINDOW / len(connections))
        counts, ages = Counter(self._recent), {each: age for age, each in enumerate(self._recent)}
        may = [each for each in connections if counts[each] < most]  # never empty: `most` is above the average
        picked = min(may, key=lambda each: (connections[each], ages.get(each, -1)))  # of equals the least recent one
        self._recent.append(picked)
        return picked
