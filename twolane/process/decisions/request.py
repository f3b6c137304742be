"""Parses the body of `POST /v1/decisions`, as OpenAI's `DecisionCreateParams` describes it.

Every error names its field by its full path, such as `questions[3].choices[1].value`. Images are refused: neither the
worker nor the translation to a chat shows them to a model.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from twolane.process.decisions.input_text import input_text, text_of_parts
from twolane.process.decisions.members import DecisionError, Members, Problem, at
from twolane.process.decisions.questions import (
    MAX_OPTIONS,
    MAX_QUESTIONS,
    MIN_OPTIONS,
    DecisionRequest,
    Option,
    Question,
    QuestionKind,
)

FIELDS: Final = frozenset(
    {"model", "input", "questions", "prompt_cache_key", "prompt_cache_options", "safety_identifier"}
)
MIN_CONFIDENCE: Final = "min_confidence"  # ours, beside OpenAI's members of a question
_QUESTION: Final = frozenset({"type", "instructions", "name", MIN_CONFIDENCE})
_PARTS: Final = frozenset({"input_text", "input_json"})
_T = TypeVar("_T")


def parse_decisions(document: Mapping[str, Any]) -> DecisionRequest:
    """The request. Raises DecisionError for the first error. Other members than FIELDS are left to the caller."""
    members = Members(document, "")
    model = members.text("model", required=True)
    _check_hints(members)
    given = members.required("input")
    text = given if isinstance(given, str) else input_text(_listed(given, "input"))
    questions = _listed(members.required("questions"), "questions")
    if not 1 <= len(questions) <= MAX_QUESTIONS:
        raise DecisionError(
            f"'questions' must have 1 to {MAX_QUESTIONS} questions, not {len(questions)}.", param="questions"
        )
    return DecisionRequest(
        model=model,
        text=text,
        questions=tuple(_question(each, at("questions", index)) for index, each in enumerate(questions)),
    )


def _check_hints(members: Members) -> None:
    """Members without an effect here; a wrong type is still reported."""
    for name in ("prompt_cache_key", "safety_identifier"):
        members.text(name)
    options = members.object("prompt_cache_options")
    if options is not None:
        options.allow_only({"mode", "ttl"})
        options.one_of("mode", ("implicit", "explicit"))
        options.one_of("ttl", ("30m",))


def _question(given: Any, path: str) -> Question:
    members = Members.of(given, path)
    kind = QuestionKind(members.one_of("type", tuple(QuestionKind), required=True))
    read, own = _OPTIONS.get(kind, (None, None))
    members.allow_only(_QUESTION | ({own} if own else set()))
    instructions = members.required("instructions")
    asked = Question(
        kind=kind,
        text=instructions
        if isinstance(instructions, str)
        else text_of_parts(_listed(instructions, members.param("instructions")), members.param("instructions"), _PARTS),
        name=members.text("name", nullable=False) if "name" in members.values else None,
        min_confidence=members.fraction(MIN_CONFIDENCE),
    )
    if read is None or own is None:
        return asked
    options = _options(members, own, read)
    return Question(kind=kind, text=asked.text, options=options, name=asked.name, min_confidence=asked.min_confidence)


def _options(members: Members, name: str, read: Callable[[Members], Option]) -> tuple[Option, ...]:
    path = members.param(name)
    given = _listed(members.required(name), path)
    if not MIN_OPTIONS <= len(given) <= MAX_OPTIONS:
        text = f"{path!r} must have {MIN_OPTIONS} to {MAX_OPTIONS} entries, not {len(given)}."
        raise DecisionError(text, param=path)
    options: list[Option] = []
    seen: set[tuple[type, object]] = set()
    for index, each in enumerate(given):
        option = read(Members.of(each, at(path, index)))
        key = (type(option.value), option.value)
        if key in seen:
            where = at(path, index)
            raise DecisionError(f"{where!r} repeats the value {option.value!r}; each must be unique.", param=where)
        seen.add(key)
        options.append(option)
    return tuple(options)


def _choice(members: Members) -> Option:
    members.allow_only({"value", "description"})
    value = members.required("value")
    if not isinstance(value, str | bool):
        raise members.mistyped("value", "a string or a boolean")
    return Option(value=value, description=members.text("description"))


def _level(members: Members) -> Option:
    members.allow_only({"label", "description"})
    return Option(value=members.text("label", required=True), description=members.text("description"))


def _listed(given: Any, path: str) -> Sequence[Any]:
    if isinstance(given, list):
        return given
    expected = "an array" if path == "questions" or path.endswith(("choices", "levels")) else "a string or an array"
    raise DecisionError(f"{path!r} must be {expected}.", param=path, problem=Problem.TYPE)


_OPTIONS: Final = {QuestionKind.CHOICE: (_choice, "choices"), QuestionKind.SCORE: (_level, "levels")}
