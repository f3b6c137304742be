"""Which answers to the questions of a decision are kept, in whatever order targets give them."""

from collections.abc import Callable
from typing import Any

import orjson
import pytest

from gateway.attempts.decisions import DecisionAnswers
from gateway.errors import InvalidOutput, LowConfidence
from gateway.types import Candidate, Target
from gateway.upstreams.answers.apis import read_decision
from twolane.process.decisions.request import parse_decisions

MakeTarget = Callable[..., Target]
LEVELS = [{"label": "low"}, {"label": "high"}]


def asking(count: int) -> DecisionAnswers:
    questions = [{"type": "predicate", "instructions": f"Is it {number}?"} for number in range(count)]
    return DecisionAnswers(parse_decisions({"model": "auto", "input": "x", "questions": questions}))


class Asked:
    """The answers of one request, and a way to give those of a target."""

    def __init__(self, target: MakeTarget, count: int) -> None:
        self.answers = asking(count)
        self._target = target

    def tell(
        self, name: str, *probabilities: float, asked: tuple[int, ...], least: float | None = 0.8, last: bool = False
    ) -> list[float]:
        given = [{"type": "predicate", "name": None, "probability": each} for each in probabilities]
        response = read_decision(orjson.dumps({"answers": given}))
        candidate = Candidate(route="r", target=self._target(name=name), min_confidence=least)
        merged = self.answers.accept(asked, response, candidate, usage=response.usage, is_last=last)
        return [each["probability"] for each in orjson.loads(merged.data)["answers"]]


@pytest.fixture(name="two")
def make_two(target: MakeTarget) -> Asked:
    return Asked(target, 2)


def test_a_hedge_does_not_ask_again_what_another_target_was_sure_of(two: Asked) -> None:
    """Both were asked everything; the answers of the slow one arrive after those of the hedge."""
    with pytest.raises(LowConfidence):
        two.tell("hedge", 0.9, 0.5, asked=(0, 1))
    assert two.answers.open == (1,)
    assert two.tell("slow", 0.4, 0.95, asked=(0, 1)) == [0.9, 0.95]
    assert two.answers.answered_by == (("hedge", (0,)), ("slow", (1,)))


def test_of_doubtful_answers_the_surest_is_served(two: Asked) -> None:
    with pytest.raises(LowConfidence):
        two.tell("fast", 0.7, 0.6, asked=(0, 1))
    assert two.tell("quality", 0.6, 0.3, asked=(0, 1), last=True) == [0.7, 0.3]
    assert two.answers.answered_by == (("fast", (0,)), ("quality", (1,)))


def test_an_answer_that_its_own_target_is_sure_of_replaces_a_doubtful_one(two: Asked) -> None:
    with pytest.raises(LowConfidence):
        two.tell("fast", 0.7, 0.9, asked=(0, 1))
    assert two.tell("quality", 0.6, asked=(0,), least=None) == [0.6, 0.9]


@pytest.mark.parametrize("least", [None, 0.0, 0.8])
@pytest.mark.parametrize("own", [None, 0.0])
def test_a_refused_question_is_asked_of_the_next_target_whatever_confidence_is_required(
    target: MakeTarget, least: float | None, own: float | None
) -> None:
    questions = [{"type": "predicate", "instructions": "Is it?", "min_confidence": own}]
    answers = DecisionAnswers(parse_decisions({"model": "auto", "input": "x", "questions": questions}))
    refused, given = ({"type": "refusal", "name": None}, {"type": "predicate", "name": None, "probability": 0.9})
    fast, quality = (
        Candidate(route="r", target=target(name=name), min_confidence=least) for name in ("fast", "quality")
    )
    response = read_decision(orjson.dumps({"answers": [refused]}))
    with pytest.raises(LowConfidence):
        answers.accept((0,), response, fast, usage=None, is_last=False)
    assert (answers.open, answers.is_complete) == ((0,), True)
    response = read_decision(orjson.dumps({"answers": [given]}))
    merged = answers.accept((0,), response, quality, usage=None, is_last=True)
    assert orjson.loads(merged.data)["answers"] == [given]
    assert answers.answered_by == (("quality", (0,)),)


