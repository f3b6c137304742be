"""Training batches of decisions: texts that are asked the same questions, their canvases, and their JSON answers.

The questions stand before the text, so that the rows of a batch share the beginning of their prompts, which is encoded
once. A hole is filled with noise, as in the worker's first pass; in the second one the beginnings of labels are given.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch

from diffusion_worker.constraints.inference.template import FREE, Template
from diffusion_worker.types.model_info import ModelInfo
from training.tasks.decisions import Asked, DecisionSample, canvases_of, decision
from training.tasks.sample import SampleSpec
from training.vocabulary import EOS, PAD, VOCAB_SIZE, encode_prompt, encode_text
from twolane.process.decisions.wording import prompt_of

UNDECIDING_WEIGHT = 0.1  # of positions at which labels do not part
INVENTED_SHARE = 0.1
Answer = tuple[list[int], list[float]]  # tokens and their loss weights


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionBatch:
    """Texts with the same questions. `first` and `second` are the canvases of the worker's passes."""

    prefix: torch.Tensor  # [1, tokens] that all prompts begin with
    rest: torch.Tensor  # [rows, tokens] of prompt and JSON answer, right-padded
    answer_weight: torch.Tensor  # [rows, tokens] loss weights of `rest`: 0 outside the answers; all 0 without them
    row: torch.Tensor  # [canvases] of the text of each canvas
    context: torch.Tensor  # [canvases] tokens of its prompt
    clean: torch.Tensor  # [canvases, canvas] the right labels
    first: torch.Tensor
    first_weight: torch.Tensor  # [canvases, canvas] loss weights
    second: torch.Tensor
    second_weight: torch.Tensor  # all 0 where one pass decides everything


def decision_batch(
    rng: random.Random,
    generator: torch.Generator,
    info: ModelInfo,
    asked: Sequence[Asked],
    *,
    rows: int,
    is_read: bool = True,
) -> DecisionBatch:
    """A batch of `rows` texts of the training split with these questions, and with JSON answers to read left to right
    if `is_read`."""
    samples = [decision(rng, SampleSpec(invented=INVENTED_SHARE), asked) for _ in range(rows)]
    prompts = [
        encode_prompt(prompt_of(each.text, each.questions, [q.labels() for q in each.questions])) for each in samples
    ]
    shared = _shared(prompts)
    answers = [_answer(sample) if is_read else ([], []) for sample in samples]
    length = max(len(prompt) + len(ids) for prompt, (ids, _) in zip(prompts, answers, strict=True)) - shared
    rest, weight = torch.full((rows, length), PAD), torch.zeros(rows, length)
    for row, (prompt, (ids, weights)) in enumerate(zip(prompts, answers, strict=True)):
        text = [*prompt[shared:], *ids]
        rest[row, : len(text)] = torch.tensor(text)
        weight[row, len(text) - len(ids) : len(text)] = torch.tensor(weights)
    canvases = [
        (row, _canvas_of(canvas.template, right))
        for row, sample in enumerate(samples)
        for canvas, right in canvases_of(sample, info)
    ]
    return DecisionBatch(
        prefix=torch.tensor([prompts[0][:shared]]),
        rest=rest,
        answer_weight=weight,
        row=torch.tensor([row for row, _ in canvases]),
        context=torch.tensor([len(prompts[row]) for row, _ in canvases]),
        clean=torch.tensor([each.clean for _, each in canvases]),
        first=_noisy([each.first for _, each in canvases], generator),
        first_weight=torch.tensor([each.first_weight for _, each in canvases]),
        second=_noisy([each.second for _, each in canvases], generator),
        second_weight=torch.tensor([each.second_weight for _, each in canvases]),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Canvas:
    """The ids of one canvas and their loss weights by pass; FREE where a pass sees noise."""

    clean: tuple[int, ...]
    first: tuple[int, ...]
    first_weight: tuple[float, ...]
    second: tuple[int, ...]
    second_weight: tuple[float, ...]


def _canvas_of(template: Template, clean: tuple[int, ...]) -> _Canvas:
    """Both passes over a canvas whose right ids are `clean`; the second one knows what the first one has decided."""
    chosen = [hole.labels.index(_label_in(hole.labels, clean[hole.start :])) for hole in template.holes]
    certain = [
        tuple(float(index == right) for index in range(len(hole.labels)))
        for hole, right in zip(template.holes, chosen, strict=True)
    ]
    later = template.narrowed(certain)
    return _Canvas(
        clean=clean,
        first=template.pins,
        first_weight=_weights(template, chosen),
        second=later.pins,
        second_weight=(0.0,) * len(clean) if later.is_decided else _weights(later, chosen),
    )


def _weights(template: Template, chosen: Sequence[int]) -> tuple[float, ...]:
    """Of the positions that a pass sees noise at: 1 where it decides, with all branches before known."""
    weights = [UNDECIDING_WEIGHT if pinned == FREE else 0.0 for pinned in template.pins]
    for hole, right in zip(template.holes, chosen, strict=True):
        on_path = [branch.depth for branch in hole.branches if any(right in labels for labels in branch.labels)]
        if on_path:
            weights[hole.start + min(on_path)] = 1.0
    return tuple(weights)


def _noisy(pins: Sequence[tuple[int, ...]], generator: torch.Generator) -> torch.Tensor:
    """Canvases [canvases, canvas] with noise at the free positions."""
    given = torch.tensor(pins)
    return torch.where(given == FREE, torch.randint(VOCAB_SIZE, given.shape, generator=generator), given)


def _label_in(labels: Sequence[tuple[int, ...]], ids: Sequence[int]) -> tuple[int, ...]:
    return next(label for label in labels if tuple(ids[: len(label)]) == label)


def _answer(sample: DecisionSample) -> Answer:
    """The JSON answer with the end token, and the loss weight of each token."""
    ids: list[int] = []
    weights: list[float] = []
    for number, (question, right) in enumerate(zip(sample.questions, sample.right, strict=True), 1):
        labels = question.labels()
        before = encode_text(("," if ids else "{") + f'"{number}":"')
        label = [*encode_text(labels[right]), *encode_text('"')]
        ids += [*before, *label]
        weights += [UNDECIDING_WEIGHT] * len(before)
        weights += [1.0 if at in _partings(labels, right) else UNDECIDING_WEIGHT for at in range(len(label))]
    return [*ids, *encode_text("}"), EOS], [*weights, UNDECIDING_WEIGHT, UNDECIDING_WEIGHT]


def _partings(labels: Sequence[str], right: int) -> set[int]:
    """The characters of the right label at which other ones part from it."""
    return {_common(labels[right], label) for index, label in enumerate(labels) if index != right}


def _common(one: Sequence[object], other: Sequence[object]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _shared(prompts: Sequence[Sequence[int]]) -> int:
    """Tokens that all prompts begin with; a prompt keeps at least its last token."""
    return min(min(_common(prompts[0], prompt), len(prompt) - 1) for prompt in prompts)
