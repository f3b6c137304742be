"""Statistics of a load: percentiles, counts and rates over its samples. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import ceil
from typing import Final

from twolane.bench.load import OK, Sample

PERCENTILES: Final = (50.0, 90.0, 95.0, 99.0, 99.9)
LATE_S: Final = 0.05  # a request sent later than this means that the load generator itself was too slow


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencySummary:
    """Mean, maximum and percentiles in milliseconds, of `count` samples. No percentiles without samples."""

    count: int
    mean_ms: float
    max_ms: float
    percentiles_ms: Mapping[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Statistics of a load. Latencies are those of successful requests; errors are only counted."""

    sent: int
    answered: int
    seconds: float
    requests_per_s: float
    tokens_per_s: float
    latency: LatencySummary
    first_token: LatencySummary
    late: int
    errors: Mapping[str, int]
    fallbacks: Mapping[str, int]
    lanes: Mapping[str, LatencySummary]  # latency by "route -> target"

    @property
    def success(self) -> float:
        """Share of requests that succeeded."""
        return self.answered / self.sent if self.sent else 0.0


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest of the ascending values that `share` percent of them do not exceed (nearest rank)."""
    return ordered[max(0, ceil(share / 100 * len(ordered)) - 1)]


def summarise(seconds: Iterable[float]) -> LatencySummary:
    """Summarise latencies given in seconds."""
    ordered = sorted(1000 * value for value in seconds)
    if not ordered:
        return LatencySummary(count=0, mean_ms=0.0, max_ms=0.0, percentiles_ms={})
    return LatencySummary(
        count=len(ordered),
        mean_ms=sum(ordered) / len(ordered),
        max_ms=ordered[-1],
        percentiles_ms={share: percentile(ordered, share) for share in PERCENTILES},
    )


def figures(samples: Sequence[Sample]) -> Figures:
    """Return the statistics of all samples so far."""
    good = [sample for sample in samples if sample.outcome == OK]
    seconds = max((sample.ended_s for sample in samples), default=0.0)
    firsts = [sample.first_token_s for sample in good if sample.first_token_s is not None]
    return Figures(
        sent=len(samples),
        answered=len(good),
        seconds=seconds,
        requests_per_s=len(good) / seconds if seconds else 0.0,
        tokens_per_s=sum(sample.tokens or 0 for sample in good) / seconds if seconds else 0.0,
        latency=summarise(sample.latency_s for sample in good),
        first_token=summarise(firsts),
        late=sum(sample.sent_s - sample.call.due_s > LATE_S for sample in samples),
        errors=dict(Counter(sample.outcome for sample in samples if sample.outcome != OK).most_common()),
        fallbacks=dict(Counter(sample.headers["fallback"] for sample in samples if "fallback" in sample.headers)),
        lanes=_lanes(good),
    )


def _lanes(good: Sequence[Sample]) -> dict[str, LatencySummary]:
    ordered = sorted((sample for sample in good if "target" in sample.headers), key=_lane)
    return {lane: summarise(sample.latency_s for sample in group) for lane, group in groupby(ordered, key=_lane)}


def _lane(sample: Sample) -> str:
    return f"{sample.headers.get('route', 'none')} -> {sample.headers['target']}"
