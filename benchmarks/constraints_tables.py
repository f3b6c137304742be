"""Tables of the figures of `benchmarks.constraints`."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.constraints_embedded import ROWS, Embedded
from benchmarks.constraints_rows import CANVAS, Refusal, Row
from benchmarks.constraints_tasks import Method

WIDTH: Final = 200


def percentile(values: Sequence[float], share: float) -> float:
    """The percentile; NaN without values."""
    return float(np.percentile(values, share)) if values else float("nan")


def splits_table(rows: Sequence[Row], refusals: Sequence[Refusal]) -> Table:
    """Print one line per split and one for all. Times are in ms, costs relative to a softmax of the same logits."""
    table = Table(
        *("split", "schemas", "compiled", "with validation", "refused"),
        *("ms p50 / p95 / max", "states p50 / max", "edges p50 / max"),
        *("answers", "invalid", "checked after", "best p50 / p95", "marginals p50 / p95"),
    )
    for split in (*sorted({row.split for row in rows} | {refusal.split for refusal in refusals}), None):
        table.add_row(
            split or "all",
            *_line(
                [row for row in rows if split in (None, row.split)],
                [refusal for refusal in refusals if split in (None, refusal.split)],
            ),
        )
    return table


def _line(rows: Sequence[Row], refusals: Sequence[Refusal]) -> list[str]:
    keywords = [refusal.keyword for refusal in refusals]
    refused = ", ".join(f"{keyword} {keywords.count(keyword)}" for keyword in sorted(set(keywords)))
    ready = [row.total_ms for row in rows]
    best, marginals = [row.step.best_share for row in rows], [row.step.marginals_share for row in rows]
    return [
        str(len(rows) + len(refusals)),
        str(sum(not row.has_check for row in rows)),
        str(sum(row.has_check for row in rows)),
        refused,
        _of(ready, 50, 95, 100, form=".0f"),
        _of([float(row.states) for row in rows], 50, 100, form=",.0f"),
        _of([float(row.edges) for row in rows], 50, 100, form=",.0f"),
        str(sum(row.answers for row in rows)),
        str(sum(len(row.invalid) for row in rows)),
        str(sum(row.left_to_check for row in rows)),
        _of(best, 50, 95, form=".2f"),
        _of(marginals, 50, 95, form=".2f"),
    ]


def _of(values: Sequence[float], *shares: float, form: str) -> str:
    return " / ".join(format(percentile(values, share), form) for share in shares)


def figures_table(figures: Mapping[str, float], bars: Mapping[str, float]) -> Table:
    """Print every figure with its bar, if it has one."""
    table = Table("figure", "value", "bar")
    for name, value in figures.items():
        bar = bars.get(name)
        is_missed = bar is not None and not value <= bar
        table.add_row(name, f"{value:.3g}", "" if bar is None else f"<= {bar:g}", style="red" if is_missed else None)
    return table


def embedded_table(embedded: Embedded) -> Table:
    """Print the steps of the serving loop with increasing numbers of constrained rows."""
    table = Table("embedded checkpoint, rows in a step", "constrained", "step, ms", "constraints, ms", "share")
    for step in embedded.mixed:
        share = f"{step.constraint_ms / step.ms:.0%}"
        table.add_row(str(ROWS), str(step.constrained), f"{step.ms:.1f}", f"{step.constraint_ms:.1f}", share)
    return table


def methods_table(methods: Sequence[Method]) -> Table:
    """Print the results of answering the same requests in several ways."""
    table = Table("embedded checkpoint, orders as JSON", "right", "of", "passes", "ms")
    for method in methods:
        table.add_row(
            method.name,
            str(sum(method.verdicts)),
            str(len(method.verdicts)),
            f"{method.passes:.1f}",
            f"{method.ms:.0f}",
        )
    return table


def show(console: Console, rows: Sequence[Row]) -> None:
    """Print the invalid answers, and the comparison with llguidance on the same noise."""
    for row in rows:
        for text in row.invalid[:1]:
            console.print(f"{row.id}: invalid: {text[:200]!r}", style="red", markup=False)
    pairs = [(row, row.greedy) for row in rows if row.greedy is not None]
    if not pairs:
        console.print("llguidance is not installed (extra `bench`) or refused every schema")
        return
    closed = [(row, greedy) for row, greedy in pairs if greedy.is_closed]
    ours = sum(row.best_logprob > -np.inf for row, _ in pairs)
    console.print(
        f"left to right (llguidance), same noise, {len(pairs)} schemas it accepts: closed within {CANVAS} tokens "
        f"{len(closed)}, best path {ours}; grammar {percentile([g.compile_ms for _, g in pairs], 50):.2f} ms p50, "
        f"decoding {percentile([g.ms for _, g in pairs], 50):.1f} ms p50 in "
        f"{percentile([float(len(g.ids)) for _, g in pairs], 50):.0f} forward passes, best path in 1"
    )
    if closed:
        gain = [row.best_logprob - greedy.logprob for row, greedy in closed]
        console.print(f"where both close, the best path gains {percentile(gain, 50):.1f} nats (p50)")
