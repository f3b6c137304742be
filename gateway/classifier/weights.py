"""Reads and writes `tasks.npz`, the weights of the task classifier: int8 with one scale per column.

The file is written by `python -m training.classifier`; README.md in this folder is its model card.
"""

import zipfile
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from gateway.classifier.features import VERSION
from gateway.classifier.forms import FORM_STAGES
from gateway.classifier.model import LearnedStage, TaskModel, scales_of, table_rows
from gateway.classifier.tokens import Vocabulary
from gateway.enums import Task
from gateway.errors import BadWeights
from gateway.routing.classify import STAGES, Classify, EvidenceStage, classify

FILE: Final = Path(__file__).with_name("tasks.npz")
MAX_BYTES: Final = 2_000_000


def open_classifier(path: Path = FILE) -> Classify:
    """The gateway's classifier: the fixed stages, those by form, then the trained one. Raises BadWeights."""
    stages: tuple[EvidenceStage, ...] = (*STAGES, *FORM_STAGES, LearnedStage(read_model(path)))
    return partial(classify, stages=stages)


def read_model(path: Path = FILE) -> TaskModel:
    """Read the weights. Raises BadWeights, which names the cause."""
    if not zipfile.is_zipfile(path):
        raise BadWeights(f"{path}: file is missing or not an .npz archive")
    try:
        with path.open("rb") as data, np.load(data, allow_pickle=False) as file:
            version = int(file["version"])
            if version != VERSION:
                raise BadWeights(f"{path}: made for version {version} of the features, expected version {VERSION}")
            table, scales, temperature = file["table"], file["scales"], float(file["temperature"])
            tasks = tuple(Task(str(name)) for name in file["tasks"])
            words = file["words"].tobytes().decode()
            vocabulary = Vocabulary(words.split("\n") if words else [], file["classes"].tolist())
    except (OSError, KeyError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise BadWeights(f"{path}: cannot be read as classifier weights: {error}") from error
    expected = (table_rows(vocabulary), len(tasks) + 1)
    if table.shape != expected or table.dtype != np.int8 or scales.shape != expected[1:] or tasks != tuple(Task):
        raise BadWeights(
            f"{path}: table of {table.dtype} {table.shape} with {scales.shape} scales does not fit,"
            f" expected int8 {expected} with {expected[1:]} scales for the tasks {', '.join(Task)}"
        )
    return TaskModel(
        tasks=tasks,
        vocabulary=vocabulary,
        weights=table.astype(np.float32) * scales.astype(np.float32),
        temperature=temperature,
    )


def write_model(model: TaskModel, path: Path) -> None:
    """Write the weights; the same model gives the same bytes."""
    scales = scales_of(model.weights)
    np.savez_compressed(
        path,
        version=np.array(VERSION),
        tasks=np.array([task.value for task in model.tasks]),
        table=np.rint(model.weights / scales).astype(np.int8),
        scales=scales,
        temperature=np.array(model.temperature),
        words=np.frombuffer("\n".join(model.vocabulary.words).encode(), dtype=np.uint8),
        classes=np.array(model.vocabulary.numbers, dtype=np.uint8),
    )
