"""Lays the questions of a decision out on canvases.

All questions stand in one prompt beside the input, as far as the context allows, so that its canvases share all of
it. A canvas reads `1: yes`, a line per question with the question's number, and a hole in place of each answer. A hole
is as wide as its longest label with the line break; padding follows a shorter one.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from diffusion_worker.constraints.inference.template import Template, template_of
from diffusion_worker.errors import AnswerDoesNotFit, PromptTooLong
from diffusion_worker.types.model_info import ModelInfo
from twolane.process.decisions.questions import MAX_QUESTIONS, DecisionRequest, Question
from twolane.process.decisions.wording import line_of, prompt_of

Encode = Callable[[str], tuple[int, ...]]
Ids = tuple[int, ...]
_JOINED = 4  # tokens that the parts of a prompt may take more together than alone


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionCanvas:
    """One canvas: its questions, its prompt, and its template."""

    questions: tuple[Question, ...]
    prompt_ids: Ids
    template: Template


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """A question, its labels as texts and as tokens with the line break, and the tokens of its line of the prompt."""

    question: Question
    labels: tuple[str, ...]
    label_ids: tuple[Ids, ...]
    prompt_tokens: int

    @property
    def width(self) -> int:
        return max(map(len, self.label_ids))


def lay_out(
    request: DecisionRequest, info: ModelInfo, encode: Encode, to_prompt: Callable[[str], Ids]
) -> tuple[DecisionCanvas, ...]:
    """The canvases, in the order of the questions. `to_prompt` renders a user message. Raises PromptTooLong, naming
    `input` or the question that does not fit the context beside it."""
    length = info.denoising.canvas_length
    shared = len(to_prompt(prompt_of(request.text, (), ()))) + _JOINED
    left = info.max_context - length - shared
    if left < 1:
        raise PromptTooLong(
            f"The maximum context length is {info.max_context} tokens; 'input' and a canvas need {shared + length}.",
            param="input",
        )
    asked = [_line_of_question(each, index, encode, length) for index, each in enumerate(request.questions)]
    for index, each in enumerate(asked):
        if each.prompt_tokens > left:
            param = f"questions[{index}]"
            raise PromptTooLong(
                f"The maximum context length is {info.max_context} tokens; {param!r} has {each.prompt_tokens}, and"
                f" {left} are left beside 'input'.",
                param=param,
            )
    return tuple(
        canvas
        for prompt in _prompts(asked, left)
        for canvas in _canvases(prompt, to_prompt(_text(request, prompt)), info, encode)
    )


def _line_of_question(question: Question, index: int, encode: Encode, length: int) -> _Asked:
    """With its own labels if their tokens differ and a line with the longest of them fits a canvas, else with their
    numbers."""
    line_break = encode("\n")
    for numbered in (False, True):
        labels = question.labels(numbered=numbered)
        label_ids = tuple((*encode(f" {label}"), *line_break) for label in labels)
        if not numbered and not _differ(label_ids):
            continue
        written = len(encode(line_of(MAX_QUESTIONS, question, labels))) + len(line_break)
        asked = _Asked(question=question, labels=labels, label_ids=label_ids, prompt_tokens=written)
        if len(_heading(MAX_QUESTIONS, encode)) + asked.width <= length:
            return asked
    raise AnswerDoesNotFit(
        f"a canvas of {length} tokens is too short for the answers of question {index}", param=f"questions[{index}]"
    )


def _differ(label_ids: Sequence[Ids]) -> bool:
    """Whether no label begins another one. A tokenizer may normalise different texts to the same tokens."""
    return not any(after[: len(before)] == before for before, after in pairwise(sorted(label_ids)))


def _heading(number: int, encode: Encode) -> Ids:
    return encode(f"{number}:")


def _prompts(asked: Sequence[_Asked], left: int) -> Iterator[list[_Asked]]:
    """As many neighbours together as the context holds."""
    group: list[_Asked] = []
    written = 0
    for each in asked:
        if group and written + each.prompt_tokens > left:
            yield group
            group, written = [], 0
        group.append(each)
        written += each.prompt_tokens
    yield group


def _text(request: DecisionRequest, asked: Sequence[_Asked]) -> str:
    return prompt_of(request.text, [each.question for each in asked], [each.labels for each in asked])


def _canvases(asked: Sequence[_Asked], prompt_ids: Ids, info: ModelInfo, encode: Encode) -> Iterator[DecisionCanvas]:
    """As many neighbours on one canvas as it holds."""
    length, used = info.denoising.canvas_length, 0
    group: list[tuple[Question, Ids, tuple[Ids, ...]]] = []
    for number, each in enumerate(asked, 1):
        heading = _heading(number, encode)
        taken = len(heading) + each.width
        if group and used + taken > length:
            yield _canvas(group, prompt_ids, info, length - used)
            group, used = [], 0
        group.append((each.question, heading, each.label_ids))
        used += taken
    yield _canvas(group, prompt_ids, info, length - used)


def _canvas(
    group: Sequence[tuple[Question, Ids, tuple[Ids, ...]]], prompt_ids: Ids, info: ModelInfo, rest: int
) -> DecisionCanvas:
    end = (info.end_ids[0], *[info.pad_id] * (rest - 1)) if rest and info.end_ids else (info.pad_id,) * rest
    return DecisionCanvas(
        questions=tuple(question for question, _, _ in group),
        prompt_ids=prompt_ids,
        template=template_of([(heading, labels) for _, heading, labels in group], end, pad_id=info.pad_id),
    )
