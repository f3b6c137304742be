"""How questions are worded: the prompt, and the schema of an answer."""

from typing import Any

from jsonschema import Draft202012Validator

from tests.twolane.process.decisions.test_request import CHOICE, PREDICATE, SCORE, body
from twolane.process.decisions.request import parse_decisions
from twolane.process.decisions.wording import prompt_of, schema_of


def asked(text: str, *questions: Any) -> tuple[str, list[tuple[str, ...]]]:
    request = parse_decisions(body(*questions, input=text))
    labels = [question.labels() for question in request.questions]
    return prompt_of(request.text, request.questions, labels), labels


def test_each_question_is_a_numbered_line_with_its_labels() -> None:
    same = {**CHOICE, "choices": [{"value": True}, {"value": "true", "description": "the word"}]}
    prompt, _ = asked("t", PREDICATE, CHOICE, SCORE, same)
    assert prompt.splitlines()[1:5] == [
        "1. Is it urgent?",
        "2. Which? [a; true]",
        "3. How? [low (bad) < high]",
        "4. Which? [1 (true); 2 (true: the word)]",
    ]


def test_the_longer_of_text_and_questions_comes_first() -> None:
    short, long = "A short text.", "A long text. " * 20
    first, other = (asked(short, PREDICATE)[0], asked("Another text.", PREDICATE)[0])
    assert first.removesuffix(short) == other.removesuffix("Another text.")
    assert asked(long, PREDICATE)[0].startswith(f"Text: {long}")


def test_the_schema_takes_exactly_one_label_for_each_question() -> None:
    _, labels = asked("t", PREDICATE, CHOICE)
    schema = Draft202012Validator(schema_of(labels))
    assert schema.is_valid({"1": "yes", "2": "true"})
    wrong: list[dict[str, Any]] = [{"1": "yes"}, {"1": "yes", "2": True}, {"1": "yes", "2": "a", "3": "x"}]
    assert not any(schema.is_valid(each) for each in wrong)
