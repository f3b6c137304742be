"""Train the task classifier: `python -m training.classifier --out gateway/classifier/tasks.npz [--json FILE]`.

The writers are divided into folds. For each fold, a model is fitted to the lines of the other writers and evaluated on
its own; the temperature, and the figures that are printed, come from these. The model that is written is fitted to all
lines, with that temperature.
"""

import argparse
import json
import random
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from gateway.classifier.forms import FORM_STAGES
from gateway.classifier.model import TaskModel
from gateway.classifier.weights import write_model
from gateway.enums import Task
from gateway.routing.classify import STAGES
from gateway.types import Classification, Query
from training.calibration import calibration_error
from training.classifier.compose import Request, compose, pasted_texts
from training.classifier.concepts import read_concepts, vocabulary_of
from training.classifier.fit import Model, Table, fit, scores, temperature
from training.classifier.lines import LINES, Line, read_lines
from training.classifier.materials import HELD_OUT, TRAINING, Materials
from training.tasks.registry import TASKS
from training.tasks.sample import SampleSpec

SEED: Final = 20261130
FOLDS: Final = 3
COPIES: Final = 3  # requests composed of every line
EPOCHS: Final = 4
FAST: Final = (Task.EDIT, Task.AUTOCOMPLETE, Task.STRUCTURED, Task.EXTRACTION)
BINS: Final = 10  # of the calibration error
PRECISION: Final = 0.95  # of the fast lane, at which its threshold is fitted
_TASKS: Final = list(Task)
# Tasks of the bundled checkpoint by name, their label, and labels that are as defensible.
BUNDLED: Final = (
    ("extraction", Task.EXTRACTION, (Task.STRUCTURED,)),
    ("sudoku", Task.REASONING, ()),
    ("clean-up", Task.EDIT, ()),
)
BUNDLED_ROWS: Final = 40


