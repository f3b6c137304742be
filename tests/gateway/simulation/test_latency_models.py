"""Fitted models reproduce their log, assumed models their parameters."""

from random import Random
from statistics import median, quantiles
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.enums import Reason
from gateway.simulation.latency_models import TargetModel, assumed, fit
from gateway.simulation.traffic import LoggedAttempt, LoggedRequest, read_log


def log_of(line: Any, log_file: Any, count: int = 2000, *, seed: int = 1, faulty: float = 0.0) -> list[LoggedRequest]:
    """`fast` takes 50 ms + 0.1 ms per token in + 2 ms per token out, 20 % up or down; a dollar a thousand tokens."""
    dice, lines = Random(seed), []
    for number in range(count):
        sent, written = dice.randrange(10, 2000), dice.randrange(1, 200)
        took_ms = (50 + 0.1 * sent + 2 * written) * dice.lognormvariate(0, 0.2)
        outcome = "invalid_output" if dice.random() < faulty else "ok"
        sizes = {"input_tokens": sent, "output_tokens": written, "cost": (sent + written) / 1000, "schema": "sha256:1"}
        lines.append(line(number, [("fast", 1.0, 1.0 + took_ms, outcome)], **sizes))
    return read_log(log_file(*lines))


def sample_fault(model: TargetModel, sent: int, written: int, count: int = 1000) -> list[float]:
    return [model.latency_ms(sent, written, (number + 0.5) / count)[1] for number in range(count)]


def test_a_fit_finds_time_per_token_and_variation(line: Any, log_file: Any) -> None:
    model = fit(log_of(line, log_file))["fast"]
    assert model.seen == 2000
    assert model.whole.per_output_ms == pytest.approx(2, rel=0.1)
    assert model.whole.per_input_ms == pytest.approx(0.1, rel=0.2)
    times = sample_fault(model, 1000, 100)
    assert median(times) == pytest.approx(350, rel=0.05)
    assert quantiles(times, n=20)[18] == pytest.approx(350 * 1.39, rel=0.06)  # exp(0.2 x 1.645)
    assert model.dollars_per_token == pytest.approx(1e-3)


def test_a_fit_counts_failures_with_and_without_a_schema(line: Any, log_file: Any) -> None:
    model = fit(log_of(line, log_file, 500, faulty=0.2))["fast"]
    assert model.faults[False].reasons == ()
    assert model.faults[True].reasons == (Reason.INVALID_OUTPUT,)
    assert model.faults[True].until[0] == pytest.approx(0.2, abs=0.06)
    assert model.faults[True].sample_fault(0.0)[0] is Reason.INVALID_OUTPUT
    assert model.faults[True].sample_fault(0.9) == (None, 0.0)


def test_skips_are_ignored_and_failures_alone_make_no_model(line: Any, log_file: Any) -> None:
    told = line(1, [("ejected", 0.2, 0.2, "p95_breach"), ("broken", 0.2, 5, "upstream_error"), ("quality", 5, 99)])
    assert set(fit(read_log(log_file(told)))) == {"quality"}


def test_an_abandoned_attempt_is_a_lower_bound(line: Any, log_file: Any) -> None:
    quick = [line(n, [("fast", 0, 100)]) for n in range(10)]
    lost = [line(n, [("fast", 0, 900, "hedge"), ("quality", 400, 901)]) for n in range(10, 20)]
    model = fit(read_log(log_file(*quick, *lost)))["fast"]
    assert max(sample_fault(model, 100, 20)) == pytest.approx(900, rel=0.01)


def test_an_assumed_latency_has_its_median_and_a_tail() -> None:
    times = sample_fault(assumed(100, 2), 50, 10)
    assert median(times) == pytest.approx(120, rel=0.01)
    assert quantiles(times, n=20)[18] == pytest.approx(120 * 1.51, rel=0.02)


sizes = st.integers(0, 100_000)


@given(
    rows=st.lists(st.tuples(sizes, sizes, st.floats(0.01, 1e6), st.floats(0, 1)), min_size=1, max_size=20),
    sent=sizes, written=sizes, sample=st.floats(0, 1, exclude_max=True),
)  # fmt: skip
def test_fitted_latencies_are_positive_and_ordered(
    line: Any, rows: list[tuple[int, int, float, float]], sent: int, written: int, sample: float
) -> None:
    log = [
        LoggedRequest(
            time=None, task="edit", confidence=1, evidence="", route="r", outcome="ok", total_ms=took_ms,
            input_tokens=taken, output_tokens=given_, target="t",
            attempts=(
                LoggedAttempt(
                    target="t", started_ms=1, ended_ms=1 + took_ms, outcome="ok", first_byte_ms=1 + part * took_ms
                ),
            ),
        )
        for taken, given_, took_ms, part in rows
    ]  # fmt: skip
    first_ms, whole_ms = fit(log)["t"].latency_ms(sent, written, sample)
    assert 0 < first_ms <= whole_ms < float("inf")
