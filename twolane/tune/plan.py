"""Which settings of a worker are tried, which trials are worth another look, and which is chosen. Pure.

Successive halving (Jamieson & Talwalkar, "Non-stochastic best arm identification", 2016) over a seeded sample: all are
tried shortly, the better third three times as long, and so on. Better means: dominated by fewer in p95 and quality.
"""

import itertools
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Final

KEPT: Final = 3  # one in so many goes on, for so many times as long


@dataclass(frozen=True, slots=True, kw_only=True)
class Knobs:
    """Settings of a trial; None leaves the worker's own. All but `max_num_seqs` go with each request."""

    max_num_seqs: int | None = None
    steps: int | None = None
    entropy_bound: float | None = None  # nats
    canvas_length: int | None = None  # tokens
    anchor: float | None = None

    @property
    def wishes(self) -> dict[str, float]:
        """The object `diffusion` of a request."""
        return {name: value for name, value in self.turned.items() if name != "max_num_seqs"}

    @property
    def turned(self) -> dict[str, float]:
        """Those that are not the worker's own."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def __str__(self) -> str:
        return ", ".join(f"{name} {value:g}" for name, value in self.turned.items()) or "as it is"


NAMES: Final = tuple(knob.name for knob in fields(Knobs))


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What a load showed under some settings. `quality`: share of the requests answered rightly."""

    knobs: Knobs
    seconds: float  # of load
    sent: int
    p50_ms: float
    p95_ms: float  # infinite if nothing was answered
    quality: float
    memory_bytes: int
    errors: Mapping[str, int]

    def dominates(self, other: "Trial") -> bool:
        """As good in both, and better in one."""
        as_good = self.p95_ms <= other.p95_ms and self.quality >= other.quality
        return as_good and (self.p95_ms < other.p95_ms or self.quality > other.quality)


def candidates(choices: Mapping[str, Sequence[float]], most: int, seed: int) -> tuple[Knobs, ...]:
    """The worker as it is, knobs turned alone, then combinations drawn from the seed; at most `most`, none twice."""
    alone = [{name: value} for name, values in choices.items() for value in values]
    mixed = [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]
    draw = random.Random(seed)  # noqa: S311 - a sample, not a secret
    draw.shuffle(alone)
    draw.shuffle(mixed)
    turned = (Knobs(**values) for values in [{}, *alone[: most // 2], *mixed])  # type: ignore[arg-type]
    return tuple(itertools.islice(dict.fromkeys(turned), most))


def front(trials: Iterable[Trial]) -> tuple[Trial, ...]:
    """The trials that no other dominates, fastest first."""
    known = tuple(trials)
    best = [trial for trial in known if not any(other.dominates(trial) for other in known)]
    return tuple(sorted(best, key=lambda trial: trial.p95_ms))


def survivors(trials: Sequence[Trial]) -> tuple[Knobs, ...]:
    """The better third, and always the worker as it is: the others are measured against it."""
    others = [trial for trial in trials if trial.knobs != Knobs()]
    ranked = sorted(others, key=lambda one: (sum(other.dominates(one) for other in trials), one.p95_ms))
    return (Knobs(), *(trial.knobs for trial in ranked[: max(1, len(others) // KEPT)]))


def choose(trials: Sequence[Trial], *, loss: float, p95_ms: float | None) -> Trial | None:
    """Among those that stood the longest load, and within the p95, if one is asked for: the fastest whose quality is at
    most `loss` below that of the worker as it is. Where none is, the best quality within the p95; None if even that is
    not to be had."""
    longest_s = max((trial.seconds for trial in trials), default=0.0)
    last = [trial for trial in trials if trial.seconds == longest_s]
    own = next((trial.quality for trial in last if trial.knobs == Knobs()), 0.0)
    in_time = [trial for trial in last if math.isfinite(trial.p95_ms) and (p95_ms is None or trial.p95_ms <= p95_ms)]
    good = [trial for trial in in_time if trial.quality >= own - loss]
    if good:
        return min(good, key=lambda trial: (trial.p95_ms, -trial.quality))
    return max(in_time, key=lambda trial: (trial.quality, -trial.p95_ms), default=None)


def last_of_each(trials: Iterable[Trial]) -> tuple[Trial, ...]:
    """Of every setting the trial under the longest load."""
    longest: dict[Knobs, Trial] = {}
    for trial in sorted(trials, key=lambda one: one.seconds):
        longest[trial.knobs] = trial
    return tuple(longest.values())
