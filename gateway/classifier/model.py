"""The trained stage of task classification: a linear model over the words of a request, with attention over its units.

It is used for requests that neither the client nor the request's form assigns to a task. Each unit of the request (see
`features`) has a score for every task and a score for being what is asked; a softmax of the latter weighs the former, so
that the topic of a pasted text counts little. The confidence is calibrated on writers that were left out (see the model
card), and reduced if the units that decide consist of unknown words.
"""

from dataclasses import dataclass
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
_STRUCTURED_TOKENS: Final = 8  # a shorter text that asks for JSON, such as "As JSON.", says too little about the answer
FLAG_WEIGHT: Final = 0.5


def table_rows(vocabulary: Vocabulary) -> int:
    """Rows of a model's table: tokens, hashed rows, flags of units, flags of requests."""
    return len(vocabulary.names) + HASHED_ROWS + UNIT_FLAGS + REQUEST_FLAGS


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskModel:
    """`weights` [rows, tasks + 1] are scaled by the temperature; the last column scores whether a unit is what is asked.

    Evidence is logged and prompts are not, so only words of the model's own vocabulary are named.
    """

    tasks: tuple[Task, ...]
    vocabulary: Vocabulary
    weights: Floats
    temperature: float


class LearnedStage:
    """See `classify.EvidenceStage`. Returns None for a request without words."""

    def __init__(self, model: TaskModel) -> None:
        self._model = model
        size = len(model.vocabulary.names)
        self._structured = model.tasks.index(Task.STRUCTURED)
        self._offsets = np.array([0, *[size] * HASHED], dtype=np.intp)[:, None]
        self._unit_flags = model.weights[size + HASHED_ROWS :][:UNIT_FLAGS] * np.float32(FLAG_WEIGHT)
        self._request_flags = model.weights[size + HASHED_ROWS + UNIT_FLAGS :, :-1] * np.float32(FLAG_WEIGHT)
        names = model.vocabulary.names
        self._known = np.array(
            [1.0 if at >= FIRST_WORD and not name.endswith(STEM) else 0.0 for at, name in enumerate(names)]
        )
        self._counts = np.array([float(name[0].isalpha() or name.startswith("<")) for name in names])

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
        tokens, shares = self._weigh(found)
        scores = (shares @ tokens.units)[:-1] + self._request_flags[found.request].sum(axis=0)
        scores *= 1.0 / self._model.temperature
        odds = np.exp(scores - scores.max())
        odds *= self._trust(found, shares) / odds.sum()
        if not (query.answer_text or query.system_text):
            odds[self._structured] *= min(1.0, found.own_tokens / _STRUCTURED_TOKENS)
        best = int(odds.argmax())
        return Classification(
            task=self._model.tasks[best],
            confidence=float(odds[best]),
            evidence=self._evidence(found, tokens.each, shares, best),
            probabilities=tuple(odds.tolist()),
        )

    def _weigh(self, found: Features) -> "tuple[_Scores, Floats]":
        """The scores of all units, and how much each unit counts."""
        rows = np.empty((HASHED + 1, found.ids.size), dtype=np.intp)
        rows[0] = found.ids
        rows[1:] = found.hashed
        rows += self._offsets
        each = self._model.weights.take(rows, axis=0).sum(axis=0)
        sizes = np.diff(found.firsts, append=found.ids.size)
        units = np.add.reduceat(each, found.firsts) / np.sqrt(sizes)[:, None]
        units += self._unit_flags.take(found.flags, axis=0).sum(axis=0)
        gates = units[:, -1]
        shares = np.exp(gates - gates.max())
        shares /= shares.sum()
        return _Scores(each=each, units=units), shares

    def _trust(self, found: Features, shares: Floats) -> float:
        """The factor for the probabilities, by the share of known words in the units that count."""
        counts = np.add.reduceat(self._counts[found.ids], found.firsts)
        known = np.add.reduceat(self._known[found.ids], found.firsts)
        total = float(shares @ counts)
        return max(_MIN_TRUST, min(1.0, float(shares @ known) / (_KNOWN_SHARE * total))) if total else 1.0

    def _evidence(self, found: Features, each: Floats, shares: Floats, best: int) -> str:
        """`words`, and the strongest of them: those with the highest score for the task, relative to the average."""
        sizes = np.diff(found.firsts, append=found.ids.size)
        strength = (each[:, best] - each[:, :-1].mean(axis=1)) * np.repeat(shares, sizes)
        order = strength.argsort()[: -_MAX_CONSIDERED - 1 : -1]
        names = self._model.vocabulary.names
        numbers = [number for at in order.tolist() if strength[at] > 0 and (number := int(found.ids[at])) >= FIRST_WORD]
        named = list(dict.fromkeys(names[number].removesuffix(STEM) for number in numbers))[:_MAX_NAMED]
        return f"words: {', '.join(named)}" if named else "words"


@dataclass(frozen=True, slots=True)
class _Scores:
    each: Floats  # [tokens, tasks + 1]
    units: Floats  # [units, tasks + 1]
