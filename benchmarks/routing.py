"""How well requests are told apart: `python -m benchmarks.routing FILE.jsonl [--check] [--json FILE]`.

A line of FILE is a chat request with its task: `task`, `messages`, and where the request has them `tools`,
`response_format`, `suffix`; `also_ok` lists other tasks that count as right, `templated` marks prompts inside a third
party's template. The lane is what the policy says (by default the one that `twolane serve` starts with). Beside the
gateway's classifier stands the rule of ten keywords that it has to beat.
"""

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.routing_rows import Row, by_keywords, read_rows
from benchmarks.routing_scores import BARS, Predicted, Report, lane_of, report, time_learned
from gateway.classifier.weights import open_classifier, read_model
from gateway.policy_files.load import load
from gateway.routing.classify import Classify
from gateway.routing.policy import Policy

POLICY = Path(__file__).parents[1] / "policies" / "default.yaml"


def main() -> int:
    """Command line; returns 1 if `--check` finds a figure on the wrong side of its bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE.jsonl")
    parser.add_argument("--policy", type=Path, default=POLICY, help="what says which lane a task takes")
    parser.add_argument("--errors", action="store_true", help="list the requests that were told wrong")
    parser.add_argument("--check", action="store_true", help="exit 1 if a figure is on the wrong side of its bar")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    options = parser.parse_args()
    rows, policy = read_rows(options.file), load(options.policy, os.environ)
    predicted = print_report(rows, open_classifier(), policy)
    found = report(predicted, time_learned(read_model()))
    show(found, report(print_report(rows, by_keywords, policy), None))
    if options.errors:
        show_errors(predicted)
    if options.json:
        options.json.write_text(json.dumps(asdict(found), indent=2) + "\n")
    missed = found.missed()
    for name in missed:
        print(f"missed: {name} is {found.figure(name):.3f}, the bar is {BARS[name]:g}")
    return 1 if options.check and missed else 0


def print_report(rows: Sequence[Row], classify: Classify, policy: Policy) -> list[Predicted]:
    """What a classifier says of every row, and the lane that follows."""
    found = [(row, classify(row.query)) for row in rows]
    return [Predicted(row=row, said=said, is_fast=lane_of(policy, row.query, said)) for row, said in found]


def show(found: Report, keywords: Report) -> None:
    """Two tables: figures beside the keyword rule's, and every task."""
    console, figures = Console(), Table("figure", "classifier", "keywords", "bar")
    for name in BARS:
        baseline = keywords.figure(name)
        figures.add_row(name, _number(found.figure(name)), _number(baseline), f"{BARS[name]:g}")
    figures.add_row("calibration_error", f"{found.calibration_error:.3f}", f"{keywords.calibration_error:.3f}", "")
    console.print(figures)
    tasks = Table("task", "rows", "right", "keywords")
    for task, (count, right) in sorted(found.by_task.items()):
        tasks.add_row(task, str(count), f"{right / count:.2f}", f"{keywords.by_task[task][1] / count:.2f}")
    console.print(tasks)


def show_errors(predicted: Sequence[Predicted]) -> None:
    """What was told wrong, or sent down the wrong lane."""
    for each in predicted:
        if not each.is_right or each.is_fast != each.should_be_fast:
            said = each.said
            print(f"{each.row.name}: {each.row.task}, predicted {said.task} {said.confidence:.2f} by {said.evidence}")


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.3f}" if value < 10 else f"{value:.0f}"


if __name__ == "__main__":
    raise SystemExit(main())
