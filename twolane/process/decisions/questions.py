"""The records of a decision request: questions about one text, whose answers are bounded."""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

YES, NO = "yes", "no"
MAX_QUESTIONS: Final = 400
MIN_OPTIONS, MAX_OPTIONS = 2, 255


class QuestionKind(StrEnum):
    """The types of questions, as in OpenAI's API."""

    PREDICATE = "predicate"
    CHOICE = "choice"
    SCORE = "score"


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """A value that a question may be answered with: of a choice as the client wrote it, of a score its label."""

    value: str | bool
    description: str | None = None

    @property
    def text(self) -> str:
        """The value as a text."""
        return self.value if isinstance(self.value, str) else str(self.value).lower()


PREDICATE_OPTIONS: Final = (Option(value=YES), Option(value=NO))


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question. The options of a score are ordered from the lowest; those of a predicate are yes and no.

    `min_confidence` is the confidence below which the client wants another model's answer; None: the server decides.
    """

    kind: QuestionKind
    text: str
    options: tuple[Option, ...] = PREDICATE_OPTIONS
    name: str | None = None
    min_confidence: float | None = None

    def labels(self, *, numbered: bool = False) -> tuple[str, ...]:
        """The texts that models answer with, each for one option: the options' own, or their numbers from 1.

        Numbers also stand for options that a line of text cannot tell apart: equal ones, such as `"true"` and `true`,
        empty ones, and those with white space at an end or a line break.
        """
        texts = tuple(option.text for option in self.options)
        is_plain = len(set(texts)) == len(texts) and all(each and each.split() == each.split(" ") for each in texts)
        return texts if is_plain and not numbered else tuple(str(number) for number in range(1, len(texts) + 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRequest:
    """A validated request. `text` is the input as one text."""

    model: str
    text: str
    questions: tuple[Question, ...]

    def only(self, indices: tuple[int, ...]) -> "DecisionRequest":
        """The request with only these questions."""
        return replace(self, questions=tuple(self.questions[index] for index in indices))
