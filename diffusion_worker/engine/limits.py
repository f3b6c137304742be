"""The limits of a scheduler, and the check of requests against them."""

from dataclasses import dataclass

from diffusion_worker.errors import OutOfRange, PromptTooLong
from diffusion_worker.memory.step_memory import PADDED_POSITIONS
from diffusion_worker.types.requests import GenerationRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How many requests may run and wait, and how much work one iteration may contain."""

    max_num_seqs: int  # running
    max_waiting: int  # queued; further requests are rejected
    max_context: int  # tokens, prompt and completion together
    max_prefill_tokens: int = 2048  # prompt tokens of an iteration
    max_step_tokens: int | None = None  # positions of all passes of an iteration; None: unlimited
    is_exact: bool = False  # no pass of a sequence may depend on other sequences
    is_mixed: bool = False  # prefills and canvases share a pass, see `models.mixed_pass`

    @property
    def prefill_chunk(self) -> int:
        """Prompt tokens per sequence and iteration: a pass of padded rows has a mask over all of them."""
        return self.max_prefill_tokens if self.is_mixed else min(PADDED_POSITIONS, self.max_prefill_tokens)

    def check(self, request: GenerationRequest, vocab_size: int) -> None:
        """Raises PromptTooLong if prompt and `max_tokens` exceed the context, or OutOfRange for ids outside the
        vocabulary."""
        needed = len(request.prompt_ids) + request.max_tokens
        if needed > self.max_context:
            raise PromptTooLong(
                f"{len(request.prompt_ids)} prompt tokens and max_tokens {request.max_tokens} need {needed} tokens, "
                f"but the context length is {self.max_context}",
                param="messages",
            )
        for name, ids in (
            ("messages", request.prompt_ids),
            ("prediction", request.start_ids),
            ("suffix", request.suffix_ids),
        ):
            if ids and not (min(ids) >= 0 and max(ids) < vocab_size):
                raise OutOfRange(f"token id outside the vocabulary (size {vocab_size})", param=name)
