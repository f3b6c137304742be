"""Train the task classifier: `python -m training.classifier --out gateway/classifier/tasks.npz [--json FILE]`.

Two fits. The first uses four fifths of the prompt templates; the rest is used to evaluate it and to fit the
temperature. The second uses all templates, with that temperature, and is shipped. Two minutes on one core.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from gateway.classifier.features import HASH_BITS
from gateway.classifier.hashing import hash_buckets, word_hash
from gateway.classifier.model import KNOWN_BITS, TaskModel
from gateway.classifier.weights import write_model
from gateway.enums import Task
from training.classifier.examples import EVERYTHING, FIT, HELD_OUT, examples, task_words
from training.classifier.fit import Matrix, fit, matrix, scores, temperature

SEED: Final = 20261125
MIN_COUNT: Final = 6  # occurrences at an edge before a word counts as known; in short prompts both edges overlap
VOCABULARY: Final = 2000  # words that the evidence may name


def main() -> None:
    """Command line: write the weights and print the evaluation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.npz", help="output file for the weights")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    parser.add_argument("--examples", type=int, default=40_000, help="prompts generated for each of the two fits")
    parser.add_argument("--epochs", type=int, default=5, help="passes over the prompts")
    options = parser.parse_args()
    torch.set_num_threads(1)
    started = time.monotonic()
    model, figures = train(count=options.examples, epochs=options.epochs)
    write_model(model, options.out)
    figures |= {"seconds": round(time.monotonic() - started, 1), "bytes": options.out.stat().st_size}
    print(json.dumps(figures, indent=2))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def train(*, count: int, epochs: int, seed: int = SEED) -> tuple[TaskModel, dict[str, Any]]:
    """The shipped model, and the evaluation of the model that was fitted without the held-out templates."""
    held_out = matrix(examples(seed + 1, count=max(200, count // 8), shares=HELD_OUT))
    table = fit(matrix(examples(seed, count=count, shares=FIT)), seed=seed, epochs=epochs)
    found = scores(table, held_out)
    divisor = temperature(found, held_out.labels)
    figures = {"temperature": round(divisor, 3), **evaluate(found / divisor, held_out.labels)}
    everything = matrix(examples(seed + 2, count=count, shares=EVERYTHING))
    weights = (fit(everything, seed=seed, epochs=epochs).weight.detach() / divisor).numpy()
    vocabulary, known = discriminative_words(weights), known_words(everything)
    return TaskModel(tasks=tuple(Task), weights=weights, known=known, vocabulary=vocabulary), figures


def evaluate(found: Tensor, labels: Tensor) -> dict[str, Any]:
    """Accuracy overall and by task, and the expected calibration error in ten bins."""
    confidence, predicted = found.softmax(1).max(1)
    right = (predicted == labels).float()
    bins = (confidence * 10).clamp(max=9).long()
    gaps = [abs(float((confidence - right)[bins == n].sum())) for n in range(10)]
    return {
        "accuracy": round(float(right.mean()), 4),
        "by_task": {task.value: round(float(right[labels == at].mean()), 3) for at, task in enumerate(Task)},
        "calibration_error": round(sum(gaps) / len(labels), 4),
    }


def known_words(data: Matrix) -> np.ndarray:
    """The hash buckets of all words that occur at an edge of at least MIN_COUNT prompts."""
    words, times = np.unique(data.edges, return_counts=True)
    known = np.zeros(1 << KNOWN_BITS, dtype=np.bool_)
    known[hash_buckets(words[times >= MIN_COUNT], KNOWN_BITS)] = True
    return known


def discriminative_words(weights: np.ndarray) -> dict[int, str]:
    """The words of the task templates whose weights differ most between tasks."""
    words = sorted(task_words())
    rows = hash_buckets(np.array([word_hash(word) for word in words], dtype=np.uint32), HASH_BITS)
    spread = weights[rows].std(axis=1)
    kept = sorted(words[at] for at in np.argsort(-spread, kind="stable")[:VOCABULARY])
    return {word_hash(word): word for word in kept}


if __name__ == "__main__":
    main()
