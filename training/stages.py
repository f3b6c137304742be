"""The two stages of training: everything from scratch, then a short polish that adds anchored edits.

A stage is data: which samples a step sees, how its learning rate runs, and how much of the serving loop it rehearses.
"""

import random
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from training.objective import Rehearsal
from training.tasks.registry import TASKS
from training.tasks.sample import Sample, SampleSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One batch of a step: rows of each task and their share of invented words among the slots."""

    rows: tuple[tuple[str, int, float], ...]
    is_anchored: bool = False  # the canvas starts from the source, as a request with a prediction does

    @property
    def name(self) -> str:
        """What the log calls it."""
        return self.rows[0][0] + ("/anchored" if self.is_anchored else "")

    def samples(self, rng: random.Random) -> list[Sample]:
        """Fresh samples for one batch."""
        return [
            TASKS[name](rng, SampleSpec(invented=invented)) for name, count, invented in self.rows for _ in range(count)
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """How one run trains."""

    parts: tuple[Part, ...]
    steps: int
    peak_rate: float
    warmup_steps: int
    held: float  # share of the run that stays at the peak; then the rate falls in a straight line to 2 %
    rehearse_from: float  # share of the run before real steps of the loop are rehearsed

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of a step."""
        left = 1 - step / steps
        falling = 1.0 if self.held == 1.0 else min(1.0, left / (1.0 - self.held))
        return self.peak_rate * min(1.0, (step + 1) / self.warmup_steps) * max(0.02, falling)

    def rehearsal(self, rng: random.Random, part: Part, progress: float) -> Rehearsal:
        """Passes before the one that counts; `progress` is the share of the run that is over."""
        if part.is_anchored:
            return _anchored(rng)
        if rng.random() < 0.5:
            return Rehearsal()
        if progress < self.rehearse_from or rng.random() < 0.25:
            return Rehearsal(temperatures=(rng.uniform(0.4, 0.8),))
        annealed = sorted((rng.uniform(0.4, 0.8) for _ in range(rng.randint(1, 3))), reverse=True)
        return Rehearsal(temperatures=tuple(annealed), renoises=True)


def _anchored(rng: random.Random) -> Rehearsal:
    """None, one or two steps of an anchored canvas, which is cold from the start."""
    return Rehearsal(temperatures=(0.4,) * rng.choice((0, 0, 1, 1, 2)), renoises=True, anchor=rng.uniform(0.5, 1.0))


# Strangers ride with the edits: what nobody trained for is to be answered without conviction.
SCRATCH: Final = Stage(
    parts=(
        Part(rows=(("extraction", 22, 0.35),)),
        Part(rows=(("sudoku", 16, 0.0),)),
        Part(rows=(("clean-up", 22, 0.3), ("out-of-distribution", 4, 0.0))),
    ),
    steps=3000,
    peak_rate=4e-3,
    warmup_steps=100,
    held=0.5,
    rehearse_from=0.35,
)
POLISH: Final = Stage(
    parts=(
        Part(rows=(("extraction", 12, 0.35),)),
        Part(rows=(("sudoku", 8, 0.0),)),
        Part(rows=(("clean-up", 14, 0.3), ("out-of-distribution", 3, 0.0))),
        Part(rows=(("clean-up", 24, 0.3),), is_anchored=True),
    ),
    steps=500,
    peak_rate=1e-3,
    warmup_steps=20,
    held=0.2,
    rehearse_from=0.0,
)
STAGES: Final = MappingProxyType({"scratch": SCRATCH, "polish": POLISH})
