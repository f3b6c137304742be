"""The trained stage of task classification: a linear model over the words of a request, with attention over its units.

It is used for requests that neither the client nor the request's form assigns to a task. Each unit of the request (see
`features`) has a score for every task and a score for being what is asked; a softmax of the latter weighs the former,
so that the topic of a pasted text counts little. The confidence is calibrated on writers that were left out (see the
model card), and reduced if the units that decide consist of unknown words.
"""

from dataclasses import dataclass
from math import exp, sqrt
from typing import Final

import numpy as np
import numpy.typing as npt

from gateway.classifier.compiled import IS_BUILT, Score, Scored, scorer
from gateway.classifier.features import HASHED_ROWS, REQUEST_FLAGS, UNIT_FLAGS, Features, features
from gateway.classifier.tokens import FIRST_NUMBER, FIRST_WORD, NEGATED, STEM, Vocabulary
from gateway.enums import Task
from gateway.types import Classification, Query

Floats = npt.NDArray[np.float32]

_MAX_NAMED: Final = 3  # words named in the evidence
_MAX_CONSIDERED: Final = 12  # strongest tokens considered for the evidence
_KNOWN_SHARE: Final = 0.3  # share of known words in what is asked above which the confidence is not reduced
_MIN_TRUST: Final = 0.1  # the smallest factor by which the confidence is reduced
_STRUCTURED_WORDS: Final = 8  # a shorter text that asks for JSON, such as "As JSON.", says too little of the answer
_SHARES: Final = (1.0 / np.sqrt(np.maximum(1, np.arange(1024))))[:, None]  # by tokens of a unit
WIDTH: Final = 16  # of a row of the table, for which numpy and compilers have faster code
_GATE: Final = len(Task)  # the column that scores whether a unit is what is asked
_KNOWN: Final = slice(_GATE + 1, _GATE + 3)
_SUM: Final = np.add.reduce
_SHORT_TOKENS: Final = 40  # of a text that may have so few words; longer ones are not counted
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """A model as it is computed with. `table` [rows, WIDTH] has the weights in steps of the scales, then, of tokens,
    whether it is a known word and whether it counts; `scales` [WIDTH] are those of the weights, otherwise 0.

    Integers of 8 bits: rows are read at random, and a smaller table stays in the processor's cache.
    """

    vocabulary: Vocabulary
    table: npt.NDArray[np.int8]
    scales: npt.NDArray[np.float64]
    structured: int
    sharpness: float


def parts_of(model: TaskModel) -> Parts:
    """Prepare a model."""
    names, columns = model.vocabulary.names, model.weights.shape[1]
    scales = np.zeros(WIDTH)
    scales[:columns] = scales_of(model.weights)
    table = np.zeros((model.weights.shape[0], WIDTH), dtype=np.int8)
    table[:, :columns] = np.rint(model.weights / scales_of(model.weights))
    table[: len(names), columns] = [at >= FIRST_WORD and not name.endswith(STEM) for at, name in enumerate(names)]
    table[: len(names), columns + 1] = [name[0].isalpha() or name.startswith("<") for name in names]
    return Parts(
        vocabulary=model.vocabulary,
        table=table,
        scales=scales,
        structured=model.tasks.index(Task.STRUCTURED),
        sharpness=1.0 / model.temperature,
    )


