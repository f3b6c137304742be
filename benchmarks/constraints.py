"""Benchmark of constraints on real schemas: `python -m benchmarks.constraints FILE.jsonl [--check] [--json FILE]`.

Each line of the file holds a `schema` and its `split`. Every schema that compiles is compiled for a real vocabulary and
decoded from random logits, canvas after canvas, by best paths and by joint samples; every answer must close within its
budget and be valid, unless the compiler left a keyword to validation. It also measures the cost of a step relative to
the softmax of the same logits (one thread, both in numpy) and to passes of the embedded checkpoint, the cost and
accuracy of that checkpoint's answers and, if the extra `bench` is installed, llguidance decoding left to right from the
same noise and the same model. `benchmarks.constraints_compile` tests instances of the schemas;
`benchmarks.constraints_answers` measures accuracy with more samples. `--maskbench` prints the table of MaskBench
instead, beside llguidance and xgrammar.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from rich.console import Console

from benchmarks import constraints_maskbench
from benchmarks.constraints_compile import EASY_SHARE, HARD, HARD_SHARE
from benchmarks.constraints_embedded import Embedded, measure
from benchmarks.constraints_large import LargeRow, large_figures, measure_large
from benchmarks.constraints_rows import Refusal, Row, measure_rows
from benchmarks.constraints_tables import (
    WIDTH,
    embedded_table,
    figures_table,
    methods_table,
    percentile,
    show,
    splits_table,
)
from benchmarks.constraints_tasks import FREE, KEPT, Method, methods
from benchmarks.left_to_right import LeftToRight
from benchmarks.vocabularies import VOCABULARIES, Words, large, shipped

BARS: Final = {
    "refused in the worst of the easier splits": 1.0 - EASY_SHARE,
    "refused in the worst of the harder splits": 1.0 - HARD_SHARE,
    "invalid answers": 0.0,
    "compile, p50, ms": 150.0,
    "compile, p95, ms": 3000.0,
    "best path, p50, x softmax": 1.0,
    "with marginals, p50, x softmax": 3.0,
    "embedded: best path, x forward pass": 0.5,
    "embedded: best path, marginals and sample, x forward pass": 0.5,
    "orders: lost to the schema, deviations of chance": 2.0,
    "262k: host, p50, ms": 20.0,
    "262k: host, p95, ms": 60.0,
    "262k: row on a CPU, p50, x softmax": 1.1,
    "262k: row on a CPU, p95, x softmax": 2.0,
    "262k: four rows on two cores, p50, x one": 2.5,
}


def main() -> int:
    """Command line; returns 1 if `--check` finds a figure that misses its bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, metavar="FILE.jsonl")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a figure misses its bar")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    parser.add_argument("--vocabulary", choices=sorted(VOCABULARIES), default="smollm2")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--limit", type=int, help="maximum number of schemas")
    parser.add_argument("--only-large", action="store_true", help="only the section of 262,144 tokens")
    parser.add_argument("--large-every", type=int, default=1, metavar="N", help="only every Nth schema in that section")
    parser.add_argument("--large-rows", type=Path, metavar="FILE", help="keep its rows there, to go on after a stop")
    parser.add_argument("--orders", type=int, default=60, help="number of requests to the embedded checkpoint")
    parser.add_argument("--maskbench", action="store_true", help="print MaskBench's table instead, for all engines")
    options = parser.parse_args()
    words = VOCABULARIES[options.vocabulary]()
    if options.maskbench:
        return _maskbench(options.file, words, options.limit)
    every, kept = options.large_every, options.large_rows
    wide = list(measure_large(options.file, large(), limit=options.limit, every=every, kept=kept))
    if options.only_large:
        return _report_large(wide, options)
    found = list(
        measure_rows(options.file, words, seeds=options.seeds, limit=options.limit, guided=_left_to_right(words))
    )
    rows = [each for each in found if isinstance(each, Row)]
    refusals = [each for each in found if isinstance(each, Refusal)]
    embedded, answered = measure(), methods(_left_to_right(shipped()), options.orders)
    figures = refused_figures(rows, refusals) | figures_of(rows) | embedded_figures(embedded) | task_figures(answered)
    figures |= large_figures(wide)
    console = Console(width=WIDTH)
    for table in (
        splits_table(rows, refusals),
        figures_table(figures, BARS),
        embedded_table(embedded),
        methods_table(answered),
    ):
        console.print(table)
    show(console, rows)
    if options.json:
        report = {
            "figures": figures,
            "rows": [asdict(row) for row in rows],
            "refused": [asdict(refusal) for refusal in refusals],
            "large": [asdict(row) for row in wide],
            "embedded": asdict(embedded),
            "orders": [asdict(method) for method in answered],
        }
        options.json.write_text(json.dumps(report, indent=1))
    return int(options.check and any(not figures.get(name, math.inf) <= bar for name, bar in BARS.items()))


