"""Accuracy of request classification: `python -m benchmarks.routing FILE.jsonl [--check] [--json FILE]`.

Each line of FILE is a labelled chat request: `task`, `messages`, optionally `tools`, `response_format` and `suffix`.
`also_ok` lists other tasks that count as correct; `templated` marks prompts in a third party's template. The policy (by
default that of `twolane serve`) maps tasks to lanes. The baseline is a classifier of ten keyword rules.
"""

import argparse
import json
import os
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import quantiles
from typing import Any, Final

import orjson
from rich.console import Console
from rich.table import Table

from gateway.classifier.model import LearnedStage, TaskModel
from gateway.classifier.weights import open_classifier, read_model
from gateway.enums import Kind, Task
from gateway.errors import BadRequest
from gateway.policy_files.load import load
from gateway.routing.classify import Classify
from gateway.routing.policy import Policy
from gateway.routing.route import plan_request
from gateway.types import Classification, Query
from gateway.web.parse_request import parse_chat

POLICY: Final = Path(__file__).parents[1] / "policies" / "default.yaml"
FAST_TASKS: Final = frozenset({Task.EDIT, Task.AUTOCOMPLETE, Task.STRUCTURED, Task.EXTRACTION})
# Minimum values; for times (`_us`), maximum values.
THRESHOLDS: Final = {
    "macro_f1_natural": 0.90,
    "macro_f1_all": 0.93,
    "fast_precision": 0.93,
    "fast_recall": 0.90,
    "learned_p50_us": 100.0,
    "learned_p99_us": 1000.0,
}
_TIMED_BYTES: Final = 4096
_REQUEST_FIELDS: Final = ("messages", "tools", "response_format", "suffix", "prediction")
_KEYWORDS: Final = (
    (Task.TRANSLATE, re.compile(r"\btranslate\b", re.IGNORECASE)),
    (Task.SUMMARIZE, re.compile(r"\b(summar(y|ize|ise)|tl;?dr)\b", re.IGNORECASE)),
    (Task.EXTRACTION, re.compile(r"\b(extract|entities)\b", re.IGNORECASE)),
    (Task.STRUCTURED, re.compile(r"\b(json|yaml|csv|xml)\b", re.IGNORECASE)),
    (Task.EDIT, re.compile(r"\b(rewrite|rephrase|fix|correct|edit|refactor)\b", re.IGNORECASE)),
    (Task.AUTOCOMPLETE, re.compile(r"\b(autocomplete|complete the code)\b|<.?fim", re.IGNORECASE)),
    (Task.CODE, re.compile(r"\b(function|code|python|javascript|c\+\+|program|sql|script)\b", re.IGNORECASE)),
    (Task.REASONING, re.compile(r"\b(how many|how much|solve|calculate|probability|prove)\b", re.IGNORECASE)),
)


def main() -> int:
    """Command line; returns 1 if `--check` finds a figure beyond its threshold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE.jsonl", help="labelled requests")
    parser.add_argument("--policy", type=Path, default=POLICY, help="policy that maps tasks to lanes")
    parser.add_argument("--errors", action="store_true", help="list the misclassified requests")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a figure misses its threshold")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    options = parser.parse_args()
    examples, policy = read_examples(options.file), load(options.policy, os.environ)
    predictions = predict(examples, open_classifier(), policy)
    found = report(predictions, time_classifier(read_model()))
    show(found, report(predict(examples, by_keywords, policy), None))
    if options.errors:
        show_errors(predictions)
    if options.json:
        options.json.write_text(json.dumps(asdict(found), indent=2) + "\n")
    missed = found.missed()
    for name in missed:
        print(f"missed: {name} is {found.figure(name):.3f}, the threshold is {THRESHOLDS[name]:g}")
    return 1 if options.check and missed else 0


# The labelled requests


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One labelled request; the tasks in `also_ok` count as correct, too."""

    name: str
    task: Task
    also_ok: frozenset[Task]
    is_templated: bool
    query: Query


