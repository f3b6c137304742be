"""Which process gets the next connection.

Least connections, because connections live long and differ in use; but among any 64 consecutive connections, no process
gets more than 1.25 times its share, so that a process that was just restarted is not flooded. Only connections that a
process was really sent count.
"""

from collections import Counter, deque
from collections.abc import Mapping
from math import ceil
from typing import Final

WINDOW: Final = 64
MAX_SHARES: Final = 1.25


class Balance:
    """Remembers who got the last connections."""

    def __init__(self) -> None:
        self._recent: deque[int] = deque()
        self._counts: Counter[int] = Counter()  # of the recent ones
        self._last: dict[int, int] = {}  # the number of each process's last one
        self._sent = 0

    def pick(self, connections: Mapping[int, int]) -> int:
        """One of the processes, of which `connections` has the number of open connections."""
        most = ceil(MAX_SHARES * WINDOW / len(connections))
        may = [each for each in connections if self._counts[each] < most]  # never empty: `most` is above the average
        return min(may, key=lambda each: (connections[each], self._last.get(each, 0)))  # of equals the least recent

    def sent(self, process: int) -> None:
        """A process was sent a connection."""
        self._sent += 1
        self._last[process] = self._sent
        self._counts[process] += 1
        self._recent.append(process)
        if len(self._recent) == WINDOW:
            self._counts[self._recent.popleft()] -= 1

    def forget(self, process: int) -> None:
        """A process has ended; its number is not used again."""
        self._last.pop(process, None)
