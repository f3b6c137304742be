"""Figures on requests that a model was not fitted to: accuracy, calibration, and the fast lane at its threshold."""

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from torch import Tensor

from gateway.classifier.forms import FORM_STAGES
from gateway.classifier.model import LearnedStage, TaskModel
from gateway.enums import Task
from gateway.routing.classify import STAGES
from gateway.types import Classification, Query
from training.calibration import calibration_error
from training.classifier.compose import Request
from training.classifier.fit import FAST, PLAIN_WEIGHT
from training.classifier.lines import Line, kinds_of_writers, plain_writers

PRECISION: Final = 0.95  # of the fast lane, at which its threshold is fitted
LEAST_WRITERS: Final = 3  # of a language, for the threshold to be fitted on it
LEAST_LINES: Final = 20  # of a writer in a language
_BINS: Final = 10  # of the calibration error
_RESAMPLES: Final = 300
_TASKS: Final = list(Task)

Bools = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.intp]


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """Requests of writers that a model was not fitted to, their scores [requests, tasks], and the temperature.

    `shipped` are the probabilities that the gateway computes of these models, with weights of 8 bits, which it reduces
    for unknown words. Without it, they are those of the scores.
    """

    requests: list[Request]
    found: Tensor
    divisor: float
    shipped: npt.NDArray[np.float64] | None = None

    @cached_property
    def by_form(self) -> list[Classification | None]:
        """The classification of each request by its form, before the words are asked."""
        return [_by_form(each) for each in self.requests]

    @cached_property
    def probabilities(self) -> np.ndarray:
        """[requests, tasks]: those of the form if it decides, otherwise those of the words."""
        odds = (self.found / self.divisor).softmax(1).numpy() if self.shipped is None else self.shipped.copy()
        for at, decided in enumerate(self.by_form):
            if decided is not None:
                odds[at] = (1.0 - decided.confidence) / (len(_TASKS) - 1)
                odds[at, _TASKS.index(decided.task)] = decided.confidence
        return odds

    @cached_property
    def best(self) -> Numbers:
        """The most probable task of each request."""
        best: Numbers = self.probabilities.argmax(axis=1)
        return best

    @cached_property
    def labels(self) -> Numbers:
        """The label of each request."""
        return np.array([_TASKS.index(each.line.task) for each in self.requests])

    @cached_property
    def is_right(self) -> Bools:
        """Whether it is the label or one of `also_ok`."""
        return np.array(is_right(self.requests, self.best.tolist()))

    @cached_property
    def mass(self) -> npt.NDArray[np.float64]:
        """The probability of all tasks of the fast lane together."""
        mass: npt.NDArray[np.float64] = self.probabilities[:, [_TASKS.index(task) for task in FAST]].sum(axis=1)
        return mass

    @cached_property
    def lanes(self) -> tuple[Bools, Bools]:
        """Whether each request is right in one lane only, and whether the fast lane is right."""
        found = [{task in FAST for task in (each.line.task, *each.line.also_ok)} for each in self.requests]
        return np.array([len(each) == 1 for each in found]), np.array([True in each for each in found])


def is_right(requests: Iterable[Request], tasks: Iterable[int]) -> list[bool]:
    """Whether the number of a task is that of each request's label or of one of its `also_ok`."""
    pairs = zip(requests, tasks, strict=True)
    return [_TASKS[at] in (each.line.task, *each.line.also_ok) for each, at in pairs]


def evaluate(found: LeftOut) -> dict[str, Any]:
    """Accuracy, calibration and the fast lane, as a whole with intervals, and by task, form, language and kind."""
    by_words = np.array([each is None for each in found.by_form])
    confidences: list[float] = found.probabilities[by_words].max(axis=1).tolist()
    threshold = lane_threshold(found)
    everything = np.arange(len(found.requests))
    precision, recall = lane_scores(found, threshold, everything)
    known = known_languages(each.line for each in found.requests)
    kinds = kinds_of_writers()
    scores: dict[str, Callable[[Numbers], float]] = {
        "accuracy": lambda rows: float(found.is_right[rows].mean()),
        "macro_f1": lambda rows: macro_f1(found, rows),
        "lane_precision": lambda rows: lane_scores(found, threshold, rows)[0],
        "lane_recall": lambda rows: lane_scores(found, threshold, rows)[1],
    }

    def by(key: Callable[[Line], str]) -> dict[str, dict[str, float]]:
        keys = np.array([key(each.line) for each in found.requests])
        return {str(name): _part(found, threshold, np.flatnonzero(keys == name)) for name in np.unique(keys)}

    return {
        "requests": len(found.requests),
        "temperature": round(found.divisor, 3),
        "accuracy": round(scores["accuracy"](everything), 4),
        "macro_f1": round(scores["macro_f1"](everything), 4),
        "calibration_error": round(calibration_error(confidences, found.is_right[by_words].tolist(), _BINS), 4),
        "lane_threshold": round(threshold, 3),
        "lane_precision": round(precision, 3),
        "lane_recall": round(recall, 3),
        "intervals": {name: interval(found, score) for name, score in scores.items()},
        "by_task": by(lambda line: line.task.value),
        "by_form": by(lambda line: line.form),
        "by_language": by(lambda line: line.lang),
        "by_writers_of_language": by(lambda line: "several" if line.lang in known else "few"),
        "by_kind": by(lambda line: kinds.get(line.writer, "other")),
    }


