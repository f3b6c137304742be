"""Decisions about orders: questions of all three types whose answers are known by construction.

The text is an order of the extraction task, with its self-corrections, so a question is answered by reading it and not
by finding a word. `canvases_of` lays the questions out exactly as the worker does, with the right label in every hole.
"""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from diffusion_worker.constraints.inference.template import FREE
from diffusion_worker.types.model_info import ModelInfo
from diffusion_worker.web.requests.decision_canvases import DecisionCanvas, lay_out
from training.tasks.orders import PREFIX, order
from training.tasks.sample import SampleSpec
from training.vocabulary import encode_prompt, encode_text
from training.word_lists import ADJECTIVES, DAYS, NAMES, NOUNS
from twolane.process.decisions.questions import DecisionRequest, Option, Question, QuestionKind

QUESTIONS: Final = 8  # of a sample
_NONE: Final = "none"
_SIZES: Final = ("few", "some", "many")  # 1 to 10, 11 to 20, 21 to 30 pieces
_DETAILS: Final = ("neither", "one", "both")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A question with the index of its right option. `topic` names the kind of question, for majority classes."""

    topic: str
    question: Question
    right: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionSample:
    """One text and questions about it."""

    text: str
    asked: tuple[Asked, ...]

    @property
    def request(self) -> DecisionRequest:
        """The request that asks them."""
        return DecisionRequest(model="", text=self.text, questions=tuple(each.question for each in self.asked))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """What a text says."""

    name: str | None
    qty: int
    item: str
    day: str | None


def decision(rng: random.Random, spec: SampleSpec) -> DecisionSample:
    """A sample: an order message and questions about it. Held-out texts are those of held-out orders."""
    sample = order(rng, spec)
    said = _Order(**json.loads(sample.answer))
    asked = tuple(rng.choice(_TOPICS)(rng, said) for _ in range(QUESTIONS))
    return DecisionSample(text=sample.prompt.removeprefix(PREFIX), asked=asked)


def canvases_of(sample: DecisionSample, info: ModelInfo) -> list[tuple[DecisionCanvas, tuple[int, ...]]]:
    """The canvases of a sample, each with its ids when all answers are right: what training denoises in the holes."""
    found = []
    asked = list(sample.asked)
    for canvas in lay_out(sample.request, info, lambda text: tuple(encode_text(text)), _prompt_ids):
        template = canvas.template
        ids = list(template.ids)
        for hole, each in zip(template.holes, asked, strict=False):
            label = hole.labels[each.right]
            padding = [template.pad_id] * (hole.width - len(label))
            ids[hole.start : hole.start + hole.width] = [*label, *padding]
        del asked[: len(template.holes)]
        assert FREE not in ids, "every hole has an answer"
        found.append((canvas, tuple(ids)))
    return found


def _prompt_ids(text: str) -> tuple[int, ...]:
    return tuple(encode_prompt(text))


def _predicate(topic: str, text: str, *, holds: bool) -> Asked:
    question = Question(kind=QuestionKind.PREDICATE, text=text)
    return Asked(topic=topic, question=question, right=0 if holds else 1)


def _chosen(topic: str, text: str, values: list[str | bool], right: str | bool) -> Asked:
    options = tuple(Option(value=value) for value in values)
    return Asked(
        topic=topic,
        question=Question(kind=QuestionKind.CHOICE, text=text, options=options),
        right=next(index for index, value in enumerate(values) if value is right or value == right),
    )


def _rated(topic: str, text: str, labels: tuple[str, ...], right: int) -> Asked:
    options = tuple(Option(value=label) for label in labels)
    return Asked(topic=topic, question=Question(kind=QuestionKind.SCORE, text=text, options=options), right=right)


def _is_for(rng: random.Random, said: _Order) -> Asked:
    named = said.name if said.name is not None and rng.random() < 0.5 else rng.choice(NAMES)
    return _predicate("is it for", f"Is it for {named}?", holds=named == said.name)


def _is_above(rng: random.Random, said: _Order) -> Asked:
    limit = rng.randint(1, 30)
    return _predicate("is it above", f"Is the quantity above {limit}?", holds=said.qty > limit)


def _is_kind(rng: random.Random, said: _Order) -> Asked:
    kind = said.item.split()[0] if rng.random() < 0.5 else rng.choice(ADJECTIVES)
    return _predicate("is it of kind", f"Is the item {kind}?", holds=kind in said.item.split())


def _which_day(_rng: random.Random, said: _Order) -> Asked:
    return _chosen("which day", "Which day?", [*DAYS, _NONE], said.day or _NONE)


def _which_item(rng: random.Random, said: _Order) -> Asked:
    noun = said.item.split()[-1]
    values: list[str | bool] = [noun, *rng.sample([each for each in NOUNS if each != noun], 3)]
    rng.shuffle(values)
    return _chosen("which item", "Which item?", values, noun)


def _has_day(_rng: random.Random, said: _Order) -> Asked:
    return _chosen("has a day", "Is a day named?", [True, False], said.day is not None)


def _how_many(_rng: random.Random, said: _Order) -> Asked:
    return _rated("how many", "How many pieces? few: to 10, some: to 20", _SIZES, (said.qty - 1) // 10)


def _how_detailed(_rng: random.Random, said: _Order) -> Asked:
    given = (said.name is not None) + (said.day is not None)
    return _rated("how detailed", "Are a person and a day named?", _DETAILS, given)


_TOPICS: Final[tuple[Callable[[random.Random, _Order], Asked], ...]] = (
    *(_is_for, _is_above, _is_kind),
    *(_which_day, _which_item, _has_day),
    *(_how_many, _how_detailed),
)
