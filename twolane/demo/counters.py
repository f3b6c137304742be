"""Reads the gateway's Prometheus metrics: p50 and p95 per target, fallbacks by reason, lane states."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

DURATION = "twolane_request_duration_seconds"
FALLBACKS = "twolane_fallbacks_total"
LANE_STATE = "twolane_lane_state"
STATES = ("serving", "probing", "ejected")  # by their value


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetCount:
    """Number and latency of the responses of one target.

    Quantiles are interpolated within histogram buckets, so their precision is that of the buckets.
    """

    target: str
    answers: int
    p50_ms: float | None
    p95_ms: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """The metrics that the demo prints.

    `fallbacks` counts by (from, to, reason); `lanes` has the state of each (route, target) with an SLO guard.
    """

    targets: tuple[TargetCount, ...]
    fallbacks: Mapping[tuple[str, str, str], int]
    lanes: Mapping[tuple[str, str], str]

    @property
    def lanes_not_serving(self) -> tuple[str, ...]:
        """A description of each lane that is not serving."""
        return tuple(f"lane {'/'.join(lane)} is {state}" for lane, state in self.lanes.items() if state != STATES[0])


def read_counters(metrics: str) -> Counters:
    """Parse metrics in Prometheus' text format."""
    samples = [sample for family in text_string_to_metric_families(metrics) for sample in family.samples]
    buckets: dict[str, Counter[float]] = defaultdict(Counter)
    for sample in _named(samples, f"{DURATION}_bucket"):
        buckets[sample.labels["target"]][float(sample.labels["le"])] += int(sample.value)
    fallbacks: Counter[tuple[str, str, str]] = Counter()
    for sample in _named(samples, FALLBACKS):
        fallbacks[sample.labels["from"], sample.labels["to"], sample.labels["reason"]] += int(sample.value)
    return Counters(
        targets=tuple(_count(target, buckets[target]) for target in sorted(buckets)),
        fallbacks=fallbacks,
        lanes={
            (sample.labels["route"], sample.labels["target"]): STATES[int(sample.value)]
            for sample in _named(samples, LANE_STATE)
        },
    )


def quantile_s(share: float, cumulative: Mapping[float, int]) -> float | None:
    """Return the quantile of cumulative histogram buckets {upper bound: count}, None if they are empty.

    Interpolates as Prometheus' histogram_quantile does; beyond the last finite bound it returns that bound.
    """
    bounds = sorted(cumulative)
    total = cumulative[bounds[-1]] if bounds else 0
    if total == 0:
        return None
    rank, below_s, below = share * total, 0.0, 0
    for bound in bounds:
        count = cumulative[bound]
        if count >= rank:
            inside = (rank - below) / (count - below) if count > below else 0.0
            return below_s if math.isinf(bound) else below_s + (bound - below_s) * inside
        below_s, below = bound, count
    return below_s


def _named(samples: Iterable[Sample], name: str) -> list[Sample]:
    return [sample for sample in samples if sample.name == name]


def _count(target: str, cumulative: Mapping[float, int]) -> TargetCount:
    p50, p95 = quantile_s(0.5, cumulative), quantile_s(0.95, cumulative)
    return TargetCount(
        target=target,
        answers=cumulative.get(math.inf, 0),
        p50_ms=None if p50 is None else p50 * 1000,
        p95_ms=None if p95 is None else p95 * 1000,
    )
