"""What a worker takes on at once, and whether an ask fits in at all.

Plain numbers, decided before any tensor exists; knows no sequence and no clock.
"""

from dataclasses import dataclass

from diffusion_worker.errors import OutOfRange, PromptTooLong
from diffusion_worker.types.generation import GenerationRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What may run and wait at once, and how much of it one iteration takes on."""

    max_num_seqs: int  # running together
    max_waiting: int  # beyond them, before asks are refused
    max_context: int  # tokens, prompt and answer together
    prefill_chunk: int = 512  # prompt tokens that one sequence may add in an iteration
    max_step_tokens: int | None = None  # positions of all passes of an iteration together; None: no limit
    is_exact: bool = False  # nothing that a sequence is put through may depend on the others

    def check(self, ask: GenerationRequest, vocab_size: int) -> None:
        """Raises PromptTooLong or OutOfRange, naming the field."""
        wanted = len(ask.prompt_ids) + ask.max_tokens
        if wanted > self.max_context:
            raise PromptTooLong(
                f"{len(ask.prompt_ids)} prompt tokens and max_tokens {ask.max_tokens} make {wanted}, "
                f"the context holds {self.max_context}",
                param="messages",
            )
        for name, ids in (("messages", ask.prompt_ids), ("prediction", ask.start_ids), ("suffix", ask.suffix_ids)):
            if ids and not (min(ids) >= 0 and max(ids) < vocab_size):
                raise OutOfRange(f"a token id lies outside the vocabulary of {vocab_size}", param=name)
