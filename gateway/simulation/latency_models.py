"""How long a target takes, what it costs and how often it fails: fitted to a decision log, or assumed.

A latency is a line in the tokens (base + a x input + b x output) times a ratio that is drawn from what was seen.
Knows neither policies nor time.
"""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from math import exp
from statistics import NormalDist, median
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gateway.enums import AttemptOutcome, Reason
from gateway.simulation.traffic import Logged, LoggedAttempt

POINTS: Final = 501  # of a distribution that are kept
SPREAD: Final = 0.25  # of an assumed latency's logarithm: its p95 is half above its median
_ANSWERED: Final = frozenset({AttemptOutcome.OK, Reason.INVALID_OUTPUT, Reason.LOW_CONFIDENCE})
# Given up: what it took so far is the least it can be. The guard's window counts it like that, too.
_GIVEN_UP: Final = frozenset({Reason.DEADLINE, Reason.HEDGE})
# What the target did; the other reasons are ours, and the simulated gateway finds them itself.
_FAULTS: Final = frozenset(
    {
        Reason.UPSTREAM_ERROR, Reason.OVERLOADED, Reason.NOT_RESIDENT, Reason.REFUSED,
        Reason.INVALID_OUTPUT, Reason.LOW_CONFIDENCE,
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Milliseconds by tokens; the last two are per token."""

    base_ms: float
    per_input_ms: float = 0.0
    per_output_ms: float = 0.0

    def at(self, input_tokens: int, output_tokens: int) -> float:
        """The usual latency in ms of a request of this size."""
        return self.base_ms + self.per_input_ms * input_tokens + self.per_output_ms * output_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """Which faults a target has: `until` are their shares, summed up; `after_ms` how long each usually takes."""

    until: tuple[float, ...] = ()
    reasons: tuple[Reason, ...] = ()
    after_ms: tuple[float, ...] = ()

    def drawn(self, sample: float) -> tuple[Reason | None, float]:
        """The fault for a number in [0, 1), and after how many ms it comes; None: an answer that is good."""
        place = bisect_right(self.until, sample)
        return (self.reasons[place], self.after_ms[place]) if place < len(self.reasons) else (None, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """One target. `ratios` are evenly spaced quantiles of actual by usual latency; one draw for first byte and whole.

    `faults` are told apart by whether the request has a schema.
    """

    whole: Curve
    first: Curve
    ratios: tuple[float, ...]
    faults: Mapping[bool, Faults] = field(default_factory=dict)
    dollars_per_token: float = 0.0
    seen: int = 0  # calls it was fitted to; 0: assumed

    def takes_ms(self, input_tokens: int, output_tokens: int, sample: float) -> tuple[float, float]:
        """First byte and whole answer, in ms, for a number in [0, 1)."""
        place = sample * (len(self.ratios) - 1)
        low = int(place)
        high = min(low + 1, len(self.ratios) - 1)
        ratio = self.ratios[low] + (place - low) * (self.ratios[high] - self.ratios[low])
        whole_ms = ratio * self.whole.at(input_tokens, output_tokens)
        return min(ratio * self.first.at(input_tokens, output_tokens), whole_ms), whole_ms


def assumed(base_ms: float, per_output_ms: float = 0.0, *, dollars_per_token: float = 0.0) -> Behaviour:
    """A log-normal target whose median is `base_ms` and so much more for each token it writes."""
    normal = NormalDist(0.0, SPREAD)
    ratios = tuple(exp(normal.inv_cdf((number + 0.5) / POINTS)) for number in range(POINTS))
    whole = Curve(base_ms=base_ms, per_output_ms=per_output_ms)
    return Behaviour(whole=whole, first=Curve(base_ms=base_ms), ratios=ratios, dollars_per_token=dollars_per_token)


def fit(log: Iterable[Logged]) -> dict[str, Behaviour]:
    """Every target of the log that answered at least once."""
    calls: defaultdict[str, list[tuple[Logged, LoggedAttempt]]] = defaultdict(list)
    for line in log:
        for attempt in line.attempts:
            if attempt.was_called:
                calls[attempt.target].append((line, attempt))
    fitted = ((target, _behaviour(target, rows)) for target, rows in calls.items())
    return {target: behaviour for target, behaviour in fitted if behaviour is not None}


def _behaviour(target: str, calls: Sequence[tuple[Logged, LoggedAttempt]]) -> Behaviour | None:
    timed = [(line, attempt) for line, attempt in calls if attempt.outcome in _ANSWERED | _GIVEN_UP]
    if not any(attempt.outcome in _ANSWERED for _, attempt in timed):
        return None
    sizes = np.array([(line.input_tokens or 0, line.output_tokens or 0) for line, _ in timed], float)
    whole_ms = np.array([attempt.elapsed_ms for _, attempt in timed])
    whole = _curve(sizes, whole_ms)
    begun = [number for number, (_, attempt) in enumerate(timed) if attempt.first_byte_ms is not None]
    first_ms = np.array([(timed[n][1].first_byte_ms or 0.0) - timed[n][1].started_ms for n in begun])
    usual_ms = whole.base_ms + sizes @ (whole.per_input_ms, whole.per_output_ms)
    return Behaviour(
        whole=whole,
        first=_curve(sizes[begun] * (1, 0), np.maximum(first_ms, 1e-3)) if begun else whole,
        ratios=tuple(map(float, np.quantile(whole_ms / usual_ms, np.linspace(0, 1, POINTS)))),
        faults={has_schema: _faults(calls, has_schema=has_schema) for has_schema in (False, True)},
        dollars_per_token=_price(line for line, _ in timed if line.target == target and len(line.attempts) == 1),
        seen=len(calls),
    )


def _curve(sizes: NDArray[np.float64], taken_ms: NDArray[np.float64]) -> Curve:
    """Least squares of the relative error, with no number below nothing: of the subsets of terms, the best such one.

    `sizes` [calls, (input, output)], `taken_ms` [calls], all above 0.
    """
    columns = np.column_stack([np.ones(len(sizes)), sizes]) / taken_ms[:, None]
    best, least = np.array([float(np.median(taken_ms)), 0.0, 0.0]), float("inf")
    for terms in ([0, 1, 2], [0, 2], [0, 1], [0]):
        if any(not sizes[:, term - 1].any() for term in terms if term):
            continue
        found = np.linalg.lstsq(columns[:, terms], np.ones(len(sizes)), rcond=None)[0]
        error = float(np.sum((columns[:, terms] @ found - 1) ** 2))
        if found.min() >= 0 and found.sum() > 0 and error < least - 1e-9:
            best, least = np.zeros(3), error
            best[terms] = found
    return Curve(base_ms=max(float(best[0]), 1e-3), per_input_ms=float(best[1]), per_output_ms=float(best[2]))


def _faults(calls: Iterable[tuple[Logged, LoggedAttempt]], *, has_schema: bool) -> Faults:
    attempts = [attempt for line, attempt in calls if (line.schema is not None) is has_schema]
    counts = Counter(attempt.outcome for attempt in attempts if attempt.outcome in _FAULTS)
    reasons = tuple(reason for reason in Reason if counts[reason])
    return Faults(
        until=tuple(accumulate(counts[reason] / len(attempts) for reason in reasons)),
        reasons=reasons,
        after_ms=tuple(median(each.elapsed_ms for each in attempts if each.outcome == reason) for reason in reasons),
    )


def _price(lines: Iterable[Logged]) -> float:
    """Dollars per token, in and out alike."""
    dollars = tokens = 0.0
    for line in lines:
        dollars += line.cost
        tokens += (line.input_tokens or 0) + (line.output_tokens or 0)
    return dollars / tokens if tokens else 0.0
