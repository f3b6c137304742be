"""Decisions about orders: questions of all three types whose answers are known by construction.

The text is an order of the extraction task, with its self-corrections, so a question is answered by reading it and not
by finding a word. `canvases_of` lays the questions out exactly as the worker does, with the right label in every hole.
"""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from diffusion_worker.constraints.inference.template import FREE
from diffusion_worker.types.model_info import ModelInfo
from diffusion_worker.web.requests.decision_canvases import DecisionCanvas, lay_out
from training.tasks.orders import PREFIX, order
from training.tasks.sample import SampleSpec
from training.vocabulary import encode_prompt, encode_text
from training.word_lists import DAYS, NAMES, NOUNS
from twolane.process.decisions.questions import DecisionRequest, Option, Question, QuestionKind

QUESTIONS: Final = 6  # of a sample: one canvas of the embedded checkpoint, nearly always
_NONE: Final = "none"
_SIZES: Final = ("few", "some", "many")  # 1 to 10, 11 to 20, 21 to 30 pieces
_DETAILS: Final = ("neither", "one", "both")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """What a text says."""

    name: str | None
    qty: int
    item: str
    day: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A question, and how an order answers it: with the index of an option."""

    question: Question
    right_of: Callable[[_Order], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionSample:
    """One text, questions about it, and the indices of their right options."""

    text: str
    questions: tuple[Question, ...]
    right: tuple[int, ...]

    @property
    def request(self) -> DecisionRequest:
        """The request that asks them."""
        return DecisionRequest(model="", text=self.text, questions=self.questions)


def question_set(rng: random.Random, count: int = QUESTIONS) -> tuple[Asked, ...]:
    """`count` different questions that can be asked of any order."""
    return _draw(rng, count, _TOPICS)


def practice_set(rng: random.Random, count: int) -> tuple[Asked, ...]:
    """`count` different questions to learn from: those of `question_set`, predicates more often."""
    return _draw(rng, count, _PRACTICE)


def _draw(rng: random.Random, count: int, topics: Sequence[Callable[[random.Random], Asked]]) -> tuple[Asked, ...]:
    found: dict[str, Asked] = {}
    while len(found) < count:
        asked = rng.choice(topics)(rng)
        found[asked.question.text] = asked
    return tuple(found.values())


def decision(rng: random.Random, spec: SampleSpec, asked: Sequence[Asked] | None = None) -> DecisionSample:
    """A sample: an order message and questions about it. Held-out texts are those of held-out orders."""
    asked = question_set(rng) if asked is None else asked
    sample = order(rng, spec)
    said = _Order(**json.loads(sample.answer))
    return DecisionSample(
        text=sample.prompt.removeprefix(PREFIX),
        questions=tuple(each.question for each in asked),
        right=tuple(each.right_of(said) for each in asked),
    )


def canvases_of(sample: DecisionSample, info: ModelInfo) -> list[tuple[DecisionCanvas, tuple[int, ...]]]:
    """The canvases of a sample, each with its ids when all answers are right: what training denoises in the holes."""
    found = []
    right = iter(sample.right)
    for canvas in lay_out(sample.request, info, lambda text: tuple(encode_text(text)), _prompt_ids):
        template = canvas.template
        ids = list(template.ids)
        for hole in template.holes:
            label = hole.labels[next(right)]
            ids[hole.start : hole.start + hole.width] = [*label, *[template.pad_id] * (hole.width - len(label))]
        assert FREE not in ids, "every hole has an answer"
        found.append((canvas, tuple(ids)))
    return found


def _prompt_ids(text: str) -> tuple[int, ...]:
    return tuple(encode_prompt(text))


def _predicate(text: str, holds: Callable[[_Order], bool]) -> Asked:
    question = Question(kind=QuestionKind.PREDICATE, text=text)
    return Asked(question=question, right_of=lambda said: 0 if holds(said) else 1)


def _choice(text: str, values: Sequence[str | bool], right: Callable[[_Order], str | bool]) -> Asked:
    options = tuple(Option(value=value) for value in values)
    question = Question(kind=QuestionKind.CHOICE, text=text, options=options)
    return Asked(question=question, right_of=lambda said: values.index(right(said)))


def _score(text: str, labels: Sequence[str], right: Callable[[_Order], int]) -> Asked:
    options = tuple(Option(value=label) for label in labels)
    return Asked(question=Question(kind=QuestionKind.SCORE, text=text, options=options), right_of=right)


def _is_above(rng: random.Random) -> Asked:
    limit = rng.randint(5, 25)
    return _predicate(f"Is the quantity above {limit}?", lambda said: said.qty > limit)


def _is_early(rng: random.Random) -> Asked:
    days = rng.sample(DAYS, 4)
    return _predicate(f"Is the day {', '.join(days[:3])} or {days[3]}?", lambda said: said.day in days)


def _starts(rng: random.Random) -> Asked:
    letters = sorted(rng.sample(sorted({noun[0] for noun in NOUNS}), 5))
    text = f"Does the item begin with {', '.join(letters[:4])} or {letters[4]}?"
    return _predicate(text, lambda said: said.item.split()[-1][0] in letters)


def _which_day(_rng: random.Random) -> Asked:
    return _choice("Which day?", [*DAYS, _NONE], lambda said: said.day or _NONE)


def _which_letter(rng: random.Random) -> Asked:
    letters = sorted({name[0] for name in NAMES})
    half = rng.choice(letters[8:16])
    early, late = f"before {half}", f"from {half}"

    def right(said: _Order) -> str:
        return _NONE if said.name is None else early if said.name < half else late

    return _choice("Where is the name in the alphabet?", [early, late, _NONE], right)


def _has_day(_rng: random.Random) -> Asked:
    return _choice("Is a day named?", [True, False], lambda said: said.day is not None)


def _how_many(_rng: random.Random) -> Asked:
    return _score("How many? few: to 10, some: to 20", _SIZES, lambda said: (said.qty - 1) // 10)


def _how_detailed(_rng: random.Random) -> Asked:
    return _score(
        "Are a person and a day named?", _DETAILS, lambda said: (said.name is not None) + (said.day is not None)
    )


_TOPICS: Final[tuple[Callable[[random.Random], Asked], ...]] = (
    *(_is_above, _is_early, _starts),
    *(_which_day, _which_letter, _has_day),
    *(_how_many, _how_detailed),
)
_PRACTICE: Final = (
    *(*[_is_above] * 4, *[_is_early] * 2, *[_starts] * 2),
    *(_which_day, _which_letter, _which_letter, _has_day),
    *(_how_many, _how_detailed),
)
