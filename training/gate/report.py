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
    MOST_RIGHT,
    PRECISION_BAR,
    RECALL_BAR,
    Figures,
    Rejected,
    answered,
    by_part,
    rejected_with_gate,
    table_of,
)
from training.gate.mix import MEASURING
from training.gate.rows import Row


def evaluate_gate(model: DiffusionModel, per_third: int, *, json_file: Path | None, is_checked: bool) -> int:
    """Print precision and recall of the gate, overall and by part, one decoding mode after another; with `is_checked`,
    return 1 if a mode is below its bars, or if a hopeless answer used more than its first canvas."""
    console = Console(width=None if sys.stdout.isatty() else 130)
    rows, width = MEASURING.rows(per_third), model.info.denoising.canvas_length
    document: dict[str, dict[str, object]] = {"gate": {}, "rejected": {}}
    is_cleared = True
    for mode in DecodingMode:
        measured, rejected = _measure(model, rows, mode)
        console.print(table_of(f"Answers with a confidence of at least {MIN_CONFIDENCE}, {mode}", measured))
        bars = f"precision {PRECISION_BAR:.0%}, recall {RECALL_BAR:.0%}"
        console.print(f"Bars: {bars}: {'reached' if measured[0].is_cleared else 'missed'}.")
        console.print(_text_of(rejected, width))
        is_cleared = is_cleared and _is_cleared(measured[0], rejected, width)
        document["gate"][mode.value] = [asdict(each) for each in measured]
        document["rejected"][mode.value] = [asdict(each) for each in rejected]
        if json_file:
            json_file.write_text(json.dumps(document, indent=1) + "\n")
    return int(is_checked and not is_cleared)


def _measure(model: DiffusionModel, rows: Sequence[Row], mode: DecodingMode) -> tuple[list[Figures], list[Rejected]]:
    """The figures of all answers, and how the rejected ones end as soon as it is known that they do not pass."""
    answers = answered(model, rows, mode)
    return by_part(answers), rejected_with_gate(model, [each.row for each in answers if not each.is_served], mode)


def _is_cleared(whole: Figures, rejected: Sequence[Rejected], width: int) -> bool:
    return whole.is_cleared and whole.precision_without <= MOST_RIGHT and not _later(rejected, width)


def _text_of(rejected: Sequence[Rejected], width: int) -> str:
    passes = [each.passes for each in rejected]
    mean, most = statistics.fmean(passes) if passes else 0.0, max(passes, default=0)
    return (
        f"{len(rejected)} rejected answers end after {mean:.1f} passes on average, {most} at most;"
        f" {len(_later(rejected, width))} of them after their first canvas."
    )


def _later(rejected: Sequence[Rejected], width: int) -> list[Rejected]:
    """Those that had completed the tokens of a whole canvas."""
    return [each for each in rejected if each.tokens >= width]
