"""How questions are put to a model: the prompt, and the JSON Schema of an answer as a chat."""

from collections.abc import Sequence
from typing import Any, Final

from twolane.process.decisions.questions import Question, QuestionKind

_HEADING: Final = "Questions about the text (yes or no, if no values are listed):"
_BETWEEN: Final = {QuestionKind.CHOICE: "; ", QuestionKind.SCORE: " < "}


def prompt_of(text: str, questions: Sequence[Question], labels: Sequence[Sequence[str]]) -> str:
    """The text and its numbered questions, each with the labels to answer with; those of a score ascend.

    The longer of both comes first, because equal beginnings are computed once: the same document is asked different
    questions, and the same questions are asked of many short texts.
    """
    asked = [_HEADING, *(line_of(number, *each) for number, each in enumerate(zip(questions, labels, strict=True), 1))]
    listed, shown = "\n".join(asked), f"Text: {text}"
    return f"{listed}\n\n{shown}" if len(listed) > len(shown) else f"{shown}\n\n{listed}"


def line_of(number: int, question: Question, labels: Sequence[str]) -> str:
    """One question with its labels."""
    if question.kind is QuestionKind.PREDICATE:
        return f"{number}. {question.text}"
    listed = _BETWEEN[question.kind].join(_option(label, question, index) for index, label in enumerate(labels))
    return f"{number}. {question.text} [{listed}]"


def schema_of(labels: Sequence[Sequence[str]]) -> dict[str, Any]:
    """The JSON Schema of an object with one member for each question, named by its number."""
    members = {str(number): {"type": "string", "enum": list(each)} for number, each in enumerate(labels, 1)}
    return {"type": "object", "properties": members, "required": list(members), "additionalProperties": False}


def _option(label: str, question: Question, index: int) -> str:
    option = question.options[index]
    meaning = [*([option.text] if label != option.text else []), *([option.description] if option.description else [])]
    return f"{label} ({': '.join(meaning)})" if meaning else label
