"""Memory that rows use one after another: new memory costs as much as what is computed in it."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition
from typing import Final

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
IN_USE: Final = (
    512 << 20
)  # bytes for the constrained rows of a process: at most this much at once, unless one row needs more
KEPT: Final = 192 << 20  # of these, between steps


class Scratch:
    """Lends memory of any content. `in_use`: the most bytes at once, for which further rows wait; a larger row runs
    alone. `kept`: the most bytes between uses."""

    def __init__(self, *, in_use: int, kept: int) -> None:
        self._most_in_use, self._most_kept = in_use, kept
        self._in_use = 0
        self._kept: list[Bytes] = []
        self._returned = Condition()

    @contextmanager
    def lend(self, size: int) -> Iterator[Bytes]:
        """At least `size` bytes, once they are free."""
        with self._returned:
            self._returned.wait_for(lambda: not self._in_use or self._in_use + size <= self._most_in_use)
            self._in_use += size
            found = self._kept.pop() if self._kept else None
        try:
            if found is None or len(found) < size:
                found = None  # freed first
                found = np.empty(size, np.uint8)
            yield found
        finally:
            with self._returned:
                self._in_use -= size
                if found is not None and sum(map(len, self._kept)) + len(found) <= self._most_kept:
                    self._kept.append(found)
                self._returned.notify_all()
