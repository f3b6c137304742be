"""Drafts for clients that watch a canvas: what a step or a verification did with each position."""

import math
from collections.abc import Sequence
from typing import Any

from diffusion_worker.types.events import CanvasDrafted, PositionState
from diffusion_worker.types.step_batch import CanvasResult, TokenResult, VerifyResult


def canvas_draft(canvas: CanvasResult, shown: tuple[int, ...], *, block: int, step: int, pinned: int) -> CanvasDrafted:
    """A canvas after a step: its `shown` ids, of which the first `pinned` are final."""
    count = len(shown)
    return CanvasDrafted(
        ids=shown,
        block=block,
        step=step,
        logprobs=canvas.logprobs[:count],
        states=tuple(_state(canvas, place, pinned) for place in range(count)),
        entropy=canvas.mean_entropy,
    )


def verified_draft(
    tokens: Sequence[TokenResult], end_ids: Sequence[int], *, block: int, step: int, rejected: int = 0
) -> CanvasDrafted:
    """The tokens that a causal pass chose, without an end token; it has `rejected` so many tokens of a draft."""
    shown = [token for token in tokens if token.id not in end_ids]
    return CanvasDrafted(
        ids=tuple(token.id for token in shown),
        block=block,
        step=step,
        logprobs=tuple(token.logprob for token in shown),
        states=tuple(PositionState.FORCED if token.is_forced else PositionState.PINNED for token in shown),
        rejected=rejected,
    )


def rejected_by(result: VerifyResult, drafted: int, end_ids: Sequence[int]) -> int:
    """Tokens of a draft that a verification rejected; what follows an end token was not."""
    return 0 if result.ids[-1] in end_ids else drafted - result.accepted


def draft_body(drafted: CanvasDrafted, text: str, tokens: Sequence[str]) -> dict[str, Any]:
    """The JSON object of a draft event; `tokens` are the texts of the positions."""
    positions = [
        {"token": token, "confidence": round(math.exp(min(0.0, logprob)), 4), "state": state}
        for token, logprob, state in zip(tokens, drafted.logprobs, drafted.states, strict=True)
    ]
    entropy = None if drafted.entropy is None else round(drafted.entropy, 4)
    return {
        "draft": text,
        "block": drafted.block,
        "step": drafted.step,
        "entropy": entropy,
        "positions": positions,
        "rejected": drafted.rejected,
    }


def _state(canvas: CanvasResult, place: int, pinned: int) -> PositionState:
    if place < pinned:
        return PositionState.PINNED
    if any(canvas.forced[place : place + 1]):
        return PositionState.FORCED
    return PositionState.ACCEPTED if all(canvas.kept[place : place + 1]) else PositionState.RENOISED