class LearnedStage:
    """See `classify.EvidenceStage`. Returns None for a request without words."""

    def __init__(self, model: TaskModel, *, is_compiled: bool = IS_BUILT) -> None:
        self._tasks = model.tasks
        self._names = [name.removesuffix(STEM) for name in model.vocabulary.names]
        parts = parts_of(model)
        self._score: Score = scorer(parts) if is_compiled else PythonScore(parts)

    def __call__(self, query: Query) -> Classification | None:
        """The most probable task given the words of the system prompt, the last user message and the turn before."""
        found = self._score(query.system_text, query.last_user_text, query.earlier_text, query.answer_text)
        if found is None:
            return None
        best, probabilities, words = found
        return Classification(
            task=self._tasks[best],
            confidence=probabilities[best],
            evidence=self._evidence(words),
            probabilities=probabilities,
        )

    def _evidence(self, numbers: list[int]) -> str:
        """`words`, and the strongest ones."""
        named = list(dict.fromkeys(map(self._names.__getitem__, numbers[:_MAX_NAMED])))
        if len(named) < _MAX_NAMED < len(numbers):  # a word and its stem have one name
            named = list(dict.fromkeys(map(self._names.__getitem__, numbers)))[:_MAX_NAMED]
        return f"words: {', '.join(named)}" if named else "words"


class PythonScore:
    """See `compiled.Score`."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._gate_scale = parts.scales[_GATE]

    def __call__(self, system: str, user: str, earlier: str, answer: str) -> Scored | None:
        """Compute the features and the scores."""
        found = features(self._parts.vocabulary, system=system, user=user, earlier=earlier, answer=answer)
        if not found.own_tokens:
            return None
        table = self._parts.table
        each = _SUM(table.take(found.rows, axis=0), 0, np.int32)
        sums = np.add.reduceat(each, found.firsts)
        units = sums * _SHARES[found.sizes]
        units += _SUM(table.take(found.unit_rows, axis=0), 0, np.int32) * FLAG_WEIGHT
        gates = units[:, _GATE] * self._gate_scale
        shares = np.exp(gates - gates[gates.argmax()])
        shares /= _SUM(shares)
        scores = shares @ units + _SUM(table.take(found.request, axis=0), 0, np.int32) * FLAG_WEIGHT
        if found.past.size:
            scores += _SUM(table.take(found.past, axis=0), 0, np.int32) * (FLAG_WEIGHT * _SHARES[found.past.size])
        scores *= self._parts.scales
        probabilities = self._probabilities(scores[:_GATE].tolist(), _trust(*(shares @ sums)[_KNOWN].tolist()))
        if found.own_tokens < _SHORT_TOKENS and not (answer or system):
            probabilities[self._parts.structured] *= min(1.0, _own_words(found) / _STRUCTURED_WORDS)
        best = probabilities.index(max(probabilities))
        unit = int((shares * units[:, best]).argmax())
        return best, tuple(probabilities), _strongest(found, each[:, best], unit)

    def _probabilities(self, scores: list[float], trust: float) -> list[float]:
        """A softmax; for ten numbers, Python is faster than numpy."""
        top, sharpness = max(scores), self._parts.sharpness
        odds = [exp((score - top) * sharpness) for score in scores]
        share = trust / sum(odds)
        return [each * share for each in odds]


def _own_words(found: Features) -> int:
    """The number of words of the last user message: signs, numbers and breaks do not count."""
    own = found.rows[0, -1 - found.own_tokens :]
    return int(np.count_nonzero((own >= FIRST_WORD) | ((own >= NEGATED) & (own < FIRST_NUMBER))))


def _trust(known: float, total: float) -> float:
    """The factor for the probabilities, by the share of known words in the units that count."""
    return max(_MIN_TRUST, min(1.0, sqrt(known / (_KNOWN_SHARE * total)))) if total else _MIN_TRUST


def _strongest(found: Features, strengths: npt.NDArray[np.int32], unit: int) -> list[int]:
    """The words with the highest score for the task in the unit that says most for it, the strongest first."""
    first = int(found.firsts[unit])
    span = slice(first, first + int(found.sizes[unit]))
    strength, numbers = strengths[span].tolist(), found.rows[0, span].tolist()
    order = sorted(range(len(numbers)), key=strength.__getitem__, reverse=True)[:_MAX_CONSIDERED]
    return [numbers[at] for at in order if strength[at] > 0 and numbers[at] >= FIRST_WORD]
