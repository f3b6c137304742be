"""Baseline: an independent token mask per position, which allows the tokens that *some* text has there.
`constraints_answers` compares it with the constraint engine.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.worker_requests import SeparatePasses
from diffusion_worker.constraints.inference.matcher import classes_of
from diffusion_worker.constraints.tokens.token_automaton import TokenAutomaton
from diffusion_worker.models.interface import CanvasContext, DiffusionModel

_NEVER = -1e4  # finite, because a step treats infinite logits as a model fault


def naive_masks(automaton: TokenAutomaton, canvas: int) -> NDArray[np.bool_]:
    """[canvas, vocab] the tokens that occur at each position of the first canvas in some text."""
    token_sets, states = automaton.token_sets, {automaton.start}
    masks = np.zeros((canvas, len(token_sets.order)), np.bool_)
    for mask in masks:
        edges = [
            edge
            for state in states - {automaton.done}
            for edge in range(automaton.first_edge[state], automaton.first_edge[state + 1])
        ]
        allowed = np.zeros(token_sets.classes, np.bool_)
        for label in {int(automaton.label[edge]) for edge in edges}:
            allowed[classes_of(token_sets, label)] = True
        mask[:] = allowed[token_sets.class_of]
        mask[automaton.padding_id] |= automaton.done in states
        states = {int(automaton.target[edge]) for edge in edges} | (states & {automaton.done})
    return masks


class MaskedModel(SeparatePasses):
    """Masks each position of a canvas independently. Correct only for answers of one canvas."""

    def __init__(self, model: DiffusionModel, automaton: TokenAutomaton) -> None:
        super().__init__(model)
        self._masks = torch.from_numpy(naive_masks(automaton, model.info.denoising.canvas_length))

    def denoise(self, canvas: torch.Tensor, soft: torch.Tensor, context: CanvasContext) -> torch.Tensor:
        """Run one pass and mask its logits."""
        return super().denoise(canvas, soft, context).masked_fill(~self._masks, _NEVER)
