"""Reports the gate of a checkpoint on the mix for measuring, in every decoding mode."""

import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from diffusion_worker.models.interface import DiffusionModel
from diffusion_worker.types.requests import DecodingMode
from training.gate.measure import (
    MIN_CONFIDENCE,
    PRECISION_BAR,
    RECALL_BAR,
    Answered,
    answered,
    by_part,
    steps_with_gate,
    table_of,
)
from training.gate.mix import MEASURING
from training.gate.rows import Row


def evaluate_gate(model: DiffusionModel, per_third: int, *, json_file: Path | None, is_checked: bool) -> int:
    """Print precision and recall of the gate, overall and by part; with `is_checked`, return 1 if a mode is below its
    bars, or if a hopeless answer used more than its first canvas."""
    console = Console(width=None if sys.stdout.isatty() else 130)
    rows = MEASURING.rows(per_third)
    found = {mode: answered(model, rows, mode) for mode in DecodingMode}
    parts = {mode: by_part(answers) for mode, answers in found.items()}
    for mode, measured in parts.items():
        console.print(table_of(f"Answers with a confidence of at least {MIN_CONFIDENCE}, {mode}", measured))
        bars = f"precision {PRECISION_BAR:.0%}, recall {RECALL_BAR:.0%}"
        console.print(f"Bars: {bars}: {'reached' if measured[0].is_cleared else 'missed'}.")
    steps = _rejected_steps(model, rows, found[DecodingMode.DIFFUSION])
    mean, most = statistics.fmean(steps) if steps else 0.0, max(steps, default=0)
    console.print(
        f"{len(steps)} rejected answers end after {mean:.1f} denoising steps on average, {most} at most; a canvas has"
        f" {model.info.denoising.steps}."
    )
    if json_file:
        figures = {mode.value: [asdict(each) for each in measured] for mode, measured in parts.items()}
        json_file.write_text(json.dumps({"gate": figures, "rejected_steps": steps}, indent=1) + "\n")
    is_cleared = all(measured[0].is_cleared for measured in parts.values())
    return int(is_checked and not (is_cleared and most <= model.info.denoising.steps))


def _rejected_steps(model: DiffusionModel, rows: Sequence[Row], answers: Sequence[Answered]) -> list[int]:
    """Denoising steps of the answers that the gate rejects, when they end as soon as it is known."""
    return steps_with_gate(model, [row for row, answer in zip(rows, answers, strict=True) if not answer.is_served])
