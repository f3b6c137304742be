"""Lays the questions of a decision out on canvases.

A canvas answers as many questions as fit: its prompt holds the input and these questions, numbered from 1, and it reads
`1: yes`, a line per question, with a hole in place of each answer. A hole is as wide as its longest label with the line
break; padding follows a shorter one. The input stands first in every prompt, so canvases share its prefix in the cache.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from diffusion_worker.constraints.inference.template import Template, template_of
from diffusion_worker.errors import AnswerDoesNotFit, PromptTooLong
from diffusion_worker.types.model_info import ModelInfo
from twolane.process.decisions.questions import DecisionRequest, Question
from twolane.process.decisions.wording import prompt_of

Encode = Callable[[str], tuple[int, ...]]
Ids = tuple[int, ...]


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
    asked = [_ask(each, index, encode, length) for index, each in enumerate(request.questions)]
    shared = len(to_prompt(prompt_of(request.text, (), ())))
    left = info.max_context - length - shared
    if left < 1:
        needed = shared + length
        raise PromptTooLong(
            f"The maximum context length is {info.max_context} tokens; 'input' and a canvas need {needed}.",
            param="input",
        )
    for index, each in enumerate(asked):
        if each.prompt_tokens > left:
            param = f"questions[{index}]"
            raise PromptTooLong(
                f"The maximum context length is {info.max_context} tokens; {param!r} has {each.prompt_tokens}, and"
                f" {left} are left beside 'input'.",
                param=param,
            )
    return tuple(
        _canvas(request.text, group, info, encode, to_prompt) for group in _groups(asked, length, left, encode)
    )


def _ask(question: Question, index: int, encode: Encode, length: int) -> _Asked:
    """With its own labels if a line with the longest of them fits a canvas, else with their numbers."""
    for numbered in (False, True):
        labels = question.labels(numbered=numbered)
        label_ids = tuple(_label_ids(label, encode) for label in labels)
        # Tokens of a line counted alone: a tokenizer may join it with its neighbours, but needs no more for it.
        written = len(encode("\n" + prompt_of("", (question,), (labels,)).splitlines()[-1]))
        asked = _Asked(question=question, labels=labels, label_ids=label_ids, prompt_tokens=written)
        if len(_heading(1, encode)) + asked.width <= length:
            return asked
    raise AnswerDoesNotFit(
        f"a canvas of {length} tokens is too short for the answers of question {index}", param=f"questions[{index}]"
    )


def _label_ids(label: str, encode: Encode) -> Ids:
    return (*encode(f" {label}"), *encode("\n"))


def _heading(number: int, encode: Encode) -> Ids:
    return encode(f"{number}:")


def _groups(asked: Sequence[_Asked], length: int, left: int, encode: Encode) -> Iterator[tuple[_Asked, ...]]:
    """As many neighbours together as the canvas and the context hold."""
    group: list[_Asked] = []
    used = written = 0
    for each in asked:
        taken = len(_heading(len(group) + 1, encode)) + each.width
        if group and (used + taken > length or written + each.prompt_tokens > left):
            yield tuple(group)
            group, used, written, taken = [], 0, 0, len(_heading(1, encode)) + each.width
        group.append(each)
        used, written = used + taken, written + each.prompt_tokens
    yield tuple(group)


def _canvas(
    text: str, group: Sequence[_Asked], info: ModelInfo, encode: Encode, to_prompt: Callable[[str], Ids]
) -> DecisionCanvas:
    questions = tuple(each.question for each in group)
    parts = [(_heading(number, encode), each.label_ids) for number, each in enumerate(group, 1)]
    used = sum(len(heading) + max(map(len, labels)) for heading, labels in parts)
    rest = info.denoising.canvas_length - used
    end = (info.end_ids[0], *[info.pad_id] * (rest - 1)) if rest and info.end_ids else (info.pad_id,) * rest
    return DecisionCanvas(
        questions=questions,
        prompt_ids=to_prompt(prompt_of(text, questions, [each.labels for each in group])),
        template=template_of(parts, end, pad_id=info.pad_id),
    )