@pytest.mark.parametrize("score", [True, "1", None])
def test_a_score_is_a_number(target: MakeTarget, score: Any) -> None:
    questions = [{"type": "score", "instructions": "How?", "levels": LEVELS}]
    answers = DecisionAnswers(parse_decisions({"model": "auto", "input": "x", "questions": questions}))
    given = {"type": "score", "name": None, "score": score, "confidence": 0.9, "probabilities": []}
    response = read_decision(orjson.dumps({"answers": [given]}))
    with pytest.raises(InvalidOutput):
        answers.accept((0,), response, Candidate(route="r", target=target()), usage=None, is_last=True)


def entries(**changes: Any) -> dict[str, Any]:
    """A choice whose second entry has these members changed."""
    listed = [{"value": "a", "probability": 0.9}, {"value": True, "probability": 0.1} | changes]
    return {"type": "choice", "name": None, "choice": "a", "confidence": 0.9, "probabilities": listed}


@pytest.mark.parametrize("changes", [{"value": "b"}, {"value": "true"}, {"value": None}, {"probability": None}])
def test_probabilities_are_those_of_the_values_of_the_choice(target: MakeTarget, changes: dict[str, Any]) -> None:
    choices = [{"value": "a"}, {"value": True}]
    questions = [{"type": "choice", "instructions": "Which?", "choices": choices}]
    answers = DecisionAnswers(parse_decisions({"model": "auto", "input": "x", "questions": questions}))
    candidate = Candidate(route="r", target=target())
    broken, whole = (read_decision(orjson.dumps({"answers": [each]})) for each in (entries(**changes), entries()))
    with pytest.raises(InvalidOutput):
        answers.accept((0,), broken, candidate, usage=None, is_last=True)
    merged = answers.accept((0,), whole, candidate, usage=None, is_last=True)
    assert orjson.loads(merged.data)["answers"] == [entries()]


def test_any_answer_that_is_sure_enough_replaces_a_refusal(target: MakeTarget) -> None:
    choices = [{"value": "a"}, {"value": True}]
    questions = [{"type": "choice", "instructions": "Which?", "choices": choices}]
    answers = DecisionAnswers(parse_decisions({"model": "auto", "input": "x", "questions": questions}))
    candidate, unsure = Candidate(route="r", target=target(), min_confidence=0.0), {**entries(), "confidence": 0.0}
    refused = read_decision(orjson.dumps({"answers": [{"type": "refusal", "name": None}]}))
    given = read_decision(orjson.dumps({"answers": [unsure]}))
    with pytest.raises(LowConfidence):
        answers.accept((0,), refused, candidate, usage=None, is_last=False)
    assert orjson.loads(answers.accept((0,), given, candidate, usage=None, is_last=False).data)["answers"] == [unsure]


@pytest.mark.parametrize("level", [{"label": "mid", "value": 1}, {"label": "low", "value": "0"}, {"value": 0}])
def test_probabilities_are_those_of_the_levels_of_the_score(target: MakeTarget, level: dict[str, Any]) -> None:
    questions = [{"type": "score", "instructions": "How?", "levels": LEVELS}]
    answers = DecisionAnswers(parse_decisions({"model": "auto", "input": "x", "questions": questions}))
    listed = [{**level, "probability": 1.0}]
    given = {"type": "score", "name": None, "score": 1.0, "confidence": 1.0, "probabilities": listed}
    with pytest.raises(InvalidOutput):
        answers.accept(
            (0,),
            read_decision(orjson.dumps({"answers": [given]})),
            Candidate(route="r", target=target()),
            usage=None,
            is_last=True,
        )
