"""Scores of a request classifier: macro-F1, lanes, calibration, accuracy by kind of request, and their intervals."""

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.routing_rows import Example
from gateway.enums import Task
from gateway.types import Classification
from training import calibration

FAST_TASKS: Final = frozenset({Task.EDIT, Task.AUTOCOMPLETE, Task.STRUCTURED, Task.EXTRACTION})
_RESAMPLES: Final = 1000
_BINS: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """An example, its classification, and whether the policy sends that to the fast lane."""

    example: Example
    classification: Classification
    is_fast: bool
    is_keyword: bool = False  # whether the keyword rule finds the task, too

    @property
    def is_correct(self) -> bool:
        """Whether the task is the label or one of `also_ok`."""
        return self.classification.task == self.example.task or self.classification.task in self.example.also_ok

    @property
    def should_be_fast(self) -> bool:
        """Whether the label belongs to the fast lane."""
        return self.example.task in FAST_TASKS

    @property
    def is_either(self) -> bool:
        """Whether the label and `also_ok` lie in both lanes, so that either is right."""
        return any((task in FAST_TASKS) is not self.should_be_fast for task in self.example.also_ok)

    @property
    def is_by_words(self) -> bool:
        """Whether the words decided, not the request's structure."""
        return self.classification.evidence.startswith("words")


Score = Callable[[Sequence[Prediction]], float]


def macro_f1(predictions: Sequence[Prediction]) -> float:
    """F1 averaged over the tasks that occur as labels; a prediction in `also_ok` counts as correct for the label."""
    tasks = {each.example.task for each in predictions}
    hits = Counter(each.example.task for each in predictions if each.is_correct)
    missed = Counter(each.example.task for each in predictions if not each.is_correct)
    wrong = Counter(each.classification.task for each in predictions if not each.is_correct)
    return sum(2 * hits[task] / (2 * hits[task] + missed[task] + wrong[task]) for task in tasks) / max(1, len(tasks))


def accuracy(predictions: Sequence[Prediction]) -> float:
    """The share of correct predictions."""
    return sum(each.is_correct for each in predictions) / max(1, len(predictions))


def lane_scores(predictions: Sequence[Prediction], *, strict: bool = False) -> tuple[float, float]:
    """Precision and recall of the fast lane. Requests that are right in either lane count in neither, unless strict."""
    counted = [each for each in predictions if strict or not each.is_either]
    both = sum(each.is_fast and each.should_be_fast for each in counted)
    sent, expected = sum(each.is_fast for each in counted), sum(each.should_be_fast for each in counted)
    return both / max(1, sent), both / max(1, expected)


def fast_precision(predictions: Sequence[Prediction]) -> float:
    """See `lane_scores`."""
    return lane_scores(predictions)[0]


def fast_recall(predictions: Sequence[Prediction]) -> float:
    """See `lane_scores`."""
    return lane_scores(predictions)[1]


def calibration_error(predictions: Sequence[Prediction]) -> float:
    """Expected calibration error of the predictions by words: the gap between confidence and accuracy, in ten bins of
    equal size."""
    counted = [each for each in predictions if each.is_by_words]
    confidences = [each.classification.confidence for each in counted]
    return calibration.calibration_error(confidences, [each.is_correct for each in counted], _BINS)


def kinds_of(prediction: Prediction) -> list[str]:
    """The kinds of requests that are reported apart."""
    example = prediction.example
    found = {
        "beside_text": example.form == "instruction" and example.has_material,
        "unthought": example.form in ("instruction", "complete", "followup") and not prediction.is_keyword,
        "followups": example.form == "followup",
        "system_prompt": example.form == "system",
        "other_languages": example.lang != "en",
    }
    return [name for name, holds in found.items() if holds]


def by_kind(predictions: Sequence[Prediction]) -> dict[str, list[Prediction]]:
    """The predictions of each kind."""
    found: defaultdict[str, list[Prediction]] = defaultdict(list)
    for each in predictions:
        for kind in kinds_of(each):
            found[kind].append(each)
    return dict(found)


def interval(predictions: Sequence[Prediction], score: Score, *, seed: int = 1) -> tuple[float, float] | None:
    """The 95 % interval of a score, by bootstrap: writers are sampled with replacement, and requests of each. None if
    there are fewer than two writers."""
    groups: defaultdict[str, list[Prediction]] = defaultdict(list)
    for each in predictions:
        groups[each.example.writer].append(each)
    if len(groups) < 2:
        return None
    rng, writers, found = random.Random(seed), list(groups.values()), []
    for _ in range(_RESAMPLES):
        sampled: list[Prediction] = []
        for rows in rng.choices(writers, k=len(writers)):
            sampled += rng.choices(rows, k=len(rows))
        found.append(score(sampled))
    found.sort()
    return found[int(0.025 * _RESAMPLES)], found[int(0.975 * _RESAMPLES) - 1]
