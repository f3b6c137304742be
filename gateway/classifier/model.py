"""The trained stage of task classification: a linear model over the words of a request, with attention over its units.

It is used for requests that neither the client nor the request's form assigns to a task. Each unit of the request (see
`features`) has a score for every task and a score for being what is asked; a softmax of the latter weighs the former,
so that the topic of a pasted text counts little. The confidence is calibrated on writers that were left out (see the
model card), and reduced if the units that decide consist of unknown words.
"""

from dataclasses import dataclass
from math import exp
from typing import Final

import numpy as np
import numpy.typing as npt

from gateway.classifier.features import HASHED, HASHED_ROWS, REQUEST_FLAGS, UNIT_FLAGS, Features, features
from gateway.classifier.tokens import FIRST_WORD, STEM, Vocabulary
from gateway.enums import Task
from gateway.types import Classification, Query

Floats = npt.NDArray[np.float32]

_MAX_NAMED: Final = 3  # words named in the evidence
_MAX_CONSIDERED: Final = 12  # strongest tokens considered for the evidence
_KNOWN_SHARE: Final = 0.3  # share of known words in what is asked above which the confidence is not reduced
_MIN_TRUST: Final = 0.1  # the smallest factor by which the confidence is reduced
_STRUCTURED_TOKENS: Final = 8  # a shorter text that asks for JSON, such as "As JSON.", says too little of the answer
_SHARES: Final = (1.0 / np.sqrt(np.maximum(1, np.arange(512)))).astype(np.float32)[:, None]  # by tokens of a unit
FLAG_WEIGHT: Final = 0.5


def table_rows(vocabulary: Vocabulary) -> int:
    """Rows of a model's table: tokens, hashed rows, flags of units, flags of requests."""
    return len(vocabulary.names) + HASHED_ROWS + UNIT_FLAGS + REQUEST_FLAGS


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskModel:
    """`weights` [rows, tasks + 1]; the last column scores whether a unit is what is asked. Scores are divided by the
    temperature.

    Evidence is logged and prompts are not, so only words of the model's own vocabulary are named.
    """

    tasks: tuple[Task, ...]
    vocabulary: Vocabulary
    weights: Floats
    temperature: float


def scales_of(weights: Floats) -> Floats:
    """The step of each column's weights when they are rounded to 8 bits."""
    steps: Floats = (np.maximum(np.abs(weights).max(axis=0), 1e-6) / 127.0).astype(np.float32)
    return steps


class LearnedStage:
    """See `classify.EvidenceStage`. Returns None for a request without words."""

    def __init__(self, model: TaskModel) -> None:
        self._model = model
        names = model.vocabulary.names
        self._structured = model.tasks.index(Task.STRUCTURED)
        self._sharpness = 1.0 / model.temperature
        self._first_hashed = len(names)
        # Integers of 8 bits: rows are read at random, and a smaller table stays in the processor's cache.
        self._scales = scales_of(model.weights)
        self._table = np.rint(model.weights / self._scales).astype(np.int8)
        flags = model.weights[len(names) + HASHED_ROWS :] * np.float32(FLAG_WEIGHT)
        self._unit_flags = flags[:UNIT_FLAGS]
        self._request_flags = flags[UNIT_FLAGS:, :-1].copy()
        is_word = [at >= FIRST_WORD and not name.endswith(STEM) for at, name in enumerate(names)]
        counts = [name[0].isalpha() or name.startswith("<") for name in names]
        self._known = np.array([is_word, counts], dtype=np.float32).T.copy()

    def __call__(self, query: Query) -> Classification | None:
        """The most probable task given the words of the system prompt, the last user message and the turn before."""
        found = features(
            self._model.vocabulary,
            system=query.system_text,
            user=query.last_user_text,
            earlier=query.earlier_text,
            answer=query.answer_text,
        )
        if not found.own_tokens:
            return None
        each, units = self._scores(found)
        gates = units[:, -1]
        shares = np.exp(gates - gates.max())
        shares /= shares.sum()
        scores = (shares @ units)[:-1] + self._request_flags.take(found.request, axis=0).sum(axis=0)
        probabilities = self._probabilities(scores.tolist(), self._trust(found, shares))
        if not (query.answer_text or query.system_text):
            probabilities[self._structured] *= min(1.0, found.own_tokens / _STRUCTURED_TOKENS)
        confidence = max(probabilities)
        best = probabilities.index(confidence)
        return Classification(
            task=self._model.tasks[best],
            confidence=confidence,
            evidence=self._evidence(found, each, int((shares * units[:, best]).argmax()), best),
            probabilities=tuple(probabilities),
        )

    def _probabilities(self, scores: list[float], trust: float) -> list[float]:
        """A softmax; for ten numbers, Python is faster than numpy."""
        top, sharpness = max(scores), self._sharpness
        odds = [exp((score - top) * sharpness) for score in scores]
        share = trust / sum(odds)
        return [each * share for each in odds]

    def _scores(self, found: Features) -> tuple[npt.NDArray[np.int32], Floats]:
        """The scores of all tokens [tokens, tasks + 1], in steps of the scales, and of units [units, tasks + 1]."""
        rows = np.empty((HASHED + 1, found.ids.size), dtype=np.intp)
        rows[0] = found.ids
        np.add(found.hashed, self._first_hashed, out=rows[1:])
        each = self._table.take(rows, axis=0).sum(axis=0, dtype=np.int32)
        units = np.add.reduceat(each, found.firsts) * self._scales
        units *= _SHARES.take(found.sizes, axis=0, mode="clip")
        units += self._unit_flags.take(found.flags[0], axis=0)
        units += self._unit_flags.take(found.flags[1], axis=0)
        return each, units

    def _trust(self, found: Features, shares: Floats) -> float:
        """The factor for the probabilities, by the share of known words in the units that count."""
        words = np.add.reduceat(self._known.take(found.ids, axis=0), found.firsts)
        known, total = (shares @ words).tolist()
        return max(_MIN_TRUST, min(1.0, known / (_KNOWN_SHARE * total))) if total else _MIN_TRUST

    def _evidence(self, found: Features, each: npt.NDArray[np.int32], unit: int, best: int) -> str:
        """`words`, and those with the highest score for the task in the unit that says most for it."""
        first = int(found.firsts[unit])
        span = slice(first, first + int(found.sizes[unit]))
        strength = each[span, best].tolist()
        numbers = found.ids[span].tolist()
        order = sorted(range(len(numbers)), key=strength.__getitem__, reverse=True)[:_MAX_CONSIDERED]
        names = self._model.vocabulary.names
        words = [
            names[numbers[at]].removesuffix(STEM) for at in order if strength[at] > 0 and numbers[at] >= FIRST_WORD
        ]
        named = list(dict.fromkeys(words))[:_MAX_NAMED]
        return f"words: {', '.join(named)}" if named else "words"
