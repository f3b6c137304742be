"""How questions are put to a model: the prompt, and the JSON Schema of an answer as a chat."""

from collections.abc import Sequence
from typing import Any, Final

from twolane.process.decisions.questions import Question, QuestionKind

_HEADING: Final = "Questions about the text above (yes or no, if no values are listed):"
_BETWEEN: Final = {QuestionKind.CHOICE: "; ", QuestionKind.SCORE: " < "}


def prompt_of(text: str, questions: Sequence[Question], labels: Sequence[Sequence[str]]) -> str:
    """The text and its numbered questions, each with the labels to answer with; those of a score ascend. The text comes
    first, so that prompts with other questions about it share their beginning."""
    asked = [_asked(number, *each) for number, each in enumerate(zip(questions, labels, strict=True), 1)]
    return "\n".join([text, "", _HEADING, *asked])


def schema_of(labels: Sequence[Sequence[str]]) -> dict[str, Any]:
    """The JSON Schema of an object with one member for each question, named by its number."""
    members = {str(number): {"type": "string", "enum": list(each)} for number, each in enumerate(labels, 1)}
    return {"type": "object", "properties": members, "required": list(members), "additionalProperties": False}


def _asked(number: int, question: Question, labels: Sequence[str]) -> str:
    if question.kind is QuestionKind.PREDICATE:
        return f"{number}. {question.text}"
    listed = _BETWEEN[question.kind].join(_option(label, question, index) for index, label in enumerate(labels))
    return f"{number}. {question.text} [{listed}]"


def _option(label: str, question: Question, index: int) -> str:
    option = question.options[index]
    meaning = [*([option.text] if label != option.text else []), *([option.description] if option.description else [])]
    return f"{label} ({': '.join(meaning)})" if meaning else label