def macro_f1(found: LeftOut, rows: Numbers) -> float:
    """F1 averaged over the tasks that occur; a prediction in `also_ok` counts as correct for the label."""
    labels, right, best = found.labels[rows], found.is_right[rows], found.best[rows]
    scores = []
    for task in np.unique(labels).tolist():
        hits = int((right & (labels == task)).sum())
        missed, wrong = int((~right & (labels == task)).sum()), int((~right & (best == task)).sum())
        scores.append(2 * hits / (2 * hits + missed + wrong))
    return float(np.mean(scores))


def lane_threshold(found: LeftOut) -> float:
    """The lowest probability of the fast tasks together at which the fast lane still has PRECISION; 1 if none.

    Requests in the usual words count as often as in the fit (`PLAIN_WEIGHT`). In a language of one or two writers, a
    model without one of them lacks most of what the shipped one knows of it. Such languages do not count here, unless
    there are no others.
    """
    counted, is_fast = found.lanes
    known = known_languages(each.line for each in found.requests)
    counted = counted & np.array([each.line.lang in known for each in found.requests])
    plain = np.array([each.line.writer in plain_writers() for each in found.requests])
    mass, fast, weights = found.mass[counted], is_fast[counted], np.where(plain, PLAIN_WEIGHT, 1.0)[counted]
    order = np.argsort(-mass, kind="stable")
    precision = np.cumsum((weights * fast)[order]) / np.cumsum(weights[order])
    enough = np.flatnonzero(precision >= PRECISION)
    return float(mass[order][enough[-1]]) if enough.size else 1.0


def known_languages(lines: Iterable[Line]) -> set[str]:
    """Languages in which at least LEAST_WRITERS write, or all if there are none."""
    writers: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for line in lines:
        writers[line.lang][line.writer] += 1
    known = {
        lang for lang, counts in writers.items() if sum(n >= LEAST_LINES for n in counts.values()) >= LEAST_WRITERS
    }
    return known or set(writers)


def lane_scores(found: LeftOut, threshold: float, rows: Numbers) -> tuple[float, float]:
    """Precision and recall of the fast lane; requests that are right in either lane count in neither."""
    counted, is_fast = found.lanes
    kept = rows[counted[rows]]
    sent, fast = found.mass[kept] >= threshold, is_fast[kept]
    hits = int((sent & fast).sum())
    return hits / max(1, int(sent.sum())), hits / max(1, int(fast.sum()))


def interval(found: LeftOut, score: Callable[[Numbers], float]) -> tuple[float, float]:
    """The 95 % interval by bootstrap over whole writers."""
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for at, each in enumerate(found.requests):
        groups[each.line.writer].append(at)
    rng, writers = random.Random(1), list(groups.values())
    found_scores = sorted(
        score(np.array([at for rows in rng.choices(writers, k=len(writers)) for at in rows])) for _ in range(_RESAMPLES)
    )
    low, high = found_scores[int(0.025 * _RESAMPLES)], found_scores[int(0.975 * _RESAMPLES) - 1]
    return round(low, 3), round(high, 3)


def _part(found: LeftOut, threshold: float, rows: Numbers) -> dict[str, float]:
    precision, recall = lane_scores(found, threshold, rows)
    return {
        "requests": rows.size,
        "accuracy": round(float(found.is_right[rows].mean()), 3),
        "lane_precision": round(precision, 3),
        "lane_recall": round(recall, 3),
    }


def _by_form(request: Request) -> Classification | None:
    query = query_of(request)
    stages = (*STAGES, *FORM_STAGES)
    return next((found for stage in stages if (found := stage(query)) is not None), None)


def shipped_probabilities(model: TaskModel, requests: Iterable[Request]) -> npt.NDArray[np.float64]:
    """What the gateway computes [requests, tasks]; without any words, all tasks are as probable."""
    stage, uniform = LearnedStage(model), (1.0 / len(_TASKS),) * len(_TASKS)
    return np.array([found.probabilities if (found := stage(query_of(each))) else uniform for each in requests])


def query_of(request: Request) -> Query:
    """What the gateway's classifier receives of a request."""
    return Query(
        request_id="",
        model="",
        body=b"",
        received_s=0.0,
        last_user_text=request.user,
        system_text=request.system,
        earlier_text=request.earlier,
        answer_text=request.answer,
    )
