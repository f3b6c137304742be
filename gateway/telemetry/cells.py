"""Counters and histograms as plain numbers, added to the values of prometheus_client when somebody looks.

Its values take a lock for each increment, or write to a mapped file, and its histograms search their bounds one by one.
A series is exported from its first count on. Cells belong to the event loop: `flush` them there.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.samples import Exemplar


class Origin(NamedTuple):
    """What an exemplar says of a value: the trace, and when it was observed, in seconds since the epoch."""

    trace_id: str
    at_s: float


class CounterCell:
    """A counter with its labels."""

    __slots__ = ("_child", "_family", "_labels", "value")

    def __init__(self, family: Counter, labels: tuple[str, ...] = ()) -> None:
        self._family, self._labels = family, labels
        self._child: Counter | None = None
        self.value = 0.0  # since the last flush

    def show(self) -> Counter:
        """Export the series, even if nothing was counted: a ratio and `rate` need its 0."""
        if self._child is None:
            self._child = self._family.labels(*self._labels) if self._labels else self._family
        return self._child

    def flush(self) -> None:
        """Add what was counted since the last call to prometheus_client's value."""
        if self.value:
            self.show().inc(self.value)
            self.value = 0.0


class HistogramCell:
    """A histogram with its labels. `add` takes a value without an origin."""

    __slots__ = ("_child", "_family", "_labels", "_origins", "_values", "add")

    def __init__(self, family: Histogram, labels: tuple[str, ...] = ()) -> None:
        self._family, self._labels = family, labels
        self._child: Histogram | None = None
        self._values: list[float] = []
        self._origins: list[tuple[float, Origin]] = []  # of some of the values
        self.add: Final = self._values.append  # without a call of Python for each value

    def observe(self, value: float, origin: Origin | None) -> None:
        """Count a value."""
        self._values.append(value)
        if origin is not None:
            self._origins.append((value, origin))

    def flush(self) -> None:
        """Add the values since the last call to prometheus_client's."""
        if not self._values:
            return
        child, bounds = self._show(), self._family._upper_bounds
        for value, origin in self._origins:
            exemplar = Exemplar({"trace_id": origin.trace_id}, value, origin.at_s)
            child._buckets[bisect_left(bounds, value)].set_exemplar(exemplar)
        self._origins.clear()
        values = sorted(self._values)
        self._values.clear()
        child._sum.inc(sum(values))
        counted = 0
        for bucket, bound in zip(child._buckets, bounds, strict=True):
            until = bisect_right(values, bound, counted)
            if until > counted:
                bucket.inc(until - counted)
                counted = until

    def _show(self) -> Histogram:
        if self._child is None:
            self._child = self._family.labels(*self._labels) if self._labels else self._family
        return self._child


class Cells:
    """The counters and histograms of one registry, and their cells."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._counters: dict[tuple[Counter, tuple[str, ...]], CounterCell] = {}
        self._histograms: dict[tuple[Histogram, tuple[str, ...]], HistogramCell] = {}

    def counter(self, name: str, text: str, *labels: str) -> Counter:
        """A new family of counters."""
        return Counter(name, text, labels, registry=self._registry)

    def histogram(self, name: str, text: str, bounds: Iterable[float], *labels: str) -> Histogram:
        """A new family of histograms."""
        return Histogram(name, text, labels, registry=self._registry, buckets=tuple(bounds))

    def count_of(self, family: Counter, *labels: str) -> CounterCell:
        """The cell of a counter, for callers that keep it: finding it takes as long as counting."""
        cell = self._counters.get((family, labels))
        if cell is None:
            cell = self._counters[(family, labels)] = CounterCell(family, labels)
        return cell

    def values_of(self, family: Histogram, *labels: str) -> HistogramCell:
        """The cell of a histogram, for callers that keep it."""
        cell = self._histograms.get((family, labels))
        if cell is None:
            cell = self._histograms[(family, labels)] = HistogramCell(family, labels)
        return cell

    def drop(self, families: Iterable[Histogram]) -> None:
        """Export these histograms no longer."""
        dropped = set(families)
        for family in dropped:
            self._registry.unregister(family)
        self._histograms = {key: cell for key, cell in self._histograms.items() if key[0] not in dropped}

    def flush(self) -> None:
        """Export what was counted; on the event loop."""
        for counter in self._counters.values():
            counter.flush()
        for histogram in self._histograms.values():
            histogram.flush()
