"""Cells show what prometheus_client would have counted itself."""

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram

from gateway.telemetry.cells import CounterCell, HistogramCell, Origin

BOUNDS = (0.5, 1.0, 2.0)
VALUES = st.lists(st.one_of(st.floats(-1, 4, width=16), st.sampled_from(BOUNDS), st.just(float("inf"))), max_size=9)


def samples(registry: CollectorRegistry) -> dict[tuple[str, str], float]:
    found = [sample for family in registry.collect() for sample in family.samples]
    return {(each.name, each.labels.get("le", "")): each.value for each in found if not each.name.endswith("_created")}


@given(st.lists(VALUES, max_size=3))
def test_a_flushed_histogram_has_the_values_that_were_observed(rounds: list[list[float]]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    cell = HistogramCell(Histogram("h", "help", registry=ours, buckets=BOUNDS))
    expected = Histogram("h", "help", registry=theirs, buckets=BOUNDS)
    for values in rounds:
        for value in values:
            cell.observe(value, None)
            expected.observe(value)
        cell.flush()
        cell.flush()  # adds nothing
        assert samples(ours) == samples(theirs)


def test_a_flushed_counter_has_what_was_counted_once() -> None:
    registry = CollectorRegistry()
    cell = CounterCell(Counter("c", "help", ("of",), registry=registry).labels("x"))
    cell.value += 2
    cell.flush()
    cell.flush()
    cell.value += 0.5
    cell.flush()
    assert registry.get_sample_value("c_total", {"of": "x"}) == 2.5


def test_an_exemplar_is_kept_with_its_bucket() -> None:
    registry = CollectorRegistry()
    histogram = Histogram("h", "help", registry=registry, buckets=BOUNDS)
    cell = HistogramCell(histogram)
    cell.observe(0.7, Origin("a", 12.0))
    cell.observe(0.7, None)
    cell.flush()
    [family] = registry.collect()
    [bucket] = [sample for sample in family.samples if sample.labels.get("le") == "1.0"]
    assert bucket.value == 2
    assert bucket.exemplar is not None
    assert (bucket.exemplar.labels, bucket.exemplar.value, bucket.exemplar.timestamp) == ({"trace_id": "a"}, 0.7, 12.0)
