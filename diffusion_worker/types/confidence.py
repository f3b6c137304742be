"""The confidence of an answer: a logistic model over a few measurements of one sequence, with the checkpoint's weights.

Every measurement is 0 at best and can only grow as the answer goes on, and no weight is positive. The confidence so far
is therefore an upper bound of the final one, so that a hopeless answer can end early.
"""

import heapq
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields

WEAKEST = 8  # least likely tokens that are averaged


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Measurements of an answer so far. Surprises are negative log-probabilities in nats, at temperature 1."""

    prompt_surprise: float = 0.0  # mean of the WEAKEST least likely tokens of the prompt, read causally
    token_surprise: float = 0.0  # of the answer's tokens that no constraint forced; missing ones count as certain
    entropy: float = 0.0  # nats: highest mean entropy with which one of its canvases ended
    steps: float = 0.0  # highest share of the steps of a canvas that was used
    unconverged: float = 0.0  # 1: a canvas ended before it converged


NO_EVIDENCE = Evidence()
MEASUREMENTS = tuple(each.name for each in fields(Evidence))


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfidenceWeights:
    """Weights of one decoding mode. Raises ValueError for an unknown measurement or a positive weight."""

    intercept: float
    weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, weight in self.weights.items():
            if name not in MEASUREMENTS:
                raise ValueError(f"unknown measurement {name!r} (choose from {', '.join(MEASUREMENTS)})")
            if not -math.inf < weight <= 0.0:
                raise ValueError(f"the weight of {name!r} must not be positive, and is {weight!r}")
        if not math.isfinite(self.intercept):
            raise ValueError(f"the intercept must be finite, and is {self.intercept!r}")

    @property
    def reads_prompts(self) -> bool:
        """Whether it needs the likelihood of the prompt, which costs one row of logits per prompt token."""
        return self.weights.get("prompt_surprise", 0.0) != 0.0

    def confidence(self, evidence: Evidence) -> float:
        """The probability, from 0 to 1, that the answer is right."""
        score = self.intercept + sum(weight * getattr(evidence, name) for name, weight in self.weights.items())
        return 1.0 / (1.0 + math.exp(-score)) if score >= 0.0 else math.exp(score) / (1.0 + math.exp(score))


def weakest_of(known: Iterable[float], logprobs: Iterable[float]) -> tuple[float, ...]:
    """The WEAKEST lowest log-probabilities of both."""
    return tuple(heapq.nsmallest(WEAKEST, (*known, *logprobs)))


def surprise(weakest: Iterable[float]) -> float:
    """The mean surprise of the WEAKEST least likely tokens; of an empty text 0. Missing tokens count as certain: the
    shipped weights were fitted to this measurement, and it can only grow with the answer."""
    return -math.fsum(weakest) / WEAKEST
