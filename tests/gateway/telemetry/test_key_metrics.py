"""Requests, tokens, cost and refusals are counted by the name of the API key, for a bounded number of names."""

from dataclasses import replace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from gateway.enums import ErrorSource, Outcome
from gateway.telemetry.cells import Cells
from gateway.telemetry.key_metrics import KeyMetrics
from gateway.types import Usage


class Counted:
    """Metrics by key with a registry of their own."""

    def __init__(self, max_keys: int = 3) -> None:
        self._registry = CollectorRegistry()
        self._cells = Cells(self._registry)
        self.keys = KeyMetrics(self._cells, max_keys=max_keys)

    def values(self, name: str) -> dict[tuple[str, ...], float]:
        """The values of a counter by its labels."""
        self._cells.flush()
        found = [sample for family in self._registry.collect() for sample in family.samples if sample.name == name]
        return {tuple(sample.labels.values()): sample.value for sample in found}


def test_a_request_counts_for_its_key(decision: Any) -> None:
    counted = Counted()
    counted.keys.decided(decision())
    counted.keys.decided(decision(principal=None))
    assert counted.values("twolane_key_requests_total") == {("anna", "ok", ""): 1, ("none", "ok", ""): 1}
    tokens = counted.values("twolane_key_tokens_total")
    assert (tokens[("anna", "input")], tokens[("anna", "output")]) == (120, 40)


def test_all_attempts_count_and_estimates_where_a_target_reported_nothing(decision: Any) -> None:
    counted = Counted()
    first, *_, last = decision().attempts
    cost = Usage(input_tokens=1, output_tokens=2, cost=0.25)
    counted.keys.decided(decision(attempts=(replace(first, estimate=cost), replace(last, usage=cost))))
    tokens = counted.values("twolane_key_tokens_total")
    assert (tokens[("anna", "input")], tokens[("anna", "output")]) == (2, 4)
    assert counted.values("twolane_key_cost_dollars_total") == {("anna",): 0.5}


@pytest.mark.parametrize(("source", "limited"), [(ErrorSource.CLIENT, 1), (ErrorSource.TARGET, 0)])
def test_a_refusal_for_a_limit_of_the_key_is_told_from_that_of_a_provider(
    decision: Any, source: ErrorSource, limited: int
) -> None:
    counted = Counted()
    refused = {"outcome": Outcome.ERROR, "attempts": (), "target": None}
    counted.keys.decided(decision(**refused, status=429, error_source=source))
    counted.keys.decided(decision(**refused, status=400, error_source=source))
    assert counted.values("twolane_key_rate_limited_total") == {("anna",): limited}
    assert counted.values("twolane_key_requests_total") == {("anna", "error", source.value): 2}


def test_refusals_without_a_decision_are_counted_and_start_at_zero(decision: Any) -> None:
    counted = Counted()
    counted.keys.decided(decision())
    assert counted.values("twolane_key_rate_limited_total") == {("anna",): 0}
    counted.keys.rate_limited("anna")
    counted.keys.rate_limited(None)
    assert counted.values("twolane_key_rate_limited_total") == {("anna",): 1, ("none",): 1}


def test_thousands_of_keys_are_a_bounded_number_of_series(decision: Any) -> None:
    """Requests without a key are never among the others."""
    counted = Counted(max_keys=3)
    for number in range(1000):
        counted.keys.decided(decision(principal=f"key-{number}"))
    counted.keys.decided(decision(principal=None))
    counted.keys.decided(decision(principal="key-1"))
    values = counted.values("twolane_key_requests_total")
    assert values == {
        ("key-0", "ok", ""): 1,
        ("key-1", "ok", ""): 2,
        ("key-2", "ok", ""): 1,
        ("other", "ok", ""): 997,
        ("none", "ok", ""): 1,
    }
