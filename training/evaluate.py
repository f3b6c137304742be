"""Evaluates the accuracy and latency of a checkpoint: `python -m training.evaluate [--check] [--json FILE]`. With
`--gate`, evaluates its confidence instead: precision and recall of what a minimum confidence serves (`training.gate`).

Every sample is completed by the serving loop in every decoding mode, with the same weights. Accuracy is exact match on
combinations that were held out of training, without constraints. Latency is the median over single requests on one
thread, all modes in turn, so the ratio of two modes is what a single client observes. Verified answers must be those of
autoregressive decoding.
"""

import argparse
import json
import math
import random
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from diffusion_worker.engine.loop import run
from diffusion_worker.models.interface import DiffusionModel
from diffusion_worker.models.loader import LoadOptions, load
from diffusion_worker.types.events import Usage
from diffusion_worker.types.requests import DecodingMode, GenerationRequest
from training.edits import Edits, edits
from training.gate.report import evaluate_gate
from training.requests import request_for, text_of
from training.tasks.registry import TASKS
from training.tasks.sample import Sample, SampleSpec

TIMED: Final = 30
ROWS: Final = 32  # in a batch; latency is measured with one
AUROC_BAR: Final = 0.90
VERIFIED_TASKS: Final = ("extraction", "clean-up")  # whose verified answers have bars of cost
VERIFIED_PASSES_BAR: Final = 4.0  # per canvas
VERIFIED_SPEED_BAR: Final = 3.0  # times as fast as autoregressive decoding
TIMED_FOR_A_BAR: Final = 10  # samples; the latency of fewer says nothing on a busy machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One evaluation case: a task, its vocabulary, whether the canvas starts from the source, and its minimum
    accuracy."""

    task: str
    words: str  # known or invented
    from_source: bool = False
    bar: float | None = None

    @property
    def name(self) -> str:
        """The name of the row in the table."""
        return f"{self.task}, {self.words} words" + (", from its source" if self.from_source else "")


CASES: Final = (
    Case(task="extraction", words="known", bar=0.90),
    Case(task="extraction", words="invented"),
    Case(task="sudoku", words="known", bar=0.90),
    Case(task="clean-up", words="known", bar=0.85),
    Case(task="clean-up", words="known", from_source=True),
    Case(task="clean-up", words="invented"),
)
OUT_OF_DISTRIBUTION: Final = Case(task="out-of-distribution", words="known")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Results of one case in one decoding mode. Passes are those after the prompt, without seals; latency is in ms."""

    accuracy: float
    passes: float
    latency_ms: float
    converged: float  # share of answers whose blocks all stopped by stability
    right: tuple[bool, ...] = field(repr=False)
    confidences: tuple[float, ...] = field(repr=False)
    answers: tuple[tuple[int, ...], ...] = field(default=(), repr=False)
    canvases: float = 1.0  # of an answer

    def mean_confidence(self, *, right: bool) -> float | None:
        """Mean confidence of the correct, or incorrect, answers; None if there are none."""
        chosen = [c for c, ok in zip(self.confidences, self.right, strict=True) if ok is right]
        return statistics.fmean(chosen) if chosen else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Results of a case in every decoding mode."""

    case: Case
    denoised: Outcome
    verified: Outcome
    read: Outcome

    @property
    def speed_ratio(self) -> float:
        """Latency of autoregressive decoding divided by that of diffusion."""
        return self.read.latency_ms / self.denoised.latency_ms

    @property
    def verified_speed_ratio(self) -> float:
        """Latency of autoregressive decoding divided by that of verified decoding."""
        return self.read.latency_ms / self.verified.latency_ms

    @property
    def identical(self) -> float:
        """Share of verified answers that are those of autoregressive decoding."""
        pairs = list(zip(self.verified.answers, self.read.answers, strict=True))
        return statistics.fmean(mine == theirs for mine, theirs in pairs) if pairs else 1.0

    @property
    def is_cleared(self) -> bool:
        """Whether the accuracy reaches the bar, if there is one, and verified answers are the right ones in few
        passes."""
        is_right = self.case.bar is None or self.denoised.accuracy >= self.case.bar
        return is_right and self.identical == 1.0 and self._takes_few_passes

    @property
    def _takes_few_passes(self) -> bool:
        return (
            self.case.task not in VERIFIED_TASKS or self.verified.passes / self.verified.canvases <= VERIFIED_PASSES_BAR
        )

    @property
    def is_fast(self) -> bool:
        """Whether verified answers take a fraction of the time of autoregressive ones."""
        return self.case.task not in VERIFIED_TASKS or self.verified_speed_ratio >= VERIFIED_SPEED_BAR


def main() -> int:
    """Run the command line; returns 1 if `--check` finds a result below its bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default="checkpoints/twolane-tiny", help="folder or hub id")
    parser.add_argument("--count", type=int, default=200, help="samples per row")
    parser.add_argument(
        "--timed", type=int, default=TIMED, help="samples per row for the latency; fewer than 10 are not checked"
    )
    parser.add_argument("--check", action="store_true", help="exit with 1 if a result is below its bar")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    parser.add_argument("--gate", action="store_true", help="evaluate the confidence, on strangers too")
    parser.add_argument("--rows", type=int, default=300, help="with --gate: rows of each third of the mix")
    options = parser.parse_args()
    model = load(options.checkpoint, LoadOptions(threads=1))
    if options.gate:
        return evaluate_gate(model, options.rows, json_file=options.json, is_checked=options.check)
    rows = tuple(evaluate(model, case, options.count, timed=options.timed) for case in CASES)
    out_of_distribution = evaluate(model, OUT_OF_DISTRIBUTION, options.count // 2, timed=options.timed)
    separation = separate([row.denoised for row in (*rows, out_of_distribution)])
    edited = edits(model, options.count)
    show(rows, out_of_distribution, separation, edited)
    if options.json:
        figures = [_figures(row) for row in (*rows, out_of_distribution)]
        options.json.write_text(
            json.dumps({"rows": figures, "confidence": asdict(separation), "edits": asdict(edited)}, indent=1) + "\n"
        )
    is_cleared = separation.is_cleared and edited.is_cleared and all(row.is_cleared for row in rows)
    is_cleared = is_cleared and (options.timed < TIMED_FOR_A_BAR or all(row.is_fast for row in rows))
    return int(options.check and not is_cleared)


def evaluate(model: DiffusionModel, case: Case, count: int, *, timed: int = TIMED) -> Row:
    """Evaluate `count` held-out samples of a case in every decoding mode; latency is measured on `timed` of them, one
    at a time."""
    samples = samples_of(case, count)
    requests = {mode: requests_of(model, case, mode, samples) for mode in DecodingMode}
    latencies = _latencies_ms(model, [[each[place] for each in requests.values()] for place in range(timed)])
    outcomes = {
        mode: _outcome(model, samples, requests[mode], latency_ms)
        for mode, latency_ms in zip(requests, latencies, strict=True)
    }
    return Row(
        case=case,
        denoised=outcomes[DecodingMode.DIFFUSION],
        verified=outcomes[DecodingMode.VERIFIED],
        read=outcomes[DecodingMode.AUTOREGRESSIVE],
    )


def samples_of(case: Case, count: int) -> list[Sample]:
    """The first `count` held-out samples of a case."""
    spec = SampleSpec(split="test", invented=1.0 if case.words == "invented" else 0.0)
    return [TASKS[case.task](random.Random(f"evaluation/{i}"), spec) for i in range(count)]


def requests_of(
    model: DiffusionModel, case: Case, mode: DecodingMode, samples: Sequence[Sample]
) -> list[GenerationRequest]:
    """The requests of these samples; autoregressive ones start from nothing."""
    from_source = case.from_source and mode is not DecodingMode.AUTOREGRESSIVE
    return [request_for(model, sample, mode, from_source) for sample in samples]


def _outcome(
    model: DiffusionModel, samples: Sequence[Sample], requests: Sequence[GenerationRequest], latency_ms: float
) -> Outcome:
    answers = run(model, requests, max_num_seqs=ROWS)
    right = [text_of(answer) == sample.answer for answer, sample in zip(answers, samples, strict=True)]
    usages = [answer.end.usage for answer in answers]
    mode, canvas = requests[0].decoding_mode, model.info.denoising.canvas_length
    return Outcome(
        accuracy=statistics.fmean(right),
        passes=statistics.fmean(_passes(usage, mode) for usage in usages),
        latency_ms=latency_ms,
        converged=statistics.fmean(bool(u.converged) for u in usages) if mode is DecodingMode.DIFFUSION else 1.0,
        right=tuple(right),
        confidences=tuple(usage.confidence or 0.0 for usage in usages),
        answers=tuple(answer.ids for answer in answers),
        canvases=statistics.fmean(math.ceil(usage.completion_tokens / canvas) for usage in usages),
    )


def _passes(usage: Usage, mode: DecodingMode) -> int:
    if mode is DecodingMode.VERIFIED:
        return usage.forward_passes - 1  # that of the prompt
    return usage.denoising_steps if mode is DecodingMode.DIFFUSION else usage.completion_tokens


def _latencies_ms(model: DiffusionModel, groups: Sequence[Sequence[GenerationRequest]]) -> list[float]:
    """Median latency of the first, second, ... requests of the groups."""
    times: list[list[float]] = [[] for _ in groups[0]]
    for group in groups:
        for request, taken in zip(group, times, strict=True):
            started = time.perf_counter()
            run(model, [request], max_num_seqs=1)
            taken.append(1000 * (time.perf_counter() - started))
    return [statistics.median(taken) for taken in times]


def _figures(row: Row) -> dict[str, object]:
    """The figures of a row, without its answers."""
    ratios = {"speed_ratio": row.speed_ratio, "verified_speed_ratio": row.verified_speed_ratio}
    figures = {**asdict(row), **ratios, "identical": row.identical}
    for mode in ("denoised", "verified", "read"):
        del figures[mode]["answers"]
    return figures


@dataclass(frozen=True, slots=True, kw_only=True)
class Separation:
    """How well confidence separates correct from incorrect answers, out-of-distribution ones included."""

    auroc: float  # probability that a correct answer has the higher confidence; ties count half
    threshold: float  # the `min_confidence` with the highest right_served - wrong_served
    right_served: float  # share of correct answers at or above it
    wrong_served: float  # share of incorrect answers at or above it

    @property
    def is_cleared(self) -> bool:
        """Whether the AUROC reaches the bar."""
        return self.auroc >= AUROC_BAR


def separate(outcomes: Sequence[Outcome]) -> Separation:
    """Rank all answers by confidence. The threshold maximises right_served - wrong_served (Youden's J, 1950)."""
    right = [c for o in outcomes for c, ok in zip(o.confidences, o.right, strict=True) if ok]
    wrong = [c for o in outcomes for c, ok in zip(o.confidences, o.right, strict=True) if not ok]
    if not right or not wrong:
        return Separation(auroc=1.0 if right else 0.0, threshold=0.0, right_served=float(bool(right)), wrong_served=0.0)
    wins = sum((r > w) + 0.5 * (r == w) for r in right for w in wrong)

    def served(confidences: Sequence[float], threshold: float) -> float:
        return statistics.fmean(c >= threshold for c in confidences)

    threshold = max(sorted(set(right)), key=lambda t: served(right, t) - served(wrong, t))
    return Separation(
        auroc=wins / (len(right) * len(wrong)),
        threshold=threshold,
        right_served=served(right, threshold),
        wrong_served=served(wrong, threshold),
    )


def show(rows: Sequence[Row], out_of_distribution: Row, separation: Separation, edited: Edits) -> None:
    """Print the tables."""
    table = Table(title="Exact match on held-out combinations", title_justify="left")
    headings = ("", "denoised", "bar", "passes", "ms", "speed-up")
    for heading in (*headings, "verified", "identical", "passes", "ms", "speed-up", "autoregr.", "passes", "ms"):
        table.add_column(heading, justify="left" if not heading else "right")
    for row in rows:
        table.add_row(
            row.case.name,
            f"[{'green' if row.is_cleared else 'red'}]{row.denoised.accuracy:.1%}",
            "" if row.case.bar is None else f"{row.case.bar:.0%}",
            f"{row.denoised.passes:.1f}",
            f"{row.denoised.latency_ms:.1f}",
            f"{row.speed_ratio:.1f} x",
            f"{row.verified.accuracy:.1%}",
            f"{row.identical:.1%}",
            f"{row.verified.passes:.1f}",
            f"{row.verified.latency_ms:.1f}",
            f"{row.verified_speed_ratio:.1f} x",
            f"{row.read.accuracy:.1%}",
            f"{row.read.passes:.1f}",
            f"{row.read.latency_ms:.1f}",
        )
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    sure = Table(title="Mean confidence of denoised answers", title_justify="left")
    for heading in ("", "correct", "incorrect", "converged"):
        sure.add_column(heading, justify="left" if not heading else "right")
    for row in (*rows, out_of_distribution):
        means = (row.denoised.mean_confidence(right=True), row.denoised.mean_confidence(right=False))
        sure.add_row(
            row.case.name,
            *("" if mean is None else f"{mean:.3f}" for mean in means),
            f"{row.denoised.converged:.0%}",
        )
    console.print(sure)
    console.print(
        f"Confidence of correct against incorrect answers: AUROC {separation.auroc:.3f} (bar {AUROC_BAR}). "
        f"min_confidence {separation.threshold:.2f} serves {separation.right_served:.1%} of the correct answers "
        f"and {separation.wrong_served:.1%} of the incorrect ones."
    )
    console.print(str(edited))


if __name__ == "__main__":
    sys.exit(main())
