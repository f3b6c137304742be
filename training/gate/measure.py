"""Answers the rows of a mix with the serving loop, and measures the gate: precision and recall of what it serves."""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from rich.table import Table

from diffusion_worker.engine.loop import run
from diffusion_worker.models.interface import DiffusionModel
from diffusion_worker.types.confidence import Evidence
from diffusion_worker.types.events import Usage
from diffusion_worker.types.requests import DecodingMode, GenerationRequest
from training.gate.rows import Row, Third
from training.requests import request_for, text_of
from training.tasks.sample import Sample
from training.vocabulary import encode_text

TOGETHER: Final = 32  # sequences that run at a time
HOPELESS_TOKENS: Final = 32  # of an answer that is wrong whatever it is
SPARE_TOKENS: Final = 8  # beyond the correct answer
MIN_CONFIDENCE: Final = 0.8  # of the shipped policies
PRECISION_BAR: Final = 0.95
RECALL_BAR: Final = 0.90
MOST_RIGHT: Final = 0.5  # share of correct answers without a gate: with more of them, precision says little


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A row with the checkpoint's answer."""

    row: Row
    text: str
    confidence: float
    evidence: Evidence
    denoising_steps: int

    @property
    def is_right(self) -> bool:
        """Whether the answer is the correct one."""
        return self.text == self.row.answer

    @property
    def is_served(self) -> bool:
        """Whether the gate serves it: a blank answer never passes."""
        return self.confidence >= MIN_CONFIDENCE and bool(self.text.strip())


def answered(model: DiffusionModel, rows: Sequence[Row], mode: DecodingMode) -> list[Answered]:
    """Answer all rows, whatever their confidence, as far as it takes to tell whether the answer is right."""
    requests = [_request(model, row, mode) for row in rows]
    found = []
    for row, answer in zip(rows, run(model, requests, max_num_seqs=TOGETHER), strict=True):
        usage = answer.end.usage
        found.append(
            Answered(
                row=row,
                text=text_of(answer),
                confidence=usage.confidence or 0.0,
                evidence=usage.evidence,
                denoising_steps=usage.denoising_steps,
            )
        )
    return found


def _request(model: DiffusionModel, row: Row, mode: DecodingMode) -> GenerationRequest:
    request = request_for(model, Sample(prompt=row.prompt, answer=""), mode)
    if row.answer is None:
        return dataclasses.replace(request, max_tokens=HOPELESS_TOKENS)
    return dataclasses.replace(request, max_tokens=len(encode_text(row.answer)) + SPARE_TOKENS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """How far the worker got with an answer that the gate rejects: passes after the prompt, and tokens of completed
    blocks."""

    passes: int
    tokens: int


def rejected_with_gate(model: DiffusionModel, rows: Sequence[Row], mode: DecodingMode) -> list[Rejected]:
    """Answer these rows as requests with the minimum confidence, at full length."""
    requests = [
        dataclasses.replace(
            request_for(model, Sample(prompt=row.prompt, answer=""), mode), min_confidence=MIN_CONFIDENCE
        )
        for row in rows
    ]
    return [
        Rejected(passes=_passes_after_prompt(answer.end.usage, mode), tokens=len(answer.ids))
        for answer in run(model, requests, max_num_seqs=TOGETHER)
    ]


def _passes_after_prompt(usage: Usage, mode: DecodingMode) -> int:
    """The first canvas shares the pass that reads the prompt."""
    return usage.denoising_steps if mode is DecodingMode.DIFFUSION else usage.forward_passes - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The gate over some answers."""

    name: str
    answers: int
    right: int
    served: int
    right_served: int

    @property
    def precision_without(self) -> float:
        """Share of correct answers among all."""
        return self.right / max(1, self.answers)

    @property
    def precision(self) -> float:
        """Share of correct answers among those served; 1 if none is."""
        return self.right_served / self.served if self.served else 1.0

    @property
    def recall(self) -> float:
        """Share of the correct answers that are served; 1 if there are none."""
        return self.right_served / self.right if self.right else 1.0

    @property
    def is_cleared(self) -> bool:
        """Whether precision and recall reach their bars."""
        return self.precision >= PRECISION_BAR and self.recall >= RECALL_BAR


def figures(name: str, answers: Iterable[Answered]) -> Figures:
    """The figures of these answers."""
    found = list(answers)
    return Figures(
        name=name,
        answers=len(found),
        right=sum(each.is_right for each in found),
        served=sum(each.is_served for each in found),
        right_served=sum(each.is_right and each.is_served for each in found),
    )


def by_part(answers: Sequence[Answered]) -> list[Figures]:
    """Figures of all answers, of each third, and of each family of strangers."""
    found = [figures("all", answers)]
    for third in Third:
        part = [each for each in answers if each.row.third is third]
        found.append(figures(third.value, part))
        for family in dict.fromkeys(each.row.family for each in part):
            found.append(figures(f"  {family}", [each for each in part if each.row.family == family]))
    return found


def table_of(title: str, parts: Iterable[Figures]) -> Table:
    """The figures as a table."""
    table = Table(title=title, title_justify="left")
    for heading in ("", "answers", "correct", "without gate", "served", "precision", "recall"):
        table.add_column(heading, justify="left" if not heading else "right")
    for each in parts:
        table.add_row(
            each.name,
            str(each.answers),
            str(each.right),
            f"{each.precision_without:.1%}",
            str(each.served),
            f"{each.precision:.1%}" if each.served else "",
            f"{each.recall:.1%}" if each.right else "",
        )
    return table
