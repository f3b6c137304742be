"""What a sequence tells: events for its client (drafts, stable prefixes, final blocks, scored prompts), and the
observation of its end."""

from collections.abc import Iterator
from collections.abc import Sequence as Ids

from diffusion_worker.engine.sequence import Sequence
from diffusion_worker.types.drafts import canvas_draft, verified_draft
from diffusion_worker.types.events import BlockSealed, CanvasDrafted, PrefixStable, PromptScored, TokenLogprobs
from diffusion_worker.types.observations import Outcome, SequenceObserved
from diffusion_worker.types.step_batch import CanvasResult, TokenResult, VerifyResult

Parts = list[tuple[TokenResult, ...]]  # of the tokens of a pass; each is emitted by itself


def unsealed(sequence: Sequence, canvas: CanvasResult, end_ids: Ids[int]) -> Iterator[PrefixStable | CanvasDrafted]:
    """Events of a canvas that is not sealed yet: its stable prefix, and its draft."""
    if sequence.request.stream_prefix and (ids := sequence.newly_stable(canvas, end_ids)):
        yield PrefixStable(ids=ids, block=sequence.block, usage=sequence.usage(canvas))
    yield from draft(sequence, canvas, end_ids)


def draft(sequence: Sequence, canvas: CanvasResult, end_ids: Ids[int]) -> Iterator[CanvasDrafted]:
    """The draft of a canvas after a step, if the request watches it."""
    if sequence.request.stream_drafts:
        shown, _ = sequence.visible(canvas.ids, end_ids)
        step, pinned = sequence.steps_done, len(sequence.streamed)
        yield canvas_draft(canvas, shown, block=sequence.block, step=step, pinned=pinned)


def chosen(
    sequence: Sequence, tokens: Ids[TokenResult], end_ids: Ids[int], *, rejected: int
) -> Iterator[CanvasDrafted]:
    """The tokens that a causal pass chose, if the request watches its canvas."""
    if sequence.request.stream_drafts:
        block, step = sequence.block - 1, sequence.forward_passes
        yield verified_draft(tokens, end_ids, block=block, step=step, rejected=rejected)


def parts(sequence: Sequence, result: VerifyResult) -> Parts:
    """The tokens of a verification that are emitted together: each by itself where a stop string may end the answer
    behind it, since its usage and confidence are then those up to there."""
    return [(token,) for token in result.tokens] if sequence.request.may_stop else [result.tokens]


def sealed(
    sequence: Sequence, ids: tuple[int, ...], canvas: CanvasResult | None, tokens: Ids[TokenResult]
) -> BlockSealed:
    """A final block, from a canvas or from the tokens of a causal pass."""
    labels, holes = ((), ()) if canvas is None else (canvas.labels, canvas.holes)
    asked = tokens if sequence.request.top_logprobs is not None else ()
    return BlockSealed(
        ids=ids,
        block=sequence.block,
        usage=sequence.usage(),
        labels=labels,
        holes=holes,
        logprobs=tuple(TokenLogprobs(id=each.id, logprob=each.logprob, top=each.top) for each in asked),
    )


def observed(sequence: Sequence, outcome: Outcome, now: float) -> SequenceObserved:
    """The observation to report when it ends."""
    return SequenceObserved(
        decoding_mode=sequence.request.decoding_mode,
        outcome=outcome,
        queue_s=sequence.times.queue_s,
        prefill_s=sequence.times.prefill_s,
        first_block_s=sequence.times.first_block_s,
        total_s=now - sequence.submitted,
        usage=sequence.usage(),
    )


def scored_prompt(sequence: Sequence) -> Iterator[PromptScored]:
    """The log-probabilities of the prompt, if they are requested."""
    if (top := sequence.request.prompt_logprobs) is not None:
        yield PromptScored(tokens=sequence.scored_prompt.token_logprobs(top))
