"""A sliding window of counts and latencies, in twelve slices, with a quantile sketch.

Callers pass the time (`now_s`) and whether an answer was over the objective. Counts of replicas merge exactly, because
a slice is identified by its time.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from math import ceil, exp, log
from typing import Final

from gateway.reliability.replication import TallySnapshot
from twolane.process.records import record

SLICES: Final = 12

# Relative error of a reported latency. The bucket bounds grow by (1 + e) / (1 - e), so the value reported for a
# bucket is within e of everything in it (DDSketch, Masson, Rim and Lee 2019).
_ERROR: Final = 0.02
_GROWTH: Final = log((1 + _ERROR) / (1 - _ERROR))
_AT_ONCE: Final = 128  # latencies that are sorted into buckets together
_LEAST_MS: Final = 1e-3
_MOST_MS: Final = 1e9


@record
class Counts:
    """The number of answers, and how many of them were over the objective."""

    total: int = 0
    over: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """One twelfth of a window, as exchanged between replicas; `index` is floor(time / slice length)."""

    index: int
    counts: Counts
    latencies: Mapping[int, int]


class Window:
    """A mutable sliding window; every method advances it to `now_s` first. `add` takes about a microsecond."""

    __slots__ = ("_current", "_newest", "_slice_s", "_slices", "_total", "_until_s", "over")

    def __init__(self, window_s: float) -> None:
        self._slice_s = window_s / SLICES
        self._slices: dict[int, _Tally] = {}
        self._newest = 0
        self._until_s = self._slice_s  # the end of the newest slice
        self._current: _Tally | None = None  # of that, once it has one
        self._total = 0
        self.over = 0  # as of the last call: what has expired since then still counts

    def add(self, now_s: float, latency_ms: float, *, over: bool) -> None:
        """Count one answer. For an abandoned attempt, `latency_ms` is its duration so far, a lower bound."""
        if now_s >= self._until_s:
            self._advance(now_s)
        tally = self._current
        if tally is None:
            tally = self._current = self._tally_at(self._newest)
        tally.total += 1
        self._total += 1
        if over:
            tally.over += 1
            self.over += 1
        tally.recent.append(latency_ms)
        if len(tally.recent) >= _AT_ONCE:
            tally.sort_in()

    def counts(self, now_s: float) -> Counts:
        """The counts in the window."""
        self._advance(now_s)
        return Counts(total=self._total, over=self.over)

    def quantile(self, now_s: float, share: float) -> float | None:
        """The quantile `share` of the latencies in ms, within 2 %; None if there are too few.

        At least one latency must be expected above the quantile: a p95 needs twenty latencies.
        """
        self._advance(now_s)
        merged: dict[int, int] = {}
        for tally in self._slices.values():
            for bucket, count in tally.sort_in().items():
                merged[bucket] = merged.get(bucket, 0) + count
        return quantile(merged, share)

    def slices(self, now_s: float) -> tuple[Slice, ...]:
        """The window's content, oldest first, for another replica to `merge`."""
        self._advance(now_s)
        return tuple(
            Slice(index=index, counts=Counts(total=tally.total, over=tally.over), latencies=dict(tally.sort_in()))
            for index, tally in sorted(self._slices.items())
        )

    def merge(self, now_s: float, slices: Iterable[Slice]) -> None:
        """Add another replica's slices. Expired ones are ignored; ones from a clock ahead of ours count as now."""
        newest = self._advance(now_s)
        for other in slices:
            if other.index > newest - SLICES:
                tally = self._tally_at(min(other.index, newest))
                tally.total += other.counts.total
                tally.over += other.counts.over
                self._total += other.counts.total
                self.over += other.counts.over
                for bucket, count in other.latencies.items():
                    tally.latencies[bucket] = tally.latencies.get(bucket, 0) + count

    def tallies(self, now_s: float) -> tuple[TallySnapshot, ...]:
        """The window's counts by age, for replicas with unrelated clocks."""
        self._advance(now_s)
        return tuple(
            TallySnapshot(age_s=now_s - (index + 0.5) * self._slice_s, total=tally.total, over=tally.over)
            for index, tally in sorted(self._slices.items())
        )

    def merge_tallies(self, now_s: float, written_s: float, tallies: Iterable[TallySnapshot]) -> None:
        """Add another replica's counts, to within half a slice; `written_s` is when they were written, by our clock."""
        self.merge(
            now_s,
            (
                Slice(
                    index=int((written_s - tally.age_s) // self._slice_s),
                    counts=Counts(total=tally.total, over=tally.over),
                    latencies={},
                )
                for tally in tallies
            ),
        )

    def clear(self) -> None:
        """Remove all slices."""
        self._slices.clear()
        self._current = None
        self._total = self.over = 0

    def _tally_at(self, index: int) -> "_Tally":
        tally = self._slices.get(index)
        if tally is None:
            tally = self._slices[index] = _Tally()
        return tally

    def _advance(self, now_s: float) -> int:
        """Drop expired slices; return the slice of `now_s`, or the newest if the clock went back."""
        index = int(now_s // self._slice_s)
        if index <= self._newest:
            return self._newest
        self._newest, self._until_s, self._current = index, (index + 1) * self._slice_s, None
        for old in [each for each in self._slices if each <= index - SLICES]:
            expired = self._slices.pop(old)
            self._total -= expired.total
            self.over -= expired.over
        return index


class _Tally:
    __slots__ = ("latencies", "over", "recent", "total")

    def __init__(self) -> None:
        self.total = 0
        self.over = 0
        self.latencies: dict[int, int] = {}  # answers by bucket, without
        self.recent: list[float] = []  # those that are not sorted in yet

    def sort_in(self) -> dict[int, int]:
        """The answers by bucket. Only whoever looks at them needs the buckets."""
        latencies = self.latencies
        for latency_ms in self.recent:
            is_inside = _LEAST_MS <= latency_ms <= _MOST_MS
            bucket = ceil(log(latency_ms) / _GROWTH) if is_inside else bucket_of(latency_ms)
            latencies[bucket] = latencies.get(bucket, 0) + 1
        self.recent.clear()
        return latencies


def bucket_of(latency_ms: float) -> int:
    """The logarithmic bucket of a latency; out-of-range values go to the outermost buckets."""
    return ceil(log(min(max(latency_ms, _LEAST_MS), _MOST_MS)) / _GROWTH)


def quantile(latencies: Mapping[int, int], share: float) -> float | None:
    """A quantile in ms from bucket counts; None if no sample is expected above it."""
    total = sum(latencies.values())
    if total * (1 - share) < 1 - 1e-9:
        return None
    buckets = sorted(latencies)
    seen = accumulate(latencies[bucket] for bucket in buckets)
    rank = ceil(share * total - 1e-9)
    return _value_of(next(bucket for bucket, count in zip(buckets, seen, strict=True) if count >= rank))


def _value_of(bucket: int) -> float:
    """The value with the same relative distance to both bounds of the bucket."""
    return 2 * exp(bucket * _GROWTH) / (1 + exp(_GROWTH))
