"""Evaluates predictions: the clean-up task with and without the text to edit as the start of the canvas.

Uses known and invented words, and several seeds per sample to reduce variance.
"""

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from diffusion_worker.engine.loop import run
from diffusion_worker.models.interface import DiffusionModel
from diffusion_worker.types.requests import DecodingMode
from training.requests import request_for, text_of
from training.tasks.registry import TASKS
from training.tasks.sample import Sample, SampleSpec

SEEDS: Final = 4
PASSES_BAR: Final = 0.7


@dataclass(frozen=True, slots=True, kw_only=True)
class Edits:
    """Exact match and mean passes with and without a prediction, over the same samples and seeds."""

    answers: int
    plain_right: int
    anchored_right: int
    plain_passes: float
    anchored_passes: float

    @property
    def passes_ratio(self) -> float:
        """Ratio of passes with a prediction to passes without."""
        return self.anchored_passes / self.plain_passes

    @property
    def is_cleared(self) -> bool:
        """Whether accuracy is not lower and the ratio of passes is within the bar."""
        return self.anchored_right >= self.plain_right and self.passes_ratio <= PASSES_BAR

    def __str__(self) -> str:
        return (
            f"Clean-up, {self.answers} answers with and without a prediction: {self.anchored_right} and "
            f"{self.plain_right} correct, {self.anchored_passes:.2f} and {self.plain_passes:.2f} passes "
            f"({self.passes_ratio:.2f} x, bar {PASSES_BAR})."
        )


def edits(model: DiffusionModel, count: int) -> Edits:
    """Evaluate `count` held-out samples, half with known and half with invented words, under SEEDS seeds each."""
    samples = [
        TASKS["clean-up"](random.Random(f"evaluation/{i}"), SampleSpec(split="test", invented=invented))
        for invented in (0.0, 1.0)
        for i in range(count // 2)
    ]
    plain, anchored = (_answered(model, samples, from_source) for from_source in (False, True))
    return Edits(
        answers=SEEDS * len(samples),
        plain_right=sum(right for right, _ in plain),
        anchored_right=sum(right for right, _ in anchored),
        plain_passes=statistics.fmean(passes for _, passes in plain),
        anchored_passes=statistics.fmean(passes for _, passes in anchored),
    )


def _answered(model: DiffusionModel, samples: Sequence[Sample], from_source: bool) -> list[tuple[bool, int]]:
    """(correct, passes) of every sample under every seed."""
    found: list[tuple[bool, int]] = []
    for seed in range(SEEDS):
        requests = [request_for(model, sample, DecodingMode.DIFFUSION, from_source, seed=seed) for sample in samples]
        for sample, answer in zip(samples, run(model, requests), strict=True):
            found.append((text_of(answer) == sample.answer, answer.end.usage.denoising_steps))
    return found
