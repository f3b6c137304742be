"""The gateway's metrics are parsed as Prometheus parses them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from twolane.demo.counters import Counters, quantile_s, read_counters


def metrics() -> str:
    registry = CollectorRegistry()
    duration = Histogram(
        "twolane_request_duration_seconds", "", ("route", "target"), registry=registry, buckets=(0.1, 0.2, 0.4)
    )
    for route, seconds in [("edits", 0.05), ("edits", 0.15), ("constrained", 0.15), ("constrained", 0.3)]:
        duration.labels(route, "fast").observe(seconds)
    duration.labels("default", "quality").observe(9.0)
    fallbacks = Counter("twolane_fallbacks", "", ("route", "from", "to", "reason"), registry=registry)
    for route in ("edits", "constrained"):
        fallbacks.labels(route, "fast", "quality", "deadline").inc(2)
    lanes = Gauge("twolane_lane_state", "", ("route", "target"), registry=registry)
    lanes.labels("edits", "fast").set(0)
    lanes.labels("constrained", "fast").set(2)
    return generate_latest(registry).decode()


def test_targets_are_counted_over_all_routes() -> None:
    counters = read_counters(metrics())
    fast, quality = counters.targets
    assert (fast.target, fast.answers) == ("fast", 4)
    assert fast.p50_ms == pytest.approx(150)
    assert fast.p95_ms == pytest.approx(360)
    assert (quality.target, quality.answers) == ("quality", 1)


def test_a_quantile_beyond_the_last_bound_is_that_bound() -> None:
    assert read_counters(metrics()).targets[1].p95_ms == pytest.approx(400)


def test_fallbacks_are_counted_by_reason() -> None:
    assert read_counters(metrics()).fallbacks == {("fast", "quality", "deadline"): 4}


def test_lanes_that_are_not_serving_are_reported() -> None:
    counters = read_counters(metrics())
    assert counters.lanes == {("edits", "fast"): "serving", ("constrained", "fast"): "ejected"}
    assert counters.lanes_not_serving == ("lane constrained/fast is ejected",)


def test_empty_metrics_count_nothing() -> None:
    assert read_counters("") == Counters(targets=(), fallbacks={}, lanes={})
    assert quantile_s(0.5, {}) is None
    assert quantile_s(0.5, {1.0: 0, math.inf: 0}) is None


@given(st.lists(st.floats(0.001, 0.399), min_size=1, max_size=50), st.floats(0.01, 1.0))
def test_a_quantile_lies_in_the_bucket_of_the_true_one(values: list[float], share: float) -> None:
    bounds = [0.1, 0.2, 0.3, 0.4, math.inf]
    cumulative = {bound: sum(value <= bound for value in values) for bound in bounds}
    true = sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
    found = quantile_s(share, cumulative)
    upper = next(bound for bound in bounds if true <= bound)
    assert found is not None
    assert upper - 0.1 - 1e-9 <= found <= upper + 1e-9
