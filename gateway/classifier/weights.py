"""Reads and writes `tasks.npz`: the weights of the task classifier, one signed byte each with a scale per task.

Knows the file, not how to classify. Made by `python -m training.classifier`; its card is README.md beside it.
"""

import zipfile
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from gateway.classifier.features import TABLE_ROWS, VERSION
from gateway.classifier.hashing import word_hash
from gateway.classifier.model import KNOWN_BITS, Learned, TaskModel
from gateway.enums import Task
from gateway.errors import BadWeights
from gateway.routing.classify import WITNESSES, Classify, classify

FILE: Final = Path(__file__).with_name("tasks.npz")
MAX_BYTES: Final = 2_000_000


def open_classifier(path: Path = FILE) -> Classify:
    """Everything the gateway classifies with: the fixed witnesses, then the trained one. Raises BadWeights."""
    return partial(classify, stages=(*WITNESSES, Learned(read_model(path))))


def read_model(path: Path = FILE) -> TaskModel:
    """Raises BadWeights, which says what is wrong with the file."""
    if not zipfile.is_zipfile(path):
        raise BadWeights(f"{path}: missing, or no archive of weights")
    try:
        with path.open("rb") as data, np.load(data, allow_pickle=False) as file:
            version, table, scales = int(file["version"]), file["table"], file["scales"]
            tasks, words = tuple(Task(str(name)) for name in file["tasks"]), [str(word) for word in file["words"]]
            known = np.unpackbits(file["known"]).astype(np.bool_)
    except (OSError, KeyError, ValueError, TypeError, zipfile.BadZipFile) as fault:
        raise BadWeights(f"{path}: not readable as weights: {fault}") from fault
    if version == VERSION and known.shape != (1 << KNOWN_BITS,):
        raise BadWeights(f"{path}: {known.size} places of known words do not fit")
    if version != VERSION:
        raise BadWeights(f"{path}: made for version {version} of the features, this is {VERSION}")
    if table.shape != (TABLE_ROWS, len(tasks)) or table.dtype != np.int8 or scales.shape != (len(tasks),):
        raise BadWeights(f"{path}: a table of {table.dtype} {table.shape} and {scales.shape} scales does not fit")
    return TaskModel(
        tasks=tasks,
        weights=table.astype(np.float32) * scales.astype(np.float32),
        known=known,
        vocabulary={word_hash(word): word for word in words},
    )


def write_model(model: TaskModel, path: Path) -> None:
    """The same bytes for the same model."""
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
