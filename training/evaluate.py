"""How good and how fast a checkpoint is: `python -m training.evaluate [--check] [--json FILE]`.

Every answer comes from the loop that serves, once by denoising and once by reading the same weights left to right.
Exact match on combinations that were never trained on; nothing is constrained or repaired. Latency is the median over
single requests on one thread, so the ratio of the two readings is what a lone client would see.
"""

import argparse
import json
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
from diffusion_worker.types.generation import DecodingMode, GenerationRequest
from training.asks import ask_for, text_of
from training.edits import Edits, edits
from training.tasks.registry import TASKS
from training.tasks.sample import Sample, Wish

TIMED: Final = 30
AUROC_BAR: Final = 0.90


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One row of the table: a task, its words, whether the canvas starts from the source, and the bar it must clear."""

    task: str
    words: str  # known or invented
    from_source: bool = False
    bar: float | None = None

    @property
    def name(self) -> str:
        """The row's label."""
        return f"{self.task}, {self.words} words" + (", from its source" if self.from_source else "")


CASES: Final = (
    Case(task="extraction", words="known", bar=0.90),
    Case(task="extraction", words="invented"),
    Case(task="sudoku", words="known", bar=0.90),
    Case(task="clean-up", words="known", bar=0.85),
    Case(task="clean-up", words="known", from_source=True),
    Case(task="clean-up", words="invented"),
)
STRANGERS: Final = Case(task="strangers", words="known")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One reading of one case. Passes count canvas steps, or tokens read; latency is in ms."""

    accuracy: float
    passes: float
    latency_ms: float
    converged: float  # share of answers whose blocks all stopped by stability
    right: tuple[bool, ...] = field(repr=False)
    confidences: tuple[float, ...] = field(repr=False)

    def mean_confidence(self, *, right: bool) -> float | None:
        """Mean confidence of the answers that were right, or wrong; None if there is none."""
        chosen = [c for c, ok in zip(self.confidences, self.right, strict=True) if ok is right]
        return statistics.fmean(chosen) if chosen else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A case read both ways."""

    case: Case
    denoised: Outcome
    read: Outcome

    @property
    def speed_ratio(self) -> float:
        """Latency of reading left to right over that of denoising."""
        return self.read.latency_ms / self.denoised.latency_ms

    @property
    def is_cleared(self) -> bool:
        """Is the bar cleared, if there is one?"""
        return self.case.bar is None or self.denoised.accuracy >= self.case.bar


