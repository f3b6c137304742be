"""A team's own requests beside the shipped lines: read, cross-validated and trained.

They come from a file of labelled requests, and from a decision log that holds the texts of requests and feedback on
them. A line of the file is a chat request (`messages`, or `prompt`) with its `task`, and `also_ok` if other tasks are
as defensible.
"""

import json
import random
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
import torch

from gateway.classifier.model import TaskModel
from gateway.enums import Task
from gateway.errors import BadRequest
from gateway.types import Query
from gateway.web.parse_request import parse_chat
from training.classifier.compose import Request
from training.classifier.evaluate import LeftOut, lane_scores, shipped_probabilities
from training.classifier.fit import Dataset, Table, fit, joined, scores
from training.classifier.lines import Line
from training.classifier.train import COPIES, EPOCHS, SEED, prepare
from twolane.process.errors import ConfigurationError

LEAST: Final = 10  # different requests, below which cross-validation says nothing
FOLDS: Final = 3  # of the team's requests; each is one more training on all lines
SHARE: Final = 0.1  # of the team's requests in the loss, if they are fewer
MAX_WEIGHT: Final = 20.0  # of one of them
_WORD: Final = re.compile(r"\w+")


# Reading


def read_labelled(path: Path) -> list[Request]:
    """The requests of a file. Raises ConfigurationError, which names file and line."""
    found = []
    for number, text in _lines(path):
        try:
            given = json.loads(text)
            line = _line(number, Task(given["task"]), tuple(map(Task, given.get("also_ok") or ())))
            found.append(_request(line, _query(given)))
        except (KeyError, ValueError, TypeError, AttributeError, BadRequest) as error:
            cause = f"missing {error}" if isinstance(error, KeyError) else str(error)
            raise ConfigurationError(f"{path}:{number}: not a labelled request: {cause}") from error
    return found


def read_log(path: Path) -> list[Request]:
    """The requests of a decision log with feedback: of the task that it names, or of the classified one if the answer
    was rated good. Raises ConfigurationError."""
    prompts: dict[str, Mapping[str, str]] = {}
    classified: dict[str, str] = {}
    feedback: dict[str, str | None] = {}
    for number, text in _lines(path):
        try:
            entry = json.loads(text)
            if entry.get("event") == "prompt":
                prompts[entry["request_id"]] = entry
            elif entry.get("event") == "feedback":
                feedback[entry["request_id"]] = entry["task"] or ("" if entry["rating"] == "good" else None)
            elif "event" not in entry:
                classified[entry["id"]] = entry["task"]
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise ConfigurationError(f"{path}:{number}: not a line of a decision log: {error!r}") from error
    found = []
    for number, (request_id, named) in enumerate(feedback.items()):
        task = classified.get(request_id) if named == "" else named
        if task in tuple(Task) and (prompt := prompts.get(request_id)):
            texts = {name: prompt.get(name, "") for name in ("system", "earlier", "answer", "user")}
            line = _line(number, Task(task), (), asked=texts["user"], system=texts["system"])
            found.append(Request(line=line, **texts))
    return found


