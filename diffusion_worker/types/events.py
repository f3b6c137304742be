"""Records of a sequence's output: streamed events, token usage and the reason why it ended."""

from dataclasses import dataclass, replace
from enum import StrEnum

from diffusion_worker.errors import WorkerError


class FinishReason(StrEnum):
    """Why an answer is complete. On OpenAI's wire `deadline` is spelled `length`."""

    STOP = "stop"
    LENGTH = "length"
    DEADLINE = "deadline"


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a sequence has cost and how sure it is, so far. An emitted end token counts as a completion token.

    `confidence`: geometric mean probability of the emitted tokens from raw logits (temperature 1), over those that no
    constraint has forced; None before any.
    `converged`: whether every block so far stopped by stability; None for the autoregressive reading.
    """

    prompt_tokens: int
    completion_tokens: int
    denoising_steps: int  # canvas passes
    forward_passes: int  # all passes: context, canvas, seal
    confidence: float | None
    converged: bool | None
    cached_tokens: int = 0  # of the prompt, that another context had computed before

    @property
    def tokens_per_forward(self) -> float:
        """Completion tokens per forward pass of any kind; 0 before the first."""
        return self.completion_tokens / self.forward_passes if self.forward_passes else 0.0


def together(spent: Usage, last: Usage) -> Usage:
    """What attempts at one answer have cost together. The prompt is the first one's, the marks are the last one's."""
    return replace(
        last,
        prompt_tokens=spent.prompt_tokens,
        cached_tokens=spent.cached_tokens,
        completion_tokens=spent.completion_tokens + last.completion_tokens,
        denoising_steps=spent.denoising_steps + last.denoising_steps,
        forward_passes=spent.forward_passes + last.forward_passes,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockSealed:
    """One more block is final (of one token, when read left to right): its ids behind those that were told before,
    without end and pad tokens; may be empty."""

    ids: tuple[int, ...]
    block: int
    usage: Usage  # true at this point, so that a stop string found in these ids can be answered at once
    labels: tuple[float, ...] = ()  # log-probabilities of the labels that were asked for


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixStable:
    """More ids of a block that is still being denoised; they are final. Only for asks with `stream_prefix`."""

    ids: tuple[int, ...]
    block: int
    usage: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class CanvasDrafted:
    """What a canvas looks like after a step, up to its end token; nothing of it is final. Only for `stream_drafts`."""

    ids: tuple[int, ...]  # of the whole block
    block: int
    step: int  # counts up from 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The sequence is answered."""

    reason: FinishReason
    usage: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Faulted:
    """The sequence ended without an answer (or with part of one, if blocks were sealed before)."""

    error: WorkerError
    usage: Usage


Ending = Finished | Faulted  # every submitted sequence ends in exactly one of them
Event = BlockSealed | PrefixStable | CanvasDrafted | Finished | Faulted
