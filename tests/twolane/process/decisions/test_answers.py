"""The answers are those that OpenAI's client reads, and each has a confidence."""

import pytest
from openai.types.decision import Decision

from tests.twolane.process.decisions.test_request import CHOICE, PREDICATE, SCORE, body
from twolane.process.decisions.answers import answer_of, confidence_of, refusal_of, usage_of
from twolane.process.decisions.request import parse_decisions


def test_openais_client_reads_all_four_answers() -> None:
    questions = parse_decisions(body(PREDICATE, CHOICE, {**SCORE, "name": "s"})).questions
    answers = [
        answer_of(questions[0], (0.2, 0.8)),
        answer_of(questions[1], (0.3, 0.7)),
        answer_of(questions[2], (0.25, 0.75)),
        refusal_of(questions[2]),
    ]
    decision = Decision.model_validate({"answers": answers, "model": "m", "usage": usage_of(3, 4)})
    predicate, choice, score, refusal = decision.answers
    assert predicate.type == "predicate"
    assert predicate.probability == 0.2
    assert choice.type == "choice"
    assert (choice.choice, [each.value for each in choice.probabilities]) == (True, ["a", True])
    assert score.type == "score"
    assert (score.score, score.name, [each.value for each in score.probabilities]) == (0.75, "s", [0, 1])
    assert (refusal.type, refusal.name) == ("refusal", "s")
    assert decision.usage.total_tokens == 7
    assert [confidence_of(each) for each in answers] == pytest.approx([0.8, 0.7, 0.75, 0.0])