def read_examples(path: Path) -> list[Example]:
    """Read labelled requests as the gateway parses them. Raises ValueError, which names the line."""
    examples = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            examples.append(_example(json.loads(line), number))
        except (KeyError, ValueError, TypeError, BadRequest) as error:
            raise ValueError(f"{path}:{number}: not a labelled request: {error!r}") from error
    return examples


def _example(document: Mapping[str, Any], number: int) -> Example:
    return Example(
        name=str(document.get("id", number)),
        task=Task(document["task"]),
        also_ok=frozenset(map(Task, document.get("also_ok") or ())),
        is_templated=bool(document.get("templated")),
        query=parse_chat(orjson.dumps(_body(document)), {}, now_s=0.0, key=None),
    )


def _body(document: Mapping[str, Any]) -> dict[str, Any]:
    """A chat request. A request for the completions endpoint becomes one with its prompt as the only message."""
    body = {name: document[name] for name in _REQUEST_FIELDS if document.get(name) is not None}
    completions = document.get("completions") or {}
    if completions:
        body["messages"] = [{"role": "user", "content": completions["prompt"]}]
        body["suffix"] = completions.get("suffix", "")
    return {"model": "auto", **body}


# Predictions


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """An example, its classification, and whether the policy sends that to the fast lane."""

    example: Example
    classification: Classification
    is_fast: bool

    @property
    def is_correct(self) -> bool:
        """Whether the task is the label or one of `also_ok`."""
        return self.classification.task == self.example.task or self.classification.task in self.example.also_ok

    @property
    def should_be_fast(self) -> bool:
        """Whether the label belongs to the fast lane; `also_ok` is ignored, since its tasks may belong to the other."""
        return self.example.task in FAST_TASKS


def predict(examples: Sequence[Example], classify: Classify, policy: Policy) -> list[Prediction]:
    """Classify every example, and find the lane that follows."""
    found = [(example, classify(example.query)) for example in examples]
    return [
        Prediction(example=example, classification=each, is_fast=is_fast_lane(policy, example.query, each))
        for example, each in found
    ]


def is_fast_lane(policy: Policy, query: Query, classification: Classification) -> bool:
    """Whether the policy's first candidate is a worker."""
    plan = plan_request(policy, query, classification, wall_s=0.0, sample=0.0)
    return plan.candidates[0].target.kind is Kind.WORKER


def by_keywords(query: Query) -> Classification:
    """The baseline of ten rules: two by the request's structure, eight by keyword, otherwise a chat."""
    if query.has_tools:
        return Classification(task=Task.AGENT, confidence=1.0, evidence="tools")
    if query.output_format is not None:
        return Classification(task=Task.STRUCTURED, confidence=1.0, evidence="response_format")
    text = f"{query.system_text}\n{query.last_user_text}"
    found = next((task for task, pattern in _KEYWORDS if pattern.search(text)), Task.CHAT)
    return Classification(task=found, confidence=1.0, evidence="keyword")


# Scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All figures; `by_task` has the number of examples and of correct ones. Times are None if not measured."""

    rows: int
    macro_f1_natural: float
    macro_f1_all: float
    fast_precision: float
    fast_recall: float
    fast_precision_natural: float
    fast_recall_natural: float
    calibration_error: float
    learned_p50_us: float | None = None
    learned_p99_us: float | None = None
    by_task: dict[str, tuple[int, int]] = field(default_factory=dict)

    def figure(self, name: str) -> float | None:
        """A figure by its name in THRESHOLDS."""
        value: float | None = getattr(self, name)
        return value

    def missed(self) -> list[str]:
        """The names of the figures beyond their thresholds."""
        return [name for name, threshold in THRESHOLDS.items() if not self._is_within(name, threshold)]

    def _is_within(self, name: str, threshold: float) -> bool:
        value = self.figure(name)
        return value is None or (value <= threshold if name.endswith("_us") else value >= threshold)


