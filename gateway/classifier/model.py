"""The last witness: a linear model over the words of a request, for what neither the application nor its form tells.

The model is handed in; where its weights come from, this file does not know. Its confidence is calibrated: of the
answers given at 0.8, about four in five are right on prompts like those it was measured on (see the model's card). Of a
text whose first and last words it hardly knows it is not sure at all, whatever their letters look like.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from gateway.classifier.features import Features, features
from gateway.classifier.hashing import Rows, places
from gateway.enums import Task
from gateway.types import Classification, Query

_NAMED: Final = 3  # words that the evidence names at most
_LOOKED_AT: Final = 8  # of the strongest features
KNOWN_BITS: Final = 20
_ENOUGH: Final = 0.25  # known words at one of the edges, from which on probabilities are believed: three of twelve
_LEAST: Final = 0.1  # of a probability that remains


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskModel:
    """Weights [rows, tasks], the temperature already in them, and the words that evidence may name, by their hash.

    Only words of the model's own vocabulary are ever named: evidence is logged, and prompts are not. `known` [2^20] is
    true at the places of all words that it learned from; of strange words about one in a hundred shares such a place.
    """

    tasks: tuple[Task, ...]
    weights: npt.NDArray[np.float32]
    known: npt.NDArray[np.bool_]
    vocabulary: Mapping[int, str]


class Learned:
    """See `classify.ResponseRecorder`. Silent about a request without words."""

    def __init__(self, model: TaskModel) -> None:
        self._model = model
        self._evenly = np.full(len(model.tasks), 1.0 / len(model.tasks), dtype=np.float32)

    def __call__(self, query: Query) -> Classification | None:
        """The likeliest task by the words of the system prompt and the last user turn."""
        found = features(system=query.system_text, user=query.last_user_text)
        if not found.own_words:
            return None
        rows = self._model.weights.take(found.rows, axis=0)
        scores = found.weights @ rows
        best = int(scores.argmax())
        odds = np.exp(scores - scores[best])
        return Classification(
            task=self._model.tasks[best],
            confidence=float(1.0 / odds.sum()) * self._trust(found),
            evidence=self._evidence(found, rows[: found.words.size], best),
        )

    def _trust(self, found: Features) -> float:
        """How far the text is made of words at all that the model may speak of."""
        size = found.edges[0].size
        if not size:  # a script without spaces: its runs of characters speak
            return 1.0
        known = max(int(np.count_nonzero(self._known(edge))) for edge in found.edges)
        return max(_LEAST, min(1.0, known / (_ENOUGH * size)))

    def _known(self, words: Rows) -> npt.NDArray[np.bool_]:
        return self._model.known[places(words, KNOWN_BITS)]

    def _evidence(self, found: Features, rows: npt.NDArray[np.float32], best: int) -> str:
        """`words`, and the strongest of them: those whose rows speak most for the task, against the average task."""
        strength = (rows[:, best] - rows @ self._evenly) * found.weights[: len(rows)]
        order = strength.argsort()[: -_LOOKED_AT - 1 : -1]
        strongest = zip(found.words[order].tolist(), strength[order].tolist(), strict=True)
        names = (self._model.vocabulary.get(word) for word, strong in strongest if strong > 0)
        named = list(dict.fromkeys(name for name in names if name))[:_NAMED]
        return f"words: {', '.join(named)}" if named else "words"
