"""Penalties and logit bias: changes of the logits of single tokens, in rows that ask for them.

Pure functions of tensors. The formulas and their order are those of vLLM (`vllm/v1/sample`): bias, repetition,
frequency, presence. At every position of a canvas they count what a left-to-right decoder would have seen there: the
prompt, the output of earlier canvases, and the tokens accepted so far at earlier positions of the canvas. A position
never counts itself, nor later ones: two positions that count each other would exchange their tokens for ever.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from diffusion_worker.constraints.inference.template import FREE
from diffusion_worker.denoise.canvas import Canvas
from diffusion_worker.models.host_to_device import upload
from diffusion_worker.types.requests import Penalties
from diffusion_worker.types.step_batch import Decode, Denoise


@dataclass(frozen=True, slots=True, kw_only=True)
class Adjustment:
    """New logits of one row, in the columns of `tokens`. Repeated tokens have equal columns."""

    row: int
    tokens: torch.Tensor  # [tokens] ids
    logits: torch.Tensor  # [canvas, tokens]


@dataclass(frozen=True, slots=True, kw_only=True)
class CanvasText:
    """The tokens on the canvases of a batch that count as text."""

    ids: torch.Tensor  # [rows, canvas] as shown to the model
    canvases: Sequence[Canvas]
    pins: torch.Tensor | None  # see `denoise.pins`
    uncounted: tuple[int, ...]  # tokens that end or pad a text

    def counted(self, row: int) -> torch.Tensor:
        """Positions [canvas] of a row whose token is text: accepted or pinned."""
        is_text = self.canvases[row].accepted
        if self.pins is not None:
            is_text = is_text | (self.pins[row] != FREE)
        uncounted = upload(list(self.uncounted), self.ids.device)
        return is_text & (self.ids[row][:, None] != uncounted).all(-1)


def adjustments(items: Sequence[Denoise], text: CanvasText, logits: torch.Tensor) -> list[Adjustment]:
    """The adjustments of logits [rows, canvas, vocab], one for each row with penalties."""
    return [_adjustment(row, item, text, logits[row]) for row, item in enumerate(items) if item.penalties is not None]


def penalised(items: Sequence[Decode], logits: torch.Tensor) -> torch.Tensor:
    """Logits [rows, vocab] of next tokens after penalties."""
    if all(item.penalties is None for item in items):
        return logits
    adjusted = logits.clone()
    for row, item in enumerate(items):
        if item.penalties is not None:
            tokens, known = _known(item, logits.device)
            changed = _apply(item.penalties.penalties, logits[row, tokens], *known)
            adjusted[row].index_copy_(0, tokens, changed.to(adjusted.dtype))
    return adjusted


def _adjustment(row: int, item: Denoise, text: CanvasText, logits: torch.Tensor) -> Adjustment:
    assert item.penalties is not None
    known_tokens, known = _known(item, logits.device)
    dense = torch.zeros(3, logits.shape[-1], device=logits.device).index_copy_(1, known_tokens, known)
    ids = text.ids[row]
    tokens = torch.cat([known_tokens, ids])
    equal = ((ids[:, None] == tokens) & text.counted(row)[:, None]).float()  # [canvas, tokens]
    before = equal.cumsum(0) - equal  # occurrences at earlier positions
    bias, in_prompt, count = dense[:, tokens]
    return Adjustment(
        row=row,
        tokens=tokens,
        logits=_apply(item.penalties.penalties, logits[:, tokens], bias, in_prompt, count + before),
    )


def _known(item: Denoise | Decode, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """([tokens] ids, [3, tokens] bias, whether in the prompt, occurrences in the output) of the tokens that the host
    knows to be affected. This happens at every step, so the prompt, which may be long, is not sorted again."""
    assert item.penalties is not None
    bias, output, prompt = item.penalties.penalties.logit_bias, item.penalties.output, np.asarray(item.penalties.prompt)
    others = np.array(sorted({token for token, _ in (*bias, *output)}), dtype=np.int64)
    others = others[~_is_in(prompt, others)]
    tokens = np.concatenate([prompt, others])
    numbers = np.zeros((3, len(tokens)), dtype=np.float32)
    numbers[1, : len(prompt)] = 1.0
    for row, pairs in ((0, bias), (2, output)):
        if pairs:
            listed = np.array([token for token, _ in pairs], dtype=np.int64)
            places = np.where(
                _is_in(prompt, listed), prompt.searchsorted(listed), len(prompt) + others.searchsorted(listed)
            )
            numbers[row, places] = [number for _, number in pairs]
    return upload(torch.from_numpy(tokens), device), upload(torch.from_numpy(numbers), device)


def _is_in(ascending: NDArray[np.int64], tokens: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of the tokens are among the ascending ones."""
    found: NDArray[np.bool_] = ascending.searchsorted(tokens, "right") > ascending.searchsorted(tokens, "left")
    return found


def _apply(
    penalties: Penalties, logits: torch.Tensor, bias: torch.Tensor, in_prompt: torch.Tensor, count: torch.Tensor
) -> torch.Tensor:
    """Logits [..., tokens] after the penalties; `count` are occurrences in the output."""
    logits = logits + bias
    if penalties.repetition != 1.0:
        scaled = torch.where(logits > 0, logits / penalties.repetition, logits * penalties.repetition)
        logits = torch.where((in_prompt > 0) | (count > 0), scaled, logits)
    return logits - penalties.frequency * count - penalties.presence * (count > 0)
