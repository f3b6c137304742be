"""Counters and histograms as plain numbers, added to the values of prometheus_client when somebody looks.

Its values take a lock for each increment, or write to a mapped file, and its histograms search their bounds one by one.
A cell belongs to the event loop: `flush` it there.
"""

from bisect import bisect_left
from collections.abc import Mapping
from typing import Final, Protocol

from prometheus_client import Counter, Histogram


class Cell(Protocol):
    """One series."""

    def flush(self) -> None:
        """Add what was counted since the last call to prometheus_client's value."""
        ...


class CounterCell:
    """A counter with its labels."""

    __slots__ = ("_child", "value")

    def __init__(self, child: Counter) -> None:
        self._child = child
        self.value = 0.0  # since the last flush

    def flush(self) -> None:
        """See `Cell`."""
        if self.value:
            self._child.inc(self.value)
            self.value = 0.0


class HistogramCell:
    """A histogram with its labels."""

    __slots__ = ("_bounds", "_child", "_counts", "_sum")

    def __init__(self, child: Histogram) -> None:
        self._child = child
        self._bounds: Final = child._upper_bounds
        self._counts = [0] * len(self._bounds)
        self._sum = 0.0

    def observe(self, value: float, exemplar: Mapping[str, str] | None) -> None:
        """Count a value. Exemplars are rare, and kept by prometheus_client."""
        if exemplar is not None:
            self._child.observe(value, dict(exemplar))
            return
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def flush(self) -> None:
        """See `Cell`."""
        if not any(self._counts):
            return
        self._child._sum.inc(self._sum)
        for bucket, count in zip(self._child._buckets, self._counts, strict=True):
            if count:
                bucket.inc(count)
        self._counts = [0] * len(self._bounds)
        self._sum = 0.0