def _lines(path: Path) -> Iterable[tuple[int, str]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        cause = getattr(error, "strerror", None) or error
        raise ConfigurationError(f"cannot read {path}: {cause}") from error
    return ((number, line) for number, line in enumerate(lines, 1) if line.strip())


def _query(given: Mapping[str, Any]) -> Query:
    messages = given.get("messages")
    if messages is None:
        messages = [{"role": "user", "content": given["prompt"]}]
    return parse_chat(orjson.dumps({"model": "auto", "messages": messages}), {}, now_s=0.0, key=None)


def _line(number: int, task: Task, also_ok: tuple[Task, ...], *, asked: str = "", system: str = "") -> Line:
    return Line(
        writer="team", number=number, task=task, also_ok=also_ok, lang="", form="complete", asked=asked, system=system
    )


def _request(line: Line, query: Query) -> Request:
    return Request(
        line=line,
        system=query.system_text,
        earlier=query.earlier_text,
        answer=query.answer_text,
        user=query.last_user_text,
    )


# Training


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """How many of a team's requests are right, by the shipped weights and by ones trained on the team's other
    requests: accuracy of the task, and precision and recall of the fast lane at a threshold."""

    accuracy: float
    lane_precision: float
    lane_recall: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """The model of the shipped lines and all requests of the team, and what it gains."""

    model: TaskModel
    before: Gain
    after: Gain


def train_team(
    team: Sequence[Request],
    lines: Sequence[Line],
    shipped: TaskModel,
    *,
    threshold: float,
    copies: int = COPIES,
    epochs: int = EPOCHS,
) -> Trained:
    """Cross-validate over FOLDS folds of the team's requests, then fit to all. Raises ConfigurationError if they are
    too few."""
    folds = folds_of(team)
    order = [each for fold in folds for each in fold]
    table, data = prepare(lines, copies=copies, texts=[_text(each) for each in team])
    left_out, found = [], []
    for number, held_out in enumerate(folds):
        rest = [each for at, fold in enumerate(folds) if at != number for each in fold]
        model = fit(joined(data, _repeated(table, rest, data, copies)), table.rows, seed=SEED, epochs=epochs)
        left_out += held_out
        found.append(scores(model, table.dataset(held_out)))
    model = fit(joined(data, _repeated(table, order, data, copies)), table.rows, seed=SEED, epochs=epochs)
    weights = table.folded(model.table.weight.detach().numpy())
    divisor = shipped.temperature
    return Trained(
        model=TaskModel(tasks=tuple(Task), vocabulary=table.vocabulary, weights=weights, temperature=divisor),
        before=_gain(LeftOut(requests=left_out, found=_shipped_scores(shipped, left_out), divisor=1.0), threshold),
        after=_gain(LeftOut(requests=left_out, found=torch.cat(found), divisor=divisor), threshold),
    )


def folds_of(team: Sequence[Request]) -> list[list[Request]]:
    """The requests in FOLDS folds. Those with the same words are in one: a fit to a copy of a request that is left out
    would be right without having learned anything. Raises ConfigurationError if too few differ."""
    by_words: defaultdict[tuple[str, ...], list[Request]] = defaultdict(list)
    for each in team:
        by_words[tuple(_WORD.findall(_text(each).lower()))].append(each)
    if len(by_words) < LEAST:
        raise ConfigurationError(
            f"{len(by_words)} different labelled requests are too few; at least {LEAST} are needed"
        )
    groups = random.Random(SEED).sample(list(by_words.values()), len(by_words))
    return [[each for group in groups[number::FOLDS] for each in group] for number in range(FOLDS)]


def _repeated(table: Table, requests: Sequence[Request], base: Dataset, copies: int) -> Dataset:
    """The requests as often as the composed lines, with a weight that gives them SHARE of the loss."""
    found = table.dataset([*requests] * copies, rng=np.random.default_rng(SEED))
    share = SHARE * len(base.examples) / max(1, len(found.examples))
    return Dataset(
        examples=found.examples, targets=found.targets, weights=found.weights * min(MAX_WEIGHT, max(1.0, share))
    )


def _shipped_scores(shipped: TaskModel, requests: Sequence[Request]) -> torch.Tensor:
    """The logarithms of the probabilities by the shipped weights."""
    return torch.from_numpy(shipped_probabilities(shipped, requests)).clamp(min=1e-12).log()


def _gain(found: LeftOut, threshold: float) -> Gain:
    precision, recall = lane_scores(found, threshold, np.arange(len(found.requests)))
    return Gain(accuracy=float(found.is_right.mean()), lane_precision=precision, lane_recall=recall)


def _text(request: Request) -> str:
    return "\n".join((request.system, request.earlier, request.user))
