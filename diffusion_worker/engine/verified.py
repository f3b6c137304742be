"""The work of verified sequences: the next draft, the pass that verifies it, and how the result advances the sequence.

Functions of `sequence.Sequence`, whose last chunk is the known part of the canvas, once a token is known.
"""

from collections import deque
from dataclasses import replace

from diffusion_worker.engine.sequence import Sequence
from diffusion_worker.types.step_batch import Verify, VerifyResult


def draftable(sequence: Sequence) -> int:
    """Tokens that the next pass may verify; the token after them is chosen, too. 0: it decodes one token."""
    if not sequence.has_known or len(sequence.pending) > 1:
        return 0
    free = sequence.request.denoising.canvas_length - len(sequence.pending[0])
    return max(0, min(free, sequence.request.max_tokens - sequence.emitted - 1))


def has_given_draft(sequence: Sequence) -> bool:
    """Whether the next draft is what is left of the start text."""
    return sequence.is_draft_given and bool(sequence.start)


def next_verification(sequence: Sequence) -> Verify:
    """The next draft and the pass that verifies it: what is left of the start text, as long as that is accepted, else
    the canvas after one more step."""
    assert sequence.slot is not None
    request, known, most = sequence.request, sequence.pending[0], draftable(sequence)
    given = sequence.start[:most] if has_given_draft(sequence) else ()
    draft = replace(
        sequence.next_denoise(),
        opens=not sequence.is_canvas_open,
        temperature=0.0,
        truncation=None,
        start_ids=(*known, *sequence.start) if sequence.start else (),
        pinned_prefix=known,
        pinned_suffix=(),
        matcher=sequence.canvas_matcher,
    )
    return Verify(
        sequence=sequence.id,
        slot=sequence.slot,
        ids=known,
        at=sequence.context,
        seed=request.seed,
        drafted=len(given) or most,
        closes_with=most + 1,
        draft=None if given else draft,
        given=given,
        width=request.denoising.canvas_length,
        temperature=request.temperature,
        truncation=request.truncation,
        penalties=sequence.penalty_counts.inputs,
        matcher=sequence.matcher,
        top_logprobs=request.top_logprobs or 0,
    )


def record_verification(sequence: Sequence, item: Verify, result: VerifyResult) -> tuple[int, ...]:
    """Record the tokens of a verification, which count as a block; returns the ids that it has cached."""
    sequence.forward_passes += 1
    if item.draft is not None:
        sequence.forward_passes += 1
        sequence.denoising_steps += 1
        sequence.steps_to_go = max(1, sequence.steps_to_go - 1)
        sequence.is_canvas_open = True
    sequence.take(result.tokens, begins_canvas=result.cached > 0)
    sequence.append(result.ids)
    known, cached = (*item.ids, *result.ids), result.cached
    sequence.context += cached
    sequence.prefill_chunks[-2:] = [known[:cached], known[cached:]] if cached else [known]  # as the passes are
    sequence.pending = deque([known[cached:]])
    sequence.block += 1
    sequence.is_draft_given = len(result.ids) > item.drafted
    sequence.start = sequence.rest_of_start()
    return known[:cached]


def reusable(sequence: Sequence) -> int:
    """Tokens of any sequence's context that may come from the prefix cache: those after them are part of its next
    pass."""
    if sequence.has_known:
        return sum(map(len, sequence.prefill_chunks[:-1]))
    return sum(map(len, sequence.prefill_chunks)) - sequence.is_autoregressive
