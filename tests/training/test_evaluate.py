"""The evaluation of the shipped checkpoint: its figures come from the serving loop, and its bars can fail."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from training.evaluate import CASES, Case, Outcome, Row, separate

ROOT = Path(__file__).parents[2]


def sure(right: tuple[bool, ...], confidences: tuple[float, ...]) -> Outcome:
    """An outcome with the given confidences; its other fields do not matter."""
    return Outcome(accuracy=0.0, passes=1.0, latency_ms=1.0, converged=1.0, right=right, confidences=confidences)


def test_a_threshold_between_right_and_wrong_answers_separates_them_wholly() -> None:
    """The threshold serves every correct answer and no incorrect one."""
    found = separate([sure((True, False), (0.9, 0.2)), sure((True, False), (0.8, 0.7))])
    assert (found.auroc, found.threshold, found.right_served, found.wrong_served) == (1.0, 0.8, 1.0, 0.0)


def test_confidence_that_says_nothing_has_an_auroc_of_a_half() -> None:
    """Ties count half, and such a checkpoint does not clear its bar."""
    found = separate([sure((True, False, True, False), (0.5, 0.5, 0.5, 0.5))])
    assert found.auroc == 0.5
    assert not found.is_cleared


def row(accuracy: float, bar: float | None) -> Row:
    """A row of that accuracy."""
    outcome = Outcome(
        accuracy=accuracy,
        passes=2.0,
        latency_ms=10.0,
        converged=1.0,
        right=(),
        confidences=(),
    )
    return Row(case=Case(task="sudoku", words="known", bar=bar), denoised=outcome, verified=outcome, read=outcome)


def test_a_row_under_its_bar_is_not_cleared() -> None:
    """A row without a bar always is."""
    assert row(0.90, 0.90).is_cleared
    assert not row(0.89, 0.90).is_cleared
    assert row(0.0, None).is_cleared


def test_verified_answers_must_be_those_of_autoregressive_decoding_at_their_cost() -> None:
    read = replace(row(1.0, None).read, answers=((1, 2), (3,)), latency_ms=40.0)
    fast = replace(read, passes=7.0, canvases=2.0, latency_ms=10.0)
    found = Row(case=Case(task="extraction", words="known"), denoised=read, verified=fast, read=read)
    assert (found.identical, found.verified_speed_ratio) == (1.0, 4.0)
    assert found.is_cleared
    for change in ({"answers": ((1, 2), (4,))}, {"passes": 8.5}):
        assert not replace(found, verified=replace(fast, **change)).is_cleared
    assert found.is_fast
    assert not replace(found, verified=replace(fast, latency_ms=14.0)).is_fast


def test_the_bars_are_those_that_were_promised() -> None:
    """Known words: extraction and Sudoku 90 %, clean-up 85 %."""
    assert {case.task: case.bar for case in CASES if case.bar} == {"extraction": 0.9, "sudoku": 0.9, "clean-up": 0.85}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_shipped_checkpoint_clears_its_bars(tmp_path: Path) -> None:
    """Also the card's central claim: diffusion is faster than autoregressive decoding, and out-of-distribution answers
    have low confidence."""
    figures = tmp_path / "figures.json"
    command = [sys.executable, "-m", "training.evaluate", "--count", "24", "--timed", "1", "--check"]  # a batch
    outcome = subprocess.run([*command, "--json", str(figures)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    rows = json.loads(figures.read_text())["rows"]
    barred = [r for r in rows if r["case"]["bar"] is not None]
    assert len(barred) == 3
    assert all(r["denoised"]["passes"] < r["read"]["passes"] for r in barred)
    out_of_distribution = next(r for r in rows if r["case"]["task"] == "out-of-distribution")
    assert sum(c < 0.8 for c in out_of_distribution["denoised"]["confidences"]) >= 0.95 * len(
        out_of_distribution["denoised"]["confidences"]
    )
