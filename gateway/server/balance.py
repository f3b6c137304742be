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
        self._recent: deque[int] = deque()
        self._counts: Counter[int] = Counter()  # of the recent picks
        self._last: dict[int, int] = {}  # the number of each process's last pick
        self._picks = 0

    def pick(self, connections: Mapping[int, int]) -> int:
        """One of the processes, of which `connections` has the number of open connections."""
        most = ceil(MAX_SHARES * WINDOW / len(connections))
        may = [each for each in connections if self._counts[each] < most]  # never empty: `most` is above the average
        picked = min(may, key=lambda each: (connections[each], self._last.get(each, 0)))  # of equals the least recent
        self._picks += 1
        self._last[picked] = self._picks
        self._counts[picked] += 1
        self._recent.append(picked)
        if len(self._recent) == WINDOW:
            self._counts[self._recent.popleft()] -= 1
        return picked