def main() -> None:
    """Command line: write the weights and print the evaluation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.npz", help="output file for the weights")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    parser.add_argument("--lines", type=Path, default=LINES, metavar="FOLDER", help="lines to train on")
    options = parser.parse_args()
    torch.set_num_threads(1)
    started = time.monotonic()
    lines = list(read_lines(options.lines))
    found = cross_validate(lines)
    write_model(train(lines, divisor=found.divisor), options.out)
    figures = evaluate(found)
    figures |= {"seconds": round(time.monotonic() - started, 1), "bytes": options.out.stat().st_size}
    print(json.dumps(figures, indent=2))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


# Fitting


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """Requests of writers that a model was not fitted to, their scores [requests, tasks], and the temperature."""

    requests: list[Request]
    found: Tensor
    divisor: float

    @cached_property
    def by_form(self) -> list[Classification | None]:
        """The classification of each request by its form, before the words are asked."""
        return [_by_form(each) for each in self.requests]

    @cached_property
    def probabilities(self) -> np.ndarray:
        """[requests, tasks]: those of the form if it decides, otherwise those of the words."""
        odds: np.ndarray = (self.found / self.divisor).softmax(1).numpy()
        for at, decided in enumerate(self.by_form):
            if decided is not None:
                odds[at] = (1.0 - decided.confidence) / (len(_TASKS) - 1)
                odds[at, _TASKS.index(decided.task)] = decided.confidence
        return odds


def cross_validate(lines: Sequence[Line], *, folds: int = FOLDS, copies: int = COPIES, epochs: int = EPOCHS) -> LeftOut:
    """The scores of every line by a model that has not seen its writer, beside texts that it has not seen."""
    requests, found = [], []
    for number in range(folds):
        held_out = [line for line in lines if fold_of(line, folds) == number]
        names = {line.name for line in held_out}
        model, table = _fit([line for line in lines if line.name not in names], copies=copies, epochs=epochs)
        beside, rng = Materials(HELD_OUT, pasted_texts(held_out)), random.Random(SEED)
        composed = [compose(rng, line, beside) for line in held_out]
        requests += composed
        found.append(scores(model, table.dataset(composed)))
    every = torch.cat(found)
    labels = torch.tensor([_TASKS.index(each.line.task) for each in requests])
    return LeftOut(requests=requests, found=every, divisor=temperature(every, labels))


def fold_of(line: Line, folds: int = FOLDS) -> int:
    """English writers are left out whole; of the few in each other language, a share of the lines."""
    name = line.writer if line.lang == "en" else line.name
    return zlib.crc32(name.encode()) % folds


def train(lines: Sequence[Line], *, divisor: float, copies: int = COPIES, epochs: int = EPOCHS) -> TaskModel:
    """The model of all lines."""
    model, table = _fit(lines, copies=copies, epochs=epochs)
    weights = table.folded(model.table.weight.detach().numpy())
    return TaskModel(tasks=tuple(Task), vocabulary=table.vocabulary, weights=weights, temperature=divisor)


def _fit(lines: Sequence[Line], *, copies: int, epochs: int) -> tuple[Model, Table]:
    concepts = read_concepts()
    table = Table(vocabulary_of((_text(line) for line in lines), concepts), concepts)
    beside, rng = Materials(TRAINING, pasted_texts(lines)), random.Random(SEED)
    requests = [compose(rng, line, beside) for _ in range(copies) for line in lines]
    requests += bundled_requests(rng)
    data = table.dataset(requests, rng=np.random.default_rng(SEED))
    return fit(data, table.rows, seed=SEED, epochs=epochs), table


def bundled_requests(rng: random.Random) -> list[Request]:
    """Requests of the tasks of the bundled checkpoint, in the wording that it was trained on."""
    found = []
    for name, task, also in BUNDLED:
        for number in range(BUNDLED_ROWS):
            text = TASKS[name](rng, SampleSpec(invented=0.5)).prompt
            line = Line(
                writer="bundled", number=number, task=task, also_ok=also, lang="en", form="complete", asked=text
            )
            found.append(Request(line=line, user=text))
    return found


def _by_form(request: Request) -> Classification | None:
    query = Query(
        request_id="",
        model="",
        body=b"",
        received_s=0.0,
        last_user_text=request.user,
        system_text=request.system,
    )
    stages = (*STAGES, *FORM_STAGES)
    return next((found for stage in stages if (found := stage(query)) is not None), None)


def _text(line: Line) -> str:
    return "\n".join((line.system, line.asked, *(content for _, content in line.before)))


# Evaluation


def evaluate(found: LeftOut) -> dict[str, Any]:
    """Accuracy by task, form and language; the calibration error; the threshold of the fast lane and its recall."""
    odds = found.probabilities
    best = odds.argmax(axis=1)
    right = np.array([_is_right(each.line, _TASKS[at]) for each, at in zip(found.requests, best, strict=True)])
    by_words = np.array([each is None for each in found.by_form])
    confidences: list[float] = odds[by_words].max(axis=1).tolist()
    threshold, recall = lane_threshold(found)

    def by(key: Callable[[Line], str]) -> dict[str, float]:
        keys = np.array([key(each.line) for each in found.requests])
        return {str(name): round(float(right[keys == name].mean()), 3) for name in np.unique(keys)}

    return {
        "temperature": round(found.divisor, 3),
        "accuracy": round(float(right.mean()), 4),
        "macro_f1": round(macro_f1(found), 4),
        "calibration_error": round(calibration_error(confidences, right[by_words].tolist(), BINS), 4),
        "lane_threshold": round(threshold, 3),
        "lane_recall": round(recall, 3),
        "by_task": by(lambda line: line.task.value),
        "by_form": by(lambda line: line.form),
        "by_language": by(lambda line: line.lang),
    }


def macro_f1(found: LeftOut) -> float:
    """F1 averaged over the tasks; a prediction in `also_ok` counts as correct for the label."""
    counts = np.zeros((len(_TASKS), 3))
    for each, at in zip(found.requests, found.probabilities.argmax(axis=1).tolist(), strict=True):
        label = _TASKS.index(each.line.task)
        if _is_right(each.line, _TASKS[at]):
            counts[label, 0] += 1
        else:
            counts[label, 1] += 1
            counts[at, 2] += 1
    return float(np.mean(2 * counts[:, 0] / np.maximum(1, 2 * counts[:, 0] + counts[:, 1] + counts[:, 2])))


def lane_threshold(found: LeftOut) -> tuple[float, float]:
    """The lowest probability of the fast tasks together at which the fast lane still has PRECISION, and its recall."""
    columns = [_TASKS.index(task) for task in FAST]
    mass = found.probabilities[:, columns].sum(axis=1)
    lanes = [{task in FAST for task in (each.line.task, *each.line.also_ok)} for each in found.requests]
    kept = np.array([len(lane) == 1 for lane in lanes])
    is_fast = np.array([True in lane for lane in lanes])[kept]
    order = np.argsort(-mass[kept], kind="stable")
    hits = np.cumsum(is_fast[order])
    enough = np.flatnonzero(hits / np.arange(1, order.size + 1) >= PRECISION)
    if not enough.size:
        return 1.0, 0.0
    return float(mass[kept][order][enough[-1]]), float(hits[enough[-1]] / max(1, is_fast.sum()))


def _is_right(line: Line, task: Task) -> bool:
    return task is line.task or task in line.also_ok


if __name__ == "__main__":
    main()
