"""The evaluation of the shipped checkpoint: its figures come from the loop that serves, and its bars are real."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from training.evaluate import CASES, Case, Outcome, Row

ROOT = Path(__file__).parents[2]


def row(accuracy: float, bar: float | None) -> Row:
    """A row of that accuracy."""
    outcome = Outcome(
        accuracy=accuracy,
        passes=2.0,
        latency_ms=10.0,
        converged=1.0,
        confidence_right=1.0,
        confidence_wrong=None,
        confidences=(),
    )
    return Row(case=Case(task="sudoku", words="known", bar=bar), denoised=outcome, read=outcome)


def test_a_row_under_its_bar_is_not_cleared() -> None:
    """A row without a bar always is."""
    assert row(0.90, 0.90).is_cleared
    assert not row(0.89, 0.90).is_cleared
    assert row(0.0, None).is_cleared


def test_the_bars_are_those_that_were_promised() -> None:
    """Known words: extraction and Sudoku 90 %, clean-up 85 %."""
    assert {case.task: case.bar for case in CASES if case.bar} == {"extraction": 0.9, "sudoku": 0.9, "clean-up": 0.85}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_shipped_checkpoint_clears_its_bars(tmp_path: Path) -> None:
    """Also the card's central claim: denoising is quicker than reading the same weights, and strangers are doubted."""
    figures = tmp_path / "figures.json"
    command = [sys.executable, "-m", "training.evaluate", "--count", "100", "--check", "--json", str(figures)]
    outcome = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    rows = json.loads(figures.read_text())
    barred = [r for r in rows if r["case"]["bar"] is not None]
    assert len(barred) == 3
    assert all(r["denoised"]["passes"] < r["read"]["passes"] for r in barred)
    strangers = next(r for r in rows if r["case"]["task"] == "strangers")
    assert sum(c < 0.8 for c in strangers["denoised"]["confidences"]) >= 0.95 * len(
        strangers["denoised"]["confidences"]
    )
