"""Records of a sequence's output: streamed events, token usage and the reason why it ended."""

from dataclasses import dataclass, replace
from enum import StrEnum

from diffusion_worker.constraints.inference.template import Probabilities
from diffusion_worker.errors import WorkerError
from diffusion_worker.types.confidence import NO_EVIDENCE, Evidence


class FinishReason(StrEnum):
    """Why a sequence finished. The OpenAI API reports `deadline` as `length`."""

    STOP = "stop"
    LENGTH = "length"
    DEADLINE = "deadline"


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Token counts, passes and confidence of a sequence so far. An emitted end token counts as a completion token.

    `confidence`: the probability that the answer is right, if the checkpoint has weights for it (see
    `types.confidence`); otherwise the geometric mean probability of the emitted tokens from raw logits (temperature 1),
    without the tokens that a constraint forced. None before the first.
    `converged`: whether every block so far stopped by stability; None unless it is diffused.
    """

    prompt_tokens: int
    completion_tokens: int
    denoising_steps: int  # canvas passes
    forward_passes: int  # of any kind; one that reads a prompt or a sealed canvas and denoises the next counts once
    confidence: float | None
    converged: bool | None
    cached_tokens: int = 0  # prompt tokens reused from the prefix cache
    evidence: Evidence = NO_EVIDENCE  # what the confidence is computed from
    load: float | None = None  # the highest that moved its thresholds, see `DenoisingParams.at_load`
    thresholds: tuple[tuple[str, float], ...] = ()  # those that moved, as loose as they were

    @property
    def tokens_per_forward(self) -> float:
        """Completion tokens per forward pass of any kind; 0 before the first."""
        return self.completion_tokens / self.forward_passes if self.forward_passes else 0.0


def together(spent: Usage, last: Usage) -> Usage:
    """Combined usage of several attempts at one completion: prompt counts of the first, confidence of the last, and the
    load of the attempt that had the highest."""
    loaded = max(spent, last, key=lambda each: each.load or 0.0)
    return replace(
        last,
        prompt_tokens=spent.prompt_tokens,
        cached_tokens=spent.cached_tokens,
        completion_tokens=spent.completion_tokens + last.completion_tokens,
        denoising_steps=spent.denoising_steps + last.denoising_steps,
        forward_passes=spent.forward_passes + last.forward_passes,
        load=loaded.load,
        thresholds=loaded.thresholds,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprobs:
    """A token's log-probability at temperature 1, before sampling rules and constraints, and the most likely tokens."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptScored:
    """The log-probabilities of the prompt's tokens after the first, which nothing predicts; before the first output.
    Only for requests with `prompt_logprobs`."""

    tokens: tuple[TokenLogprobs, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockSealed:
    """A block is final: a canvas, one token in autoregressive mode, or the tokens of one verification. `ids` are those
    not streamed before, without end and padding tokens; may be empty."""

    ids: tuple[int, ...]
    block: int
    usage: Usage  # up to this block, so that a stop string found in these ids can end the response
    labels: tuple[float, ...] = ()  # log-probabilities of the requested labels
    # Of `ids` and of an end token behind them, if requested; not of tokens that closed an answer in time.
    logprobs: tuple[TokenLogprobs, ...] = ()
    holes: Probabilities = ()  # of the holes of the request's template


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixStable:
    """Final ids of a block that is still being denoised. Only for requests with `stream_prefix`."""

    ids: tuple[int, ...]
    block: int
    usage: Usage


class PositionState(StrEnum):
    """What a step did with one position of a canvas."""

    ACCEPTED = "accepted"  # keeps its token for the next step
    RENOISED = "renoised"  # is replaced by noise
    FORCED = "forced"  # the constraint allows one token only
    PINNED = "pinned"  # final: a streamed prefix, or accepted by verification


@dataclass(frozen=True, slots=True, kw_only=True)
class CanvasDrafted:
    """The canvas after a step, up to its end token; not final. In verified mode, the tokens that one pass accepted, and
    how many of the draft it rejected. Only for requests with `stream_drafts`."""

    ids: tuple[int, ...]  # of the whole block, up to its end token
    block: int
    step: int  # counts up from 1; in verified mode, forward passes
    logprobs: tuple[float, ...] = ()
    states: tuple[PositionState, ...] = ()
    entropy: float | None = None  # mean over the positions that are not pinned, in nats
    rejected: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The sequence ended normally."""

    reason: FinishReason
    usage: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Faulted:
    """The sequence ended with an error; blocks sealed before it remain valid."""

    error: WorkerError
    usage: Usage


Ending = Finished | Faulted  # every submitted sequence ends in exactly one of them
Event = PromptScored | BlockSealed | PrefixStable | CanvasDrafted | Finished | Faulted