def main() -> int:
    """Command line; returns 1 if `--check` finds a row under its bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default="checkpoints/twolane-tiny", help="folder or hub id")
    parser.add_argument("--count", type=int, default=200, help="samples of each row")
    parser.add_argument("--timed", type=int, default=TIMED, help="samples of each row that latency is measured on")
    parser.add_argument("--check", action="store_true", help="exit 1 if a row is under its bar")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    options = parser.parse_args()
    net = load(options.checkpoint, LoadOptions(threads=1))
    rows = tuple(evaluate(net, case, options.count, timed=options.timed) for case in CASES)
    strangers = evaluate(net, STRANGERS, options.count // 2, timed=options.timed)
    separation = separate([row.denoised for row in (*rows, strangers)])
    edited = edits(net, options.count)
    show(rows, strangers, separation, edited)
    if options.json:
        figures = [asdict(row) | {"speed_ratio": row.speed_ratio} for row in (*rows, strangers)]
        options.json.write_text(
            json.dumps({"rows": figures, "confidence": asdict(separation), "edits": asdict(edited)}, indent=1) + "\n"
        )
    is_cleared = separation.is_cleared and edited.is_cleared and all(row.is_cleared for row in rows)
    return int(options.check and not is_cleared)


def evaluate(net: DiffusionModel, case: Case, count: int, *, timed: int = TIMED) -> Row:
    """Answer `count` held-out samples of the case both ways, and `timed` of them again, one at a time, for latency."""
    wish = Wish(split="test", invented=1.0 if case.words == "invented" else 0.0)
    samples = [TASKS[case.task](random.Random(f"evaluation/{i}"), wish) for i in range(count)]
    denoised = [ask_for(net, s, DecodingMode.DIFFUSION, case.from_source) for s in samples]
    read = [ask_for(net, s, DecodingMode.AUTOREGRESSIVE) for s in samples]
    return Row(case=case, denoised=_outcome(net, samples, denoised, timed), read=_outcome(net, samples, read, timed))


def _outcome(net: DiffusionModel, samples: Sequence[Sample], asks: Sequence[GenerationRequest], timed: int) -> Outcome:
    answers = run(net, asks)
    right = [text_of(answer) == sample.answer for answer, sample in zip(answers, samples, strict=True)]
    usages = [answer.end.usage for answer in answers]
    denoised = asks[0].decoding_mode is DecodingMode.DIFFUSION
    return Outcome(
        accuracy=statistics.fmean(right),
        passes=statistics.fmean(u.denoising_steps if denoised else u.completion_tokens for u in usages),
        latency_ms=_latency_ms(net, asks[:timed]),
        converged=statistics.fmean(bool(usage.converged) for usage in usages) if denoised else 1.0,
        right=tuple(right),
        confidences=tuple(usage.confidence or 0.0 for usage in usages),
    )


def _latency_ms(net: DiffusionModel, asks: Sequence[GenerationRequest]) -> float:
    times = []
    for ask in asks:
        started = time.perf_counter()
        run(net, [ask], max_num_seqs=1)
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times)


@dataclass(frozen=True, slots=True, kw_only=True)
class Separation:
    """How well confidence tells right from wrong answers, known tasks and strangers together."""

    auroc: float  # chance that a right answer is surer than a wrong one, ties counted half
    threshold: float  # the `min_confidence` that serves the most right and the fewest wrong answers
    right_served: float  # share of right answers at or above it
    wrong_served: float

    @property
    def is_cleared(self) -> bool:
        """Is the bar cleared?"""
        return self.auroc >= AUROC_BAR


def separate(outcomes: Sequence[Outcome]) -> Separation:
    """Rank all answers of the outcomes by confidence. The threshold maximises right_served - wrong_served (Youden)."""
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


def show(rows: Sequence[Row], strangers: Row, separation: Separation, edited: Edits) -> None:
    """Print the tables."""
    table = Table(title="Exact match on held-out combinations", title_justify="left")
    for heading in ("", "denoised", "bar", "passes", "ms", "read left to right", "passes", "ms", "faster by"):
        table.add_column(heading, justify="left" if not heading else "right")
    for row in rows:
        table.add_row(
            row.case.name,
            f"[{'green' if row.is_cleared else 'red'}]{row.denoised.accuracy:.1%}",
            "" if row.case.bar is None else f"{row.case.bar:.0%}",
            f"{row.denoised.passes:.1f}",
            f"{row.denoised.latency_ms:.1f}",
            f"{row.read.accuracy:.1%}",
            f"{row.read.passes:.1f}",
            f"{row.read.latency_ms:.1f}",
            f"{row.speed_ratio:.1f} x",
        )
    console = Console(width=None if sys.stdout.isatty() else 130)
    console.print(table)
    sure = Table(title="How sure it is of its denoised answers (mean confidence)", title_justify="left")
    for heading in ("", "right", "wrong", "converged"):
        sure.add_column(heading, justify="left" if not heading else "right")
    for row in (*rows, strangers):
        means = (row.denoised.mean_confidence(right=True), row.denoised.mean_confidence(right=False))
        sure.add_row(
            row.case.name,
            *("" if mean is None else f"{mean:.3f}" for mean in means),
            f"{row.denoised.converged:.0%}",
        )
    console.print(sure)
    console.print(
        f"Right from wrong answers, strangers included: AUROC {separation.auroc:.3f} (bar {AUROC_BAR}). "
        f"min_confidence {separation.threshold:.2f} would serve {separation.right_served:.1%} of the right answers "
        f"and {separation.wrong_served:.1%} of the wrong ones."
    )
    console.print(str(edited))


if __name__ == "__main__":
    sys.exit(main())