def report(predictions: Sequence[Prediction], times_us: Sequence[float] | None) -> Report:
    """Compute all figures; `times_us` are the times of single calls of the trained stage."""
    natural = [each for each in predictions if not each.example.is_templated]
    precision, recall = lane_scores(predictions)
    natural_precision, natural_recall = lane_scores(natural)
    percentiles = quantiles(times_us, n=100) if times_us else None
    tasks = Counter(each.example.task.value for each in predictions)
    correct = Counter(each.example.task.value for each in predictions if each.is_correct)
    return Report(
        rows=len(predictions),
        macro_f1_natural=macro_f1(natural),
        macro_f1_all=macro_f1(predictions),
        fast_precision=precision,
        fast_recall=recall,
        fast_precision_natural=natural_precision,
        fast_recall_natural=natural_recall,
        calibration_error=calibration_error(predictions),
        learned_p50_us=percentiles[49] if percentiles else None,
        learned_p99_us=percentiles[98] if percentiles else None,
        by_task={task: (count, correct[task]) for task, count in tasks.items()},
    )


def macro_f1(predictions: Sequence[Prediction]) -> float:
    """F1 averaged over the tasks that occur as labels; a prediction in `also_ok` counts as correct for the label."""
    tasks = {each.example.task for each in predictions}
    hits = Counter(each.example.task for each in predictions if each.is_correct)
    missed = Counter(each.example.task for each in predictions if not each.is_correct)
    wrong = Counter(each.classification.task for each in predictions if not each.is_correct)
    return sum(2 * hits[task] / (2 * hits[task] + missed[task] + wrong[task]) for task in tasks) / max(1, len(tasks))


def lane_scores(predictions: Sequence[Prediction]) -> tuple[float, float]:
    """Precision and recall of the fast lane."""
    both = sum(each.is_fast and each.should_be_fast for each in predictions)
    sent, expected = sum(each.is_fast for each in predictions), sum(each.should_be_fast for each in predictions)
    return both / max(1, sent), both / max(1, expected)


def calibration_error(predictions: Sequence[Prediction]) -> float:
    """Expected calibration error: the gap between confidence and accuracy, in ten bins of confidence."""
    gaps = [0.0] * 10
    for each in predictions:
        confidence = each.classification.confidence
        gaps[min(9, int(confidence * 10))] += confidence - each.is_correct
    return sum(map(abs, gaps)) / max(1, len(predictions))


def time_classifier(model: TaskModel, calls: int = 3000) -> list[float]:
    """Microseconds of single calls of the trained stage with 4 KB of text, which differs between calls.

    CPU time of this thread, so that other programs on a busy machine do not count.
    """
    learned, times = LearnedStage(model), []
    for number in range(calls):
        words = " ".join(f"word{number + at} and the {at} others" for at in range(400))
        text = f"Please summarize this report. {words}"[:_TIMED_BYTES]
        query = Query(request_id="", model="auto", body=b"", received_s=0.0, last_user_text=text)
        started = time.thread_time_ns()
        learned(query)
        times.append((time.thread_time_ns() - started) / 1000)
    return times


# Output


def show(found: Report, baseline: Report) -> None:
    """Print two tables: the figures beside the baseline's, and the accuracy by task."""
    console, figures = Console(), Table("figure", "classifier", "keywords", "threshold")
    for name, threshold in THRESHOLDS.items():
        figures.add_row(name, _number(found.figure(name)), _number(baseline.figure(name)), f"{threshold:g}")
    figures.add_row("calibration_error", f"{found.calibration_error:.3f}", f"{baseline.calibration_error:.3f}", "")
    console.print(figures)
    tasks = Table("task", "requests", "correct", "keywords")
    for task, (count, correct) in sorted(found.by_task.items()):
        tasks.add_row(task, str(count), f"{correct / count:.2f}", f"{baseline.by_task[task][1] / count:.2f}")
    console.print(tasks)


def show_errors(predictions: Sequence[Prediction]) -> None:
    """Print the requests with a wrong task or lane."""
    for each in predictions:
        if not each.is_correct or each.is_fast != each.should_be_fast:
            found = each.classification
            print(
                f"{each.example.name}: {each.example.task},"
                f" classified as {found.task} {found.confidence:.2f} by {found.evidence}"
            )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}" if value < 10 else f"{value:.0f}"


if __name__ == "__main__":
    raise SystemExit(main())
