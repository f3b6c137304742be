"""A submitted ask and how far it has come; what it wants from the next step, and what it makes of the result.

One sequence by itself: knows no queue, no neighbours, no tensors and no clock.
"""

import math
from collections.abc import Sequence as Ids
from dataclasses import dataclass

from diffusion_worker.records import Ask, BlockStop, Reading, SequenceId, Usage
from diffusion_worker.work import Append, CanvasResult, Denoise, Read, TokenResult


@dataclass(slots=True, kw_only=True, eq=False)
class Sequence:
    """State between two steps. `pending` are ids that are known but not yet in the context: the prompt, a sealed
    canvas, or the token read last."""

    id: SequenceId
    ask: Ask
    submitted: float
    pending: tuple[int, ...]
    steps_to_go: int  # on the present canvas
    context: int = 0
    block: int = 0
    emitted: int = 0
    logprob: float = 0.0  # sum over the emitted tokens
    denoising_steps: int = 0
    forward_passes: int = 0
    converged: bool = True
    first_block_at: float | None = None

    @property
    def is_read(self) -> bool:
        """Whether it is read left to right instead of denoised."""
        return self.ask.reading is Reading.AUTOREGRESSIVE

    @property
    def is_full(self) -> bool:
        """Whether it has emitted all the tokens it asked for."""
        return self.emitted == self.ask.max_tokens

    def is_due(self, now: float) -> bool:
        """Whether its deadline has passed."""
        return self.ask.deadline_s is not None and now >= self.submitted + self.ask.deadline_s

    def usage(self) -> Usage:
        """What it has cost so far."""
        return Usage(
            prompt_tokens=len(self.ask.prompt_ids),
            completion_tokens=self.emitted,
            denoising_steps=self.denoising_steps,
            forward_passes=self.forward_passes,
            confidence=math.exp(self.logprob / self.emitted) if self.emitted else None,
            converged=None if self.is_read else self.converged,
        )

    def passes_at_most(self) -> int:
        """Iterations it needs if it neither stops early nor ends before `max_tokens`."""
        if self.is_read:
            return self.ask.max_tokens
        return math.ceil(self.ask.max_tokens / self.ask.recipe.canvas_length) * self.ask.recipe.steps

    def append(self) -> Append | None:
        """The causal pass it needs before its next canvas step."""
        if not self.pending:
            return None
        return Append(sequence=self.id, ids=self.pending, at=self.context)

    def denoise(self) -> Denoise:
        """Its next canvas step."""
        return Denoise(
            sequence=self.id,
            block=self.block,
            step=self.steps_to_go,
            recipe=self.ask.recipe,
            seed=self.ask.seed,
            temperature=self.ask.temperature,
            start_ids=self.ask.start_ids if self.block == 0 else (),
        )

    def read(self) -> Read:
        """Its next token."""
        return Read(
            sequence=self.id,
            ids=self.pending,
            at=self.context,
            seed=self.ask.seed,
            temperature=self.ask.temperature,
        )

    def appended(self) -> None:
        """What was pending is in the context."""
        self.context += len(self.pending)
        self.forward_passes += 1
        self.pending = ()

    def stepped(self, canvas: CanvasResult, *, is_late: bool) -> BlockStop | None:
        """Take in one step; returns why the canvas is done, or None if it needs another."""
        self.denoising_steps += 1
        self.forward_passes += 1
        self.steps_to_go -= 1
        if canvas.is_settled:
            return BlockStop.STABLE
        self.converged = self.converged and self.steps_to_go > 0 and not is_late
        if self.steps_to_go == 0:
            return BlockStop.STEPS
        return BlockStop.DEADLINE if is_late else None

    def seal(self, canvas: CanvasResult, end_ids: tuple[int, ...]) -> tuple[tuple[int, ...], bool]:
        """Emit the canvas up to its first end token or to `max_tokens`. Returns the ids before the end token, and
        whether there was one."""
        count, has_end = _emitted(canvas.ids, end_ids, self.ask.max_tokens - self.emitted)
        self.emitted += count
        self.logprob += math.fsum(canvas.logprobs[:count])
        return canvas.ids[: count - has_end], has_end

    def open_block(self, sealed: tuple[int, ...]) -> None:
        """Go on behind the sealed canvas with a fresh one."""
        self.pending = sealed
        self.block += 1
        self.steps_to_go = self.ask.recipe.steps

    def took(self, token: TokenResult) -> None:
        """Take in one token read left to right; it counts as a block of its own."""
        self.appended()
        self.emitted += 1
        self.logprob += token.logprob
        self.pending = (token.id,)
        self.block = self.emitted - 1


def _emitted(ids: Ids[int], end_ids: Ids[int], room: int) -> tuple[int, bool]:
    """How many of the ids are emitted (through the first end token, at most `room`) and whether the last is an end."""
    for index, token in enumerate(ids[:room]):
        if token in end_ids:
            return index + 1, True
    return min(len(ids), room), False