def _report_large(rows: Sequence[LargeRow], options: argparse.Namespace) -> int:
    figures = large_figures(rows)
    Console(width=WIDTH).print(figures_table(figures, BARS))
    if options.json:
        options.json.write_text(json.dumps({"figures": figures, "large": [asdict(row) for row in rows]}, indent=1))
    missed = any(not value <= BARS.get(name, math.inf) for name, value in figures.items())
    return int(options.check and (missed or not figures))


def _maskbench(file: Path, words: Words, limit: int | None) -> int:
    cases = [json.loads(line) for line in file.read_text().splitlines()[:limit]]
    kept = [case for case in cases if case.get("python_jsonschema_agrees_with_tests") is not False]
    Console(width=WIDTH).print(constraints_maskbench.table(constraints_maskbench.measure_all(words, kept)))
    return 0


def refused_figures(rows: Sequence[Row], refusals: Sequence[Refusal]) -> dict[str, float]:
    """The largest share of refused schemas in any easier and in any harder split; 0 without splits."""
    refused = [refusal.split for refusal in refusals]
    splits = [*refused, *(row.split for row in rows)]
    shares = {split: refused.count(split) / splits.count(split) for split in set(splits)}
    return {
        f"refused in the worst of the {name} splits": max(
            (share for split, share in shares.items() if (split in HARD) is is_hard), default=0.0
        )
        for name, is_hard in (("easier", False), ("harder", True))
    }


def figures_of(rows: Sequence[Row]) -> dict[str, float]:
    """Figures over all schemas."""
    measured = {
        "compile, {}, ms": [row.total_ms for row in rows],
        "token compilation, {}, ms": [row.token_compile_ms for row in rows],
        "best path, {}, x softmax": [row.step.best_share for row in rows],
        "with marginals, {}, x softmax": [row.step.marginals_share for row in rows],
        "joint sample on top, {}, x softmax": [row.step.sample / row.step.softmax for row in rows],
    }
    figures = {"invalid answers": float(sum(len(row.invalid) for row in rows))}
    for name, values in measured.items():
        for word, share in (("p50", 50), ("p95", 95), ("max", 100)):
            figures[name.format(word)] = percentile(values, share)
    return figures


def embedded_figures(embedded: Embedded) -> dict[str, float]:
    """Figures of the shipped checkpoint, relative to its forward pass."""
    return {
        "embedded: best path, x forward pass": embedded.best / embedded.forward,
        "embedded: best path, marginals and sample, x forward pass": embedded.step / embedded.forward,
    }


def task_figures(answered: Sequence[Method]) -> dict[str, float]:
    """Correct answers lost with the schema minus those gained, in standard deviations under chance (McNemar's test): of
    a few dozen answers, only a handful differ, in either direction."""
    free, kept = (next(method.verdicts for method in answered if method.name == name) for name in (FREE, KEPT))
    changes = [before - after for before, after in zip(free, kept, strict=True) if before is not after]
    return {"orders: lost to the schema, deviations of chance": sum(changes) / math.sqrt(len(changes) or 1)}


def _left_to_right(words: Words) -> LeftToRight | None:
    try:
        return LeftToRight(words)
    except ImportError:
        return None


if __name__ == "__main__":
    sys.exit(main())
