"""Scores of a classifier for `benchmarks.routing`: F1 over the tasks present, lanes, calibration, microseconds."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Final

from benchmarks.routing_rows import Row
from gateway.classifier.model import Learned, TaskModel
from gateway.enums import Kind, Task
from gateway.routing.policy import Policy
from gateway.routing.route import choose
from gateway.types import Classification, Query

FAST_TASKS: Final = frozenset({Task.EDIT, Task.AUTOCOMPLETE, Task.STRUCTURED, Task.EXTRACTION})
# What the figure must reach; for times, what it must stay under.
BARS: Final = {
    "macro_f1_natural": 0.90,
    "macro_f1_all": 0.93,
    "fast_precision": 0.93,
    "fast_recall": 0.90,
    "learned_p50_us": 100.0,
    "learned_p99_us": 1000.0,
}
_TIMED_BYTES: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """A row, what was said of it, and whether the policy sends that down the fast lane."""

    row: Row
    said: Classification
    is_fast: bool

    @property
    def is_right(self) -> bool:
        """The label itself, or one that is as good."""
        return self.said.task == self.row.task or self.said.task in self.row.also_ok

    @property
    def should_be_fast(self) -> bool:
        """By the label alone: the stricter reading, since a task of `also_ok` may belong to the other lane."""
        return self.row.task in FAST_TASKS


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All figures; `by_task` has rows and right ones. Times are None where nothing was timed."""

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
        """A figure by its name in BARS."""
        value: float | None = getattr(self, name)
        return value

    def missed(self) -> list[str]:
        """The bars on whose wrong side a figure is."""
        return [name for name, bar in BARS.items() if not self._is_good(name, bar)]

    def _is_good(self, name: str, bar: float) -> bool:
        value = self.figure(name)
        return value is None or (value <= bar if name.endswith("_us") else value >= bar)


def report(predicted: Sequence[Predicted], times_us: Sequence[float] | None) -> Report:
    """Score everything; `times_us` are single calls of the learned witness."""
    natural = [each for each in predicted if not each.row.is_templated]
    precision, recall = lanes(predicted)
    natural_precision, natural_recall = lanes(natural)
    cuts = quantiles(times_us, n=100) if times_us else None
    tasks = Counter(each.row.task.value for each in predicted)
    right = Counter(each.row.task.value for each in predicted if each.is_right)
    return Report(
        rows=len(predicted),
        macro_f1_natural=macro_f1(natural),
        macro_f1_all=macro_f1(predicted),
        fast_precision=precision,
        fast_recall=recall,
        fast_precision_natural=natural_precision,
        fast_recall_natural=natural_recall,
        calibration_error=calibration_error(predicted),
        learned_p50_us=cuts[49] if cuts else None,
        learned_p99_us=cuts[98] if cuts else None,
        by_task={task: (count, right[task]) for task, count in tasks.items()},
    )


def macro_f1(predicted: Sequence[Predicted]) -> float:
    """F1 averaged over the tasks that occur as labels; what is right by `also_ok` counts for the label."""
    tasks = {each.row.task for each in predicted}
    hits = Counter(each.row.task for each in predicted if each.is_right)
    missed = Counter(each.row.task for each in predicted if not each.is_right)
    wrong = Counter(each.said.task for each in predicted if not each.is_right)
    return sum(2 * hits[task] / (2 * hits[task] + missed[task] + wrong[task]) for task in tasks) / max(1, len(tasks))


def lanes(predicted: Sequence[Predicted]) -> tuple[float, float]:
    """Precision and recall of the fast lane."""
    both = sum(each.is_fast and each.should_be_fast for each in predicted)
    sent, meant = sum(each.is_fast for each in predicted), sum(each.should_be_fast for each in predicted)
    return both / max(1, sent), both / max(1, meant)


def calibration_error(predicted: Sequence[Predicted]) -> float:
    """Expected gap between confidence and share of right answers, in ten bins of confidence."""
    gaps = Counter[int]()
    for each in predicted:
        gaps[min(9, int(each.said.confidence * 10))] += each.said.confidence - each.is_right  # type: ignore[assignment]
    return sum(map(abs, gaps.values())) / max(1, len(predicted))


def lane_of(policy: Policy, query: Query, said: Classification) -> bool:
    """Does the policy ask a worker first?"""
    return choose(policy, query, said, wall_s=0.0, sample=0.0).candidates[0].target.kind is Kind.WORKER


def time_learned(model: TaskModel, calls: int = 3000) -> list[float]:
    """Microseconds of single calls on a request of 4 KB; its words differ from call to call, so no cache helps.

    CPU time of this thread: what other programs on a busy machine take is not the classifier's.
    """
    learned, times = Learned(model), []
    for number in range(calls):
        words = " ".join(f"word{number + at} and the {at} others" for at in range(400))
        text = f"Please summarize this report. {words}"[:_TIMED_BYTES]
        query = Query(request_id="", model="auto", body=b"", received_s=0.0, last_user_text=text)
        started = time.thread_time_ns()
        learned(query)
        times.append((time.thread_time_ns() - started) / 1000)
    return times
