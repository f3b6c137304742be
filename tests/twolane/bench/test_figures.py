"""Statistics of a load count every sample once, and only successful requests have a latency."""

import io

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from twolane.bench.figures import PERCENTILES, figures, percentile, summarise
from twolane.bench.load import OK, Sample
from twolane.bench.plan import Call, Prompt
from twolane.bench.report import table


def sample(due_s: float = 0.0, *, took_s: float = 1.0, outcome: str = OK, **headers: str) -> Sample:
    return Sample(
        call=Call(due_s=due_s, prompt=Prompt(body={})),
        sent_s=due_s,
        first_s=None,
        ended_s=due_s + took_s,
        outcome=outcome,
        tokens=5,
        headers=headers,
    )


@given(st.lists(st.floats(0.0, 1e3), min_size=1, max_size=200), st.floats(0.1, 100.0))
def test_a_percentile_is_a_sample_that_its_share_of_samples_does_not_exceed(values: list[float], share: float) -> None:
    found = percentile(sorted(values), share)
    assert found in values
    assert sum(value <= found for value in values) >= share / 100 * len(values) - 1e-9
    assert sum(value < found for value in values) <= share / 100 * len(values) + 1e-9


@given(st.lists(st.floats(0.0, 1e3), max_size=50))
def test_percentiles_ascend_up_to_the_largest(values: list[float]) -> None:
    found = summarise(values)
    assert found.count == len(values)
    if values:
        ascending = [found.percentiles_ms[share] for share in PERCENTILES] + [found.max_ms]
        assert ascending == sorted(ascending)


def test_errors_are_counted_by_code_and_have_no_latency() -> None:
    found = figures([sample(), sample(took_s=9.0, outcome="overloaded"), sample(1.0)])
    assert (found.sent, found.answered, found.errors) == (3, 2, {"overloaded": 1})
    assert found.latency.max_ms == 1000.0
    assert found.tokens_per_s == 10 / found.seconds


def test_lanes_and_fallbacks_are_read_from_the_headers() -> None:
    found = figures(
        [sample(route="edits", target="fast"), sample(route="edits", target="quality", fallback="deadline"), sample()]
    )
    assert {lane: times.count for lane, times in found.lanes.items()} == {"edits -> fast": 1, "edits -> quality": 1}
    assert found.fallbacks == {"deadline": 1}


def test_on_eighty_columns_no_number_is_truncated() -> None:
    slow = [sample(took_s=123.456, route="a route with a long name", target="a target with a long name")] * 20
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(table(figures(slow)))
    shown = console.export_text()
    assert "…" not in shown
    assert shown.count("123456") == 2 * (1 + len(PERCENTILES) + 1)


def test_statistics_of_no_samples_are_empty() -> None:
    assert figures([]).success == 0.0
