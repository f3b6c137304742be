"""The loop body: forward, score, accept, renoise, stop, for any number of canvases at once.

Pure in its rows: every parameter is per row, so the canvases of one call may be of different requests, at different
steps. Knows no scheduler, no cache but the view it is given.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from diffusion_worker.denoise.accept import accept
from diffusion_worker.denoise.canvas import Canvas
from diffusion_worker.denoise.draws import DrawKey, Draws
from diffusion_worker.denoise.renoise import renoise
from diffusion_worker.denoise.score import annealed_temperature, sampling_probabilities, score, tokens_of
from diffusion_worker.denoise.stop import held_for, is_settled
from diffusion_worker.nets.interface import CanvasContext, DiffusionNet
from diffusion_worker.work import Denoise


@dataclass(frozen=True, slots=True, kw_only=True)
class Advanced:
    """Canvases one step on, and what the step found; the surest canvas is what would be sealed."""

    canvases: tuple[Canvas, ...]
    logprob: torch.Tensor  # [rows, canvas] of the surest ids, at temperature 1
    mean_entropy: torch.Tensor  # [rows] nats; not finite where the net returned NaN or infinity
    accepted: torch.Tensor  # [rows] how many positions kept their token
    settled: torch.Tensor  # [rows] stable and confident


def step(
    net: DiffusionNet, items: Sequence[Denoise], canvases: Sequence[Canvas], context: CanvasContext, draws: Draws
) -> Advanced:
    """Advance every canvas by one step; items[i] says how canvases[i] is to be denoised."""
    keys = [DrawKey(sequence=i.sequence, seed=i.seed, block=i.block, step=i.step) for i in items]
    temperatures = tuple(item.temperature for item in items)
    rows = _Rows(items, net.device)

    logits = net.denoise(
        torch.stack([canvas.ids for canvas in canvases]), torch.stack([canvas.soft for canvas in canvases]), context
    )
    scores = score(logits, rows.temperature)
    sampled = draws.sample(keys, sampling_probabilities(scores, temperatures))
    accepted = accept(scores.entropy, rows.entropy_bound)
    noise = draws.noise(keys, logits.shape[1], logits.shape[2])
    ids = renoise(tokens_of(scores, sampled, temperatures), accepted, noise)
    held = held_for(
        scores.surest,
        torch.stack([canvas.surest for canvas in canvases]),
        torch.tensor([canvas.held for canvas in canvases], device=net.device),
    )
    mean_entropy = scores.entropy.mean(-1)
    settled = is_settled(held, mean_entropy, rows.stability, rows.confidence_threshold)

    soft = net.soften(scores.probabilities)
    return Advanced(
        canvases=tuple(
            Canvas(ids=ids[row], soft=soft[row], surest=scores.surest[row], held=count)
            for row, count in enumerate(held.tolist())
        ),
        logprob=scores.logprob,
        mean_entropy=mean_entropy,
        accepted=accepted.sum(-1),
        settled=settled,
    )


class _Rows:
    """The recipes of a step as tensors of [rows]."""

    def __init__(self, items: Sequence[Denoise], device: torch.device) -> None:
        recipes = [item.recipe for item in items]
        # The span is a difference of Python floats, rounded once: so does transformers.
        self.temperature = annealed_temperature(
            torch.tensor([recipe.t_min for recipe in recipes], device=device),
            torch.tensor([recipe.t_max - recipe.t_min for recipe in recipes], device=device),
            torch.tensor([item.step for item in items], device=device),
            torch.tensor([recipe.steps for recipe in recipes], device=device),
        )
        self.entropy_bound = torch.tensor([recipe.entropy_bound for recipe in recipes], device=device)
        self.stability = torch.tensor([recipe.stability for recipe in recipes], device=device)
        self.confidence_threshold = torch.tensor([recipe.confidence_threshold for recipe in recipes], device=device)
