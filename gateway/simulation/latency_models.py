"""Models of targets: latency, price and failure rate, fitted to a decision log or assumed.

Latency is linear in the tokens (base + a x input + b x output) times a ratio sampled from the observed distribution.
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
from gateway.simulation.traffic import LoggedAttempt, LoggedRequest

POINTS: Final = 501  # points kept of a distribution
SPREAD: Final = 0.25  # standard deviation of the log of an assumed latency: p95 is 1.5 times the median
_ANSWERED: Final = frozenset(
    {AttemptOutcome.OK, AttemptOutcome.INCOMPLETE, Reason.INVALID_OUTPUT, Reason.LOW_CONFIDENCE}
)
# Abandoned: the elapsed time is a lower bound, as in the guard's window.
_ABANDONED: Final = frozenset({Reason.DEADLINE, Reason.HEDGE})
# Failures of the target; the gateway's own reasons are reproduced by the simulation itself.
_FAULTS: Final = frozenset(
    {
        Reason.UPSTREAM_ERROR, Reason.UPSTREAM_AUTH, Reason.OVERLOADED, Reason.NOT_RESIDENT, Reason.REFUSED,
        Reason.INVALID_OUTPUT, Reason.LOW_CONFIDENCE,
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearLatency:
    """Milliseconds as a linear function of tokens; the last two fields are per token."""

    base_ms: float
    per_input_ms: float = 0.0
    per_output_ms: float = 0.0

    def at(self, input_tokens: int, output_tokens: int) -> float:
        """The typical latency in ms of a request of this size."""
        return self.base_ms + self.per_input_ms * input_tokens + self.per_output_ms * output_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """Failure rates of a target: `until` are cumulative shares, `after_ms` the median time to each failure."""

    until: tuple[float, ...] = ()
    reasons: tuple[Reason, ...] = ()
    after_ms: tuple[float, ...] = ()

    def sample_fault(self, sample: float) -> tuple[Reason | None, float]:
        """The failure for a number in [0, 1), and its time in ms; None: a successful response."""
        position = bisect_right(self.until, sample)
        return (self.reasons[position], self.after_ms[position]) if position < len(self.reasons) else (None, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetModel:
    """One target. `ratios` are evenly spaced quantiles of actual over typical latency, shared by first byte and
    whole response.

    `faults` by whether the request has a schema.
    """

    whole: LinearLatency
    first: LinearLatency
    ratios: tuple[float, ...]
    faults: Mapping[bool, Faults] = field(default_factory=dict)
    dollars_per_token: float = 0.0
    seen: int = 0  # number of calls it was fitted to; 0: assumed

    def latency_ms(self, input_tokens: int, output_tokens: int, sample: float) -> tuple[float, float]:
        """Time to first byte and to the whole response, in ms, for a number in [0, 1)."""
        position = sample * (len(self.ratios) - 1)
        low = int(position)
        high = min(low + 1, len(self.ratios) - 1)
        ratio = self.ratios[low] + (position - low) * (self.ratios[high] - self.ratios[low])
        whole_ms = ratio * self.whole.at(input_tokens, output_tokens)
        return min(ratio * self.first.at(input_tokens, output_tokens), whole_ms), whole_ms


def assumed(base_ms: float, per_output_ms: float = 0.0, *, dollars_per_token: float = 0.0) -> TargetModel:
    """A log-normal model with median `base_ms`, plus `per_output_ms` for each output token."""
    normal = NormalDist(0.0, SPREAD)
    ratios = tuple(exp(normal.inv_cdf((number + 0.5) / POINTS)) for number in range(POINTS))
    whole = LinearLatency(base_ms=base_ms, per_output_ms=per_output_ms)
    return TargetModel(
        whole=whole, first=LinearLatency(base_ms=base_ms), ratios=ratios, dollars_per_token=dollars_per_token
    )


def fit(log: Iterable[LoggedRequest]) -> dict[str, TargetModel]:
    """A model of every target that responded at least once in the log."""
    calls: defaultdict[str, list[tuple[LoggedRequest, LoggedAttempt]]] = defaultdict(list)
    for line in log:
        for attempt in line.attempts:
            if attempt.was_called:
                calls[attempt.target].append((line, attempt))
    fitted = ((target, _model(target, rows)) for target, rows in calls.items())
    return {target: model for target, model in fitted if model is not None}


def _model(target: str, calls: Sequence[tuple[LoggedRequest, LoggedAttempt]]) -> TargetModel | None:
    timed = [(line, attempt) for line, attempt in calls if attempt.outcome in _ANSWERED | _ABANDONED]
    if not any(attempt.outcome in _ANSWERED for _, attempt in timed):
        return None
    sizes = np.array([(line.input_tokens or 0, line.output_tokens or 0) for line, _ in timed], float)
    whole_ms = np.array([attempt.elapsed_ms for _, attempt in timed])
    whole = _fit_linear(sizes, whole_ms)
    with_first_byte = [number for number, (_, attempt) in enumerate(timed) if attempt.first_byte_ms is not None]
    first_ms = np.array([(timed[n][1].first_byte_ms or 0.0) - timed[n][1].started_ms for n in with_first_byte])
    usual_ms = whole.base_ms + sizes @ (whole.per_input_ms, whole.per_output_ms)
    return TargetModel(
        whole=whole,
        first=_fit_linear(sizes[with_first_byte] * (1, 0), np.maximum(first_ms, 1e-3)) if with_first_byte else whole,
        ratios=tuple(map(float, np.quantile(whole_ms / usual_ms, np.linspace(0, 1, POINTS)))),
        faults={has_schema: _faults(calls, has_schema=has_schema) for has_schema in (False, True)},
        dollars_per_token=_price(line for line, _ in timed if line.target == target and len(line.attempts) == 1),
        seen=len(calls),
    )


def _fit_linear(sizes: NDArray[np.float64], taken_ms: NDArray[np.float64]) -> LinearLatency:
    """Non-negative least squares of the relative error: the best non-negative solution over subsets of the terms.

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
    return LinearLatency(base_ms=max(float(best[0]), 1e-3), per_input_ms=float(best[1]), per_output_ms=float(best[2]))


def _faults(calls: Iterable[tuple[LoggedRequest, LoggedAttempt]], *, has_schema: bool) -> Faults:
    attempts = [attempt for line, attempt in calls if (line.schema is not None) is has_schema]
    counts = Counter(attempt.outcome for attempt in attempts if attempt.outcome in _FAULTS)
    reasons = tuple(reason for reason in Reason if counts[reason])
    return Faults(
        until=tuple(accumulate(counts[reason] / len(attempts) for reason in reasons)),
        reasons=reasons,
        after_ms=tuple(median(each.elapsed_ms for each in attempts if each.outcome == reason) for reason in reasons),
    )


def _price(lines: Iterable[LoggedRequest]) -> float:
    """Dollars per token, equal for input and output."""
    dollars = tokens = 0.0
    for line in lines:
        dollars += line.cost
        tokens += (line.input_tokens or 0) + (line.output_tokens or 0)
    return dollars / tokens if tokens else 0.0
