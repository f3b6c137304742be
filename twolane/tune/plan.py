"""The search of `twolane tune`: candidate parameters, promotion to longer trials, and the final choice. Pure.

Successive halving (Jamieson & Talwalkar, "Non-stochastic best arm identification", 2016) over a seeded sample of the
parameter grid: every candidate gets a short trial, the better third a trial three times as long, and so on. A trial is
better if fewer others dominate it in p95 latency and quality.
"""

import itertools
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Final

from twolane.tune.threshold import Judged

PROMOTION: Final = 3  # one candidate in three is promoted, to a trial three times as long


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """The parameters of a trial; None keeps the worker's default. All but `max_num_seqs` are sent with each request:
    the decoding mode `decoding` in the model name. Modes other than diffusion have no further parameters."""

    max_num_seqs: int | None = None
    steps: int | None = None
    entropy_bound: float | None = None  # nats
    confidence_threshold: float | None = None  # nats
    canvas_length: int | None = None  # tokens
    anchor: float | None = None
    decoding: str | None = None

    @property
    def request_params(self) -> dict[str, float]:
        """The object `diffusion` of a request."""
        others = ("max_num_seqs", "decoding")
        return {name: float(value) for name, value in self.changed.items() if name not in others}

    @property
    def changed(self) -> dict[str, float | str]:
        """The parameters that differ from the worker's defaults."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def __str__(self) -> str:
        texts = (
            f"{name} {value}" if isinstance(value, str) else f"{name} {value:g}" for name, value in self.changed.items()
        )
        return ", ".join(texts) or "worker defaults"


NAMES: Final = tuple(parameter.name for parameter in fields(Parameters) if parameter.name != "decoding")  # of numbers
DEFAULTS: Final = Parameters()


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """The measurements of one load. `quality` is the share of requests with a correct response."""

    parameters: Parameters
    seconds: float  # of load
    sent: int
    p50_ms: float
    p95_ms: float  # infinite if no request succeeded
    quality: float
    memory_bytes: int
    errors: Mapping[str, int]
    judged: tuple[Judged, ...] = ()  # answers with a confidence

    def dominates(self, other: "Trial") -> bool:
        """Return whether this trial is at least as good in both measures, and better in one."""
        as_good = self.p95_ms <= other.p95_ms and self.quality >= other.quality
        return as_good and (self.p95_ms < other.p95_ms or self.quality > other.quality)


def candidates(
    grid: Mapping[str, Sequence[float]], most: int, seed: int, *, modes: Sequence[str] = ()
) -> tuple[Parameters, ...]:
    """Return the defaults, the decoding modes, single changes, then random combinations; `most` different candidates
    at most."""
    single = [{name: value} for name, values in grid.items() for value in values]
    combined = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    rng = random.Random(seed)  # noqa: S311 - a sample, not a secret
    rng.shuffle(single)
    rng.shuffle(combined)
    changed = (Parameters(**values) for values in (*single[: most // 2], *combined))  # type: ignore[arg-type]
    found = itertools.chain((DEFAULTS,), (Parameters(decoding=mode) for mode in modes), changed)
    return tuple(itertools.islice(dict.fromkeys(found), most))


def pareto_front(trials: Iterable[Trial]) -> tuple[Trial, ...]:
    """Return the trials that no other dominates, fastest first."""
    known = tuple(trials)
    best = [trial for trial in known if not any(other.dominates(trial) for other in known)]
    return tuple(sorted(best, key=lambda trial: trial.p95_ms))


def promoted(trials: Sequence[Trial]) -> tuple[Parameters, ...]:
    """Return the better third, and always the defaults, which the others are compared with."""
    others = [trial for trial in trials if trial.parameters != DEFAULTS]
    ranked = sorted(others, key=lambda one: (sum(other.dominates(one) for other in trials), one.p95_ms))
    return (DEFAULTS, *(trial.parameters for trial in ranked[: max(1, len(others) // PROMOTION)]))


def choose(trials: Sequence[Trial], *, loss: float, p95_ms: float | None) -> Trial | None:
    """Return the fastest of the longest trials within `p95_ms` whose quality is at most `loss` below the defaults'.

    If there is none, return the one with the best quality within `p95_ms`; None if no trial is within it.
    """
    longest_s = max((trial.seconds for trial in trials), default=0.0)
    last = [trial for trial in trials if trial.seconds == longest_s]
    baseline = next((trial.quality for trial in last if trial.parameters == DEFAULTS), 0.0)
    in_time = [trial for trial in last if math.isfinite(trial.p95_ms) and (p95_ms is None or trial.p95_ms <= p95_ms)]
    good = [trial for trial in in_time if trial.quality >= baseline - loss]
    if good:
        return min(good, key=lambda trial: (trial.p95_ms, -trial.quality))
    return max(in_time, key=lambda trial: (trial.quality, -trial.p95_ms), default=None)


def longest_of_each(trials: Iterable[Trial]) -> tuple[Trial, ...]:
    """Return the longest trial of each candidate."""
    longest: dict[Parameters, Trial] = {}
    for trial in sorted(trials, key=lambda one: one.seconds):
        longest[trial.parameters] = trial
    return tuple(longest.values())
