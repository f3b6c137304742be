"""Trains the task classifier on lines of many writers, and evaluates it on writers or kinds of use that it has not
seen."""

import random
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np
import torch

from gateway.classifier.model import Floats, TaskModel
from gateway.classifier.tokens import Vocabulary
from gateway.enums import Task
from training.classifier.compose import Request, compose, pasted_texts
from training.classifier.concepts import read_concepts, vocabulary_of
from training.classifier.demands import DEMANDS, with_demands
from training.classifier.evaluate import LeftOut, is_right, shipped_probabilities
from training.classifier.fit import Dataset, Model, Table, fit, scores, temperature
from training.classifier.lines import Line, kinds_of_writers
from training.classifier.materials import HELD_OUT, TRAINING, Materials
from training.tasks.registry import TASKS
from training.tasks.sample import SampleSpec

SEED: Final = 20261130
FOLDS: Final = 6
COPIES: Final = 4  # requests composed of every line
EPOCHS: Final = 2
_TASKS: Final = list(Task)
# Tasks of the bundled checkpoint by name, their label, and labels that are as defensible.
BUNDLED: Final = (
    ("extraction", Task.EXTRACTION, (Task.STRUCTURED,)),
    ("sudoku", Task.REASONING, ()),
    ("clean-up", Task.EDIT, ()),
)
BUNDLED_ROWS: Final = 40


def writer_folds(lines: Iterable[Line]) -> dict[str, int]:
    """The fold of each writer. Writers are left out whole; those of one language are in different folds, so that a
    model that has not seen one of them has seen the others, as the shipped one will have."""
    languages: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for line in lines:
        languages[line.writer][line.lang] += 1
    names = sorted(languages, key=lambda name: (languages[name].most_common(1)[0][0], zlib.crc32(name.encode())))
    return {name: at % FOLDS for at, name in enumerate(names)}


def kind_folds(lines: Iterable[Line]) -> dict[str, int]:
    """Kinds of use are left out whole, each in a fold of its own."""
    kinds = kinds_of_writers()
    numbers = {kind: at for at, kind in enumerate(sorted(set(kinds.values())))}
    return {writer: numbers[kinds[writer]] for writer in {line.writer for line in lines}}


def cross_validate(
    lines: Sequence[Line],
    *,
    folds: Mapping[str, int],
    copies: int = COPIES,
    epochs: int = EPOCHS,
) -> LeftOut:
    """The scores of every line by a model that has not seen its fold, beside texts that it has not seen."""
    requests, found, models = [], [], []
    for number in sorted(set(folds.values())):
        held_out = [line for line in lines if folds[line.writer] == number]
        model, table = _fit([line for line in lines if folds[line.writer] != number], copies=copies, epochs=epochs)
        beside, rng = Materials(HELD_OUT, pasted_texts(held_out)), random.Random(SEED)
        composed = [compose(rng, line, beside) for line in held_out]
        requests += composed
        found.append(scores(model, table.dataset(composed)))
        models.append((table.vocabulary, table.folded(model.table.weight.detach().numpy()), composed))
    every = torch.cat(found)
    divisor = temperature(every, torch.tensor(is_right(requests, every.argmax(1).tolist()), dtype=torch.float32))
    shipped = [shipped_probabilities(_model(words, table, divisor), own) for words, table, own in models]
    return LeftOut(requests=requests, found=every, divisor=divisor, shipped=np.concatenate(shipped))


def train(lines: Sequence[Line], *, divisor: float, copies: int = COPIES, epochs: int = EPOCHS) -> TaskModel:
    """The model of all lines."""
    model, table = _fit(lines, copies=copies, epochs=epochs)
    return _model(table.vocabulary, table.folded(model.table.weight.detach().numpy()), divisor)


def _model(vocabulary: Vocabulary, weights: Floats, divisor: float) -> TaskModel:
    return TaskModel(tasks=tuple(Task), vocabulary=vocabulary, weights=weights, temperature=divisor)


def _fit(lines: Sequence[Line], *, copies: int, epochs: int) -> tuple[Model, Table]:
    table, data = prepare(lines, copies=copies)
    return fit(data, table.rows, seed=SEED, epochs=epochs), table


def prepare(lines: Sequence[Line], *, copies: int = COPIES, texts: Iterable[str] = ()) -> tuple[Table, Dataset]:
    """A table for the words of the lines and of further texts, and the requests composed of the lines."""
    concepts = read_concepts()
    said = [phrase for phrases in DEMANDS.values() for phrase in phrases]
    table = Table(vocabulary_of([*(_text(line) for line in lines), *said, *texts], concepts), concepts)
    beside, rng = Materials(TRAINING, pasted_texts(lines)), random.Random(SEED)
    requests = [compose(rng, with_demands(rng, line), beside) for _ in range(copies) for line in lines]
    requests += bundled_requests(rng)
    return table, table.dataset(requests, rng=np.random.default_rng(SEED))


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


def _text(line: Line) -> str:
    return "\n".join((line.system, line.asked, *(content for _, content in line.before)))
