"""The trained stage of task classification: a linear model over the words of a request.

It is used for requests that neither the client nor the request's structure assigns to a task. Its confidence is
calibrated: of the predictions at 0.8, about four in five are right on prompts like those of the evaluation (see the
model card). The confidence is reduced if the text's first and last words are mostly unknown (out of distribution).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from gateway.classifier.features import Features, features
from gateway.classifier.hashing import Rows, hash_buckets
from gateway.enums import Task
from gateway.types import Classification, Query

_MAX_NAMED: Final = 3  # words named in the evidence
_MAX_CONSIDERED: Final = 8  # strongest features considered for the evidence
KNOWN_BITS: Final = 20
_KNOWN_SHARE: Final = 0.25  # share of known words at one edge above which the confidence is not reduced: 3 of 12
_MIN_TRUST: Final = 0.1  # the smallest factor by which the confidence is reduced
_STRUCTURED_WORDS: Final = 8  # a shorter text that asks for JSON, such as "As JSON.", says too little about the answer


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskModel:
    """Weights [rows, tasks], scaled by the temperature, and the words that the evidence may name, by hash.

    Evidence is logged and prompts are not, so only words of the model's own vocabulary are named. `known` [2^20] is
    true at the hash buckets of all words in the training data; about one in a hundred unknown words collides.
    """

    tasks: tuple[Task, ...]
    weights: npt.NDArray[np.float32]
    known: npt.NDArray[np.bool_]
    vocabulary: Mapping[int, str]


class LearnedStage:
    """See `classify.EvidenceStage`. Returns None for a request without words."""

    def __init__(self, model: TaskModel) -> None:
        self._model = model
        self._evenly = np.full(len(model.tasks), 1.0 / len(model.tasks), dtype=np.float32)

    def __call__(self, query: Query) -> Classification | None:
        """The most probable task given the words of the system prompt and the last user message."""
        found = features(system=query.system_text, user=query.last_user_text)
        if not found.own_words:
            return None
        rows = self._model.weights.take(found.rows, axis=0)
        scores = found.weights @ rows
        best = int(scores.argmax())
        odds = np.exp(scores - scores[best])
        return Classification(
            task=self._model.tasks[best],
            confidence=float(1.0 / odds.sum()) * self._trust(found) * _certainty(self._model.tasks[best], found),
            evidence=self._evidence(found, rows[: found.words.size], best),
        )

    def _trust(self, found: Features) -> float:
        """The factor for the confidence, by the share of known words at the edges of the text."""
        size = found.edges[0].size
        if not size:  # a script without spaces: only its character n-grams count
            return 1.0
        known = max(int(np.count_nonzero(self._known(edge))) for edge in found.edges)
        return max(_MIN_TRUST, min(1.0, known / (_KNOWN_SHARE * size)))

    def _known(self, words: Rows) -> npt.NDArray[np.bool_]:
        return self._model.known[hash_buckets(words, KNOWN_BITS)]

    def _evidence(self, found: Features, rows: npt.NDArray[np.float32], best: int) -> str:
        """`words`, and the strongest of them: those with the highest weight for the task, relative to the average."""
        strength = (rows[:, best] - rows @ self._evenly) * found.weights[: len(rows)]
        order = strength.argsort()[: -_MAX_CONSIDERED - 1 : -1]
        strongest = zip(found.words[order].tolist(), strength[order].tolist(), strict=True)
        names = (self._model.vocabulary.get(word) for word, strong in strongest if strong > 0)
        named = list(dict.fromkeys(name for name in names if name))[:_MAX_NAMED]
        return f"words: {', '.join(named)}" if named else "words"


def _certainty(task: Task, found: Features) -> float:
    """The factor for structured output that a few words ask for: a request that is sure of its form says which."""
    return min(1.0, found.own_words / _STRUCTURED_WORDS) if task is Task.STRUCTURED else 1.0
