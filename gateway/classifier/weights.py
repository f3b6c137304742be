"""Reads and writes `tasks.npz`, the weights of the task classifier: int8 with one scale per task.

The file is written by `python -m training.classifier`; README.md in this folder is its model card.
"""

import zipfile
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from gateway.classifier.features import TABLE_ROWS, VERSION
from gateway.classifier.hashing import word_hash
from gateway.classifier.model import KNOWN_BITS, LearnedStage, TaskModel
from gateway.enums import Task
from gateway.errors import BadWeights
from gateway.routing.classify import STAGES, Classify, classify

FILE: Final = Path(__file__).with_name("tasks.npz")
MAX_BYTES: Final = 2_000_000


def open_classifier(path: Path = FILE) -> Classify:
    """The gateway's classifier: the fixed stages, then the trained one. Raises BadWeights."""
    return partial(classify, stages=(*STAGES, LearnedStage(read_model(path))))


def read_model(path: Path = FILE) -> TaskModel:
    """Read the weights. Raises BadWeights, which names the cause."""
    if not zipfile.is_zipfile(path):
        raise BadWeights(f"{path}: file is missing or not an .npz archive")
    try:
        with path.open("rb") as data, np.load(data, allow_pickle=False) as file:
            version, table, scales = int(file["version"]), file["table"], file["scales"]
            tasks, words = tuple(Task(str(name)) for name in file["tasks"]), [str(word) for word in file["words"]]
            known = np.unpackbits(file["known"]).astype(np.bool_)
    except (OSError, KeyError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise BadWeights(f"{path}: cannot be read as classifier weights: {error}") from error
    if version == VERSION and known.shape != (1 << KNOWN_BITS,):
        raise BadWeights(f"{path}: the table of known words has {known.size} entries, expected {1 << KNOWN_BITS}")
    if version != VERSION:
        raise BadWeights(f"{path}: made for version {version} of the features, expected version {VERSION}")
    if table.shape != (TABLE_ROWS, len(tasks)) or table.dtype != np.int8 or scales.shape != (len(tasks),):
        raise BadWeights(
            f"{path}: table of {table.dtype} {table.shape} with {scales.shape} scales does not fit,"
            f" expected int8 {(TABLE_ROWS, len(tasks))} with {(len(tasks),)} scales"
        )
    return TaskModel(
        tasks=tasks,
        weights=table.astype(np.float32) * scales.astype(np.float32),
        known=known,
        vocabulary={word_hash(word): word for word in words},
    )


def write_model(model: TaskModel, path: Path) -> None:
    """Write the weights; the same model gives the same bytes."""
    scales = np.abs(model.weights).max(axis=0) / 127.0
    np.savez_compressed(
        path,
        version=np.array(VERSION),
        tasks=np.array([task.value for task in model.tasks]),
        table=np.rint(model.weights / scales).astype(np.int8),
        scales=scales.astype(np.float32),
        known=np.packbits(model.known),
        words=np.array(list(model.vocabulary.values())),
    )
