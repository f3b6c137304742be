"""What the passes of a sequence say about its answer, and the confidence computed from it (see `types.confidence`)."""

import math
from collections.abc import Sequence as Ids
from dataclasses import dataclass

from diffusion_worker.types.confidence import ConfidenceWeights, Evidence, surprise, weakest_of


@dataclass(slots=True, kw_only=True)
class AnswerEvidence:
    """Measurements of an answer so far. Log-probabilities of unsealed tokens are arguments: they may still change."""

    weights: ConfidenceWeights | None  # None: the mean probability of the tokens
    logprob: float = 0.0  # sum over the emitted tokens that no constraint forced
    scored: int = 0  # number of those tokens
    weakest: tuple[float, ...] = ()  # lowest log-probabilities among those tokens
    prompt_surprise: float = 0.0
    entropy: float = 0.0  # highest mean entropy of a sealed canvas
    steps: int = 0  # most steps of one

    def add_tokens(self, logprobs: Ids[float]) -> None:
        """Take in emitted, unforced tokens."""
        self.scored += len(logprobs)
        self.logprob += math.fsum(logprobs)
        self.weakest = weakest_of(self.weakest, logprobs)

    def add_prompt(self, prompt_surprise: float) -> None:
        """Take in the surprise of the prompt."""
        self.prompt_surprise = max(self.prompt_surprise, prompt_surprise)

    def add_canvas(self, entropy: float, steps: int) -> None:
        """Take in a sealed canvas."""
        self.entropy, self.steps = max(self.entropy, entropy), max(self.steps, steps)

    def measured(self, logprobs: Ids[float], *, steps: float, converged: bool) -> Evidence:
        """The measurements, with unsealed tokens and the highest share of a canvas's steps so far."""
        return Evidence(
            prompt_surprise=self.prompt_surprise,
            token_surprise=surprise(weakest_of(self.weakest, logprobs)),
            entropy=self.entropy,
            steps=steps,
            unconverged=float(not converged),
        )

    def confidence(self, evidence: Evidence, logprobs: Ids[float], *, has_begun: bool) -> float | None:
        """Confidence so far, with these unsealed tokens; None before the first step."""
        if self.weights is not None:
            return self.weights.confidence(evidence) if has_begun else None
        count = self.scored + len(logprobs)
        return math.exp((self.logprob + math.fsum(logprobs)) / count) if count else None

    def is_below(self, minimum: float | None, evidence: Evidence) -> bool:
        """Whether the confidence cannot reach this minimum: with weights, it can only fall."""
        return minimum is not None and self.weights is not None and self.weights.confidence(evidence) < minimum
