"""The two stages of training: from scratch, then a short fine-tuning stage that adds anchored edits.

A stage is data: the samples of a step, the learning-rate schedule, and how many steps of the serving loop are unrolled.
"""

import random
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from training.objective import Unroll
from training.tasks.registry import TASKS
from training.tasks.sample import Sample, SampleSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One batch of a step: (task, number of rows, share of invented words) per task."""

    rows: tuple[tuple[str, int, float], ...]
    is_anchored: bool = False  # the canvas starts from the source, as in a request with a prediction

    @property
    def name(self) -> str:
        """The name of the part in the log."""
        return self.rows[0][0] + ("/anchored" if self.is_anchored else "")

    def samples(self, rng: random.Random) -> list[Sample]:
        """New samples for one batch."""
        return [
            TASKS[name](rng, SampleSpec(invented=invented)) for name, count, invented in self.rows for _ in range(count)
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Configuration of one training run."""

    parts: tuple[Part, ...]
    steps: int
    peak_rate: float
    warmup_steps: int
    held: float  # share of the run at the peak rate; then a linear decay to 2 %
    unroll_from: float  # share of the run after which steps of the serving loop are unrolled

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of a step."""
        left = 1 - step / steps
        falling = 1.0 if self.held == 1.0 else min(1.0, left / (1.0 - self.held))
        return self.peak_rate * min(1.0, (step + 1) / self.warmup_steps) * max(0.02, falling)

    def unroll(self, rng: random.Random, part: Part, progress: float) -> Unroll:
        """Passes before the pass with gradient; `progress` is the completed share of the run."""
        if part.is_anchored:
            return _anchored(rng)
        if rng.random() < 0.5:
            return Unroll()
        if progress < self.unroll_from or rng.random() < 0.25:
            return Unroll(temperatures=(rng.uniform(0.4, 0.8),))
        annealed = sorted((rng.uniform(0.4, 0.8) for _ in range(rng.randint(1, 3))), reverse=True)
        return Unroll(temperatures=tuple(annealed), renoises=True)


def _anchored(rng: random.Random) -> Unroll:
    """Zero to two steps of an anchored canvas, at the lowest temperature."""
    return Unroll(temperatures=(0.4,) * rng.choice((0, 0, 1, 1, 2)), renoises=True, anchor=rng.uniform(0.5, 1.0))


# Out-of-distribution samples share a batch with the edits, to train low confidence on unknown instructions.
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
    unroll_from=0.35,
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
    unroll_from=0.0,
)
STAGES: Final = MappingProxyType({"scratch": SCRATCH, "polish": POLISH})
