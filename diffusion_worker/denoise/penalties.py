"""Penalties and logit bias: changes of the logits of single tokens, in rows that ask for them.

Pure functions of tensors. The formulas and their order are those of vLLM (`vllm/v1/sample`): bias, repetition,
frequency, presence. At every position of a canvas they count what a left-to-right decoder would have seen there: the
prompt, the output of earlier canvases, and the tokens accepted so far at earlier positions of the canvas. A position
never counts itself, nor later ones: two positions that count each other would exchange their tokens for ever.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from diffusion_worker.constraints.inference.template import FREE
from diffusion_worker.denoise.canvas import Canvas
from diffusion_worker.models.host_to_device import upload
from diffusion_worker.types.requests import Penalties
from diffusion_worker.types.step_batch import Decode, Denoise, PenaltyInputs
from diffusion_worker.weak_cache import once_per_object

# (capped logits [positions, vocab], which positions) -> logits after penalties
Adjust = Callable[[torch.Tensor, slice], torch.Tensor]


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


def adjustments(items: Sequence[Denoise], text: CanvasText, vocab: int) -> dict[int, Adjust]:
    """By row with penalties, the function that applies them to a block of positions."""
    return {
        row: _of_row(row, item.penalties, text, vocab) for row, item in enumerate(items) if item.penalties is not None
    }


def penalised(items: Sequence[Decode], logits: torch.Tensor) -> torch.Tensor:
    """Logits [rows, vocab] of next tokens after penalties."""
    if all(item.penalties is None for item in items):
        return logits
    adjusted = logits.clone()
    for row, item in enumerate(items):
        if item.penalties is not None:
            tokens, known = _known(item.penalties, logits.shape[-1], logits.device)
            changed = _apply(item.penalties.penalties, logits[row, tokens], *known[:, tokens])
            adjusted[row].index_copy_(0, tokens, changed.to(adjusted.dtype))
    return adjusted


def _of_row(row: int, inputs: PenaltyInputs, text: CanvasText, vocab: int) -> Adjust:
    _, (bias, in_prompt, output) = _known(inputs, vocab, text.ids.device)
    ids, counts = text.ids[row], text.counted(row).float()

    def adjust(logits: torch.Tensor, positions: slice) -> torch.Tensor:
        before = output.index_add(0, ids[: positions.start], counts[: positions.start])
        own = torch.zeros_like(logits).scatter_(1, ids[positions, None], counts[positions, None])
        count = own.cumsum(0).sub_(own).add_(before)  # occurrences before each position
        del own
        return _apply(inputs.penalties, logits, bias, in_prompt, count)

    return adjust


def _known(inputs: PenaltyInputs, vocab: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """([tokens] ids, some repeatedly; [3, vocab] bias, whether in the prompt, occurrences in the output) of the tokens
    that the host knows to be affected."""
    bias, prompt = inputs.penalties.logit_bias, np.asarray(inputs.prompt)
    numbers = _numbers(inputs)
    tokens = upload(torch.from_numpy(np.concatenate([numbers[:, 0].astype(np.int64), prompt])), device)
    values = upload(torch.from_numpy(numbers[:, 1].astype(np.float32)), device)
    known = torch.zeros(3, vocab, device=device)
    biased, listed = len(bias), len(numbers)
    known[0].index_copy_(0, tokens[:biased], values[:biased])
    known[1].index_fill_(0, tokens[listed:], 1.0)
    known[2].index_copy_(0, tokens[biased:listed], values[biased:])
    return tokens, known


@once_per_object
def _numbers(inputs: PenaltyInputs) -> NDArray[np.float64]:
    """(token, number) pairs of the bias, then of the output, for all steps of a canvas."""
    return np.array([*inputs.penalties.logit_bias, *inputs.output], dtype=np.float64).reshape(-1, 2)


def _apply(
    penalties: Penalties, logits: torch.Tensor, bias: torch.Tensor, in_prompt: torch.Tensor, count: torch.Tensor
) -> torch.Tensor:
    """Logits [..., tokens] after the penalties; `count` are occurrences in the output."""
    logits = logits + bias
    if penalties.repetition != 1.0:
        scaled, is_positive = logits * penalties.repetition, logits > 0
        torch.where(is_positive, logits / penalties.repetition, scaled, out=scaled)
        logits = torch.where((in_prompt > 0) | (count > 0), scaled, logits, out=scaled)
    return logits - penalties.frequency * count - penalties.presence * (count > 0)
