"""The answers to the questions of a decision, collected over the attempts of one request.

An attempt asks the questions that are open. Sure answers are kept; doubtful ones are asked of the next target, and stay
as they are if no other target answers. Targets with decisions answer with probabilities; the answers of a chat become
ones with probability 1 for the value that it chose.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from gateway.errors import InvalidOutput, LowConfidence
from gateway.types import Candidate, Delta, Piece, Usage
from twolane.process import exact_json
from twolane.process.decisions.answers import REFUSAL, answer_of, confidence_of, refusal_of, usage_of
from twolane.process.decisions.questions import DecisionRequest, Question, QuestionKind

AnsweredBy = tuple[tuple[str, tuple[int, ...]], ...]  # targets, each with the indices of the questions it answered
_CONTENT_FILTER: Final = "content_filter"


class DecisionAnswers:
    """The state of one request. Indices are those of the questions."""

    def __init__(self, request: DecisionRequest) -> None:
        self.open = tuple(range(len(request.questions)))  # asked by the next attempt
        self._questions = request.questions
        self._answers: list[Mapping[str, Any] | None] = [None] * len(request.questions)
        self._targets = [""] * len(request.questions)
        self._usage = (0, 0)
        self._model = request.model

    @property
    def is_complete(self) -> bool:
        """Whether every question has an answer, if only a doubtful one."""
        return all(answer is not None for answer in self._answers)

    @property
    def answered_by(self) -> AnsweredBy:
        """In the order of the first question of each target."""
        found: dict[str, list[int]] = {}
        for index, target in enumerate(self._targets):
            if target:
                found.setdefault(target, []).append(index)
        return tuple((target, tuple(indices)) for target, indices in found.items())

    def accept(
        self, asked: Sequence[int], response: Delta, candidate: Candidate, *, usage: Usage | None, is_last: bool
    ) -> Delta:
        """The response with all answers, once a candidate has answered the `asked` questions, of which another attempt
        may have settled some (a hedge). Raises InvalidOutput, or LowConfidence if answers are doubtful and other
        candidates are left."""
        answers = _read(response, [self._questions[index] for index in asked])
        used = (usage.input_tokens or 0, usage.output_tokens or 0) if usage else (0, 0)
        self._usage = (self._usage[0] + used[0], self._usage[1] + used[1])
        self.open = tuple(
            index
            for index, answer in zip(asked, answers, strict=True)
            if index in self.open and not self._is_settled(index, answer, candidate)
        )
        if self.open and not is_last:
            detail = f"{len(self.open)} of {len(asked)} questions"
            raise LowConfidence(f"The target is not sure enough of {detail}, or refused them.", detail=detail)
        return self.merged()

    def merged(self) -> Delta:
        """The response with all answers, in OpenAI's form."""
        document = {"answers": self._answers, "model": self._model, "usage": usage_of(*self._usage)}
        usage = Usage(input_tokens=self._usage[0], output_tokens=self._usage[1])
        pieces = (Piece(index=0, finish_reason="stop", is_answer=True),)
        return Delta(data=exact_json.dumps(document), pieces=pieces, usage=usage)

    def _is_settled(self, index: int, answer: Mapping[str, Any], candidate: Candidate) -> bool:
        """Whether an answer is sure enough, which a refusal never is. A doubtful answer does not replace a surer one,
        and a refusal, with a confidence of 0, replaces none."""
        own, known, confidence = self._questions[index].min_confidence, self._answers[index], confidence_of(answer)
        least = candidate.min_confidence if own is None else own
        is_sure = answer["type"] != REFUSAL and (least is None or confidence >= least)
        if known is None or is_sure or confidence > confidence_of(known):
            self._answers[index], self._targets[index] = answer, candidate.target.policy_name
        return is_sure


def _read(response: Delta, questions: Sequence[Question]) -> list[Mapping[str, Any]]:
    document = _load(response.data.decode("utf-8", "replace"))
    if isinstance(document, dict) and "answers" in document:
        return _checked(document["answers"], questions)
    return _from_chat(response.pieces, questions)


def _load(text: str) -> Any:
    try:
        return exact_json.loads(text)
    except exact_json.JsonError:
        return None


def _checked(answers: Any, questions: Sequence[Question]) -> list[Mapping[str, Any]]:
    """The answers of a target with decisions, unchanged."""
    if not isinstance(answers, list) or len(answers) != len(questions):
        raise _invalid("the number of answers is not that of the questions")
    for number, (answer, question) in enumerate(zip(answers, questions, strict=True)):
        if not isinstance(answer, dict) or not _is_answer(answer, question):
            raise _invalid(f"answer {number} does not fit its question")
    return answers


def _is_answer(answer: Mapping[str, Any], question: Question) -> bool:
    kind = answer.get("type")
    if kind == REFUSAL:
        return True
    if kind != question.kind:
        return False
    if kind == QuestionKind.PREDICATE:
        return _is_share(answer.get("probability"))
    listed = answer.get("probabilities")
    if not isinstance(listed, list) or not _is_share(answer.get("confidence")):
        return False
    if not all(isinstance(each, dict) and _is_share(each.get("probability")) for each in listed):
        return False
    if kind == QuestionKind.SCORE:
        return _is_number(answer.get("score")) and all(_is_level(each, question) for each in listed)
    return all(_is_value(each, question) for each in (answer.get("choice"), *(each.get("value") for each in listed)))


def _is_value(value: Any, question: Question) -> bool:
    return any(type(value) is type(option.value) and value == option.value for option in question.options)


def _is_level(given: Mapping[str, Any], question: Question) -> bool:
    return _is_number(given.get("value")) and _is_value(given.get("label"), question)


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 1


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _from_chat(pieces: Sequence[Piece], questions: Sequence[Question]) -> list[Mapping[str, Any]]:
    """The JSON object of a chat's answer, see `wording.schema_of`. A refusal refuses every question."""
    if any(piece.refusal or piece.finish_reason == _CONTENT_FILTER for piece in pieces):
        return [refusal_of(question) for question in questions]
    text = "".join(piece.text for piece in pieces if piece.index == 0)
    document = _load(text[text.find("{") : text.rfind("}") + 1])  # some models put it in a fence
    if not isinstance(document, dict):
        raise _invalid("the answer is not a JSON object")
    return [_chosen(document.get(str(number)), question, number) for number, question in enumerate(questions, 1)]


def _chosen(label: Any, question: Question, number: int) -> Mapping[str, Any]:
    labels = question.labels()
    if label not in labels:
        raise _invalid(f"member {number} is not one of the values of its enum")
    return answer_of(question, [1.0 if each == label else 0.0 for each in labels])


def _invalid(detail: str) -> InvalidOutput:
    return InvalidOutput(f"The response does not answer the questions: {detail}.", detail=detail)
