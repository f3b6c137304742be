"""Scores of every position from the logits: probabilities, entropy and the most likely token.

Pure functions of tensors.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from diffusion_worker.constraints.inference.template import FREE
from diffusion_worker.denoise.penalties import Adjustment
from diffusion_worker.denoise.pins import pin_ids, pin_logits
from diffusion_worker.models.host_to_device import upload


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Scores of one step."""

    z: torch.Tensor  # [rows, canvas, vocab] annealed logits
    probabilities: torch.Tensor  # [rows, canvas, vocab] of the annealed logits
    entropy: torch.Tensor  # [rows, canvas] in nats, of the annealed logits
    surest: torch.Tensor  # [rows, canvas] most likely ids
    logprob: torch.Tensor  # [rows, canvas] of `surest` at temperature 1, unconstrained


def annealed_temperature(
    t_min: torch.Tensor, span: torch.Tensor, step: torch.Tensor, steps: torch.Tensor
) -> torch.Tensor:
    """Temperature [rows] with `step` of `steps` steps to go: t_min + span at the first, almost t_min at the last.

    In fp32 and in this order, as in transformers: another order rounds differently, and the canvases diverge.
    """
    return t_min + span * (step / steps)


def score(
    logits: torch.Tensor,
    temperature: torch.Tensor,
    pins: torch.Tensor | None = None,
    adjustments: Iterable[Adjustment] = (),
) -> Scores:
    """Scores of fp32 logits [rows, canvas, vocab] at temperature [rows]; `pins` as in `denoise.pins`. `adjustments`
    replace single logits, but not in `logprob`: it is the model's confidence."""
    z = pin_logits(logits, pins) / temperature[:, None, None]
    likeliest = logits.argmax(-1)
    changed = dict[int, None]()
    for each in adjustments:
        changed[each.row] = None
        adjusted = each.logits / temperature[each.row]
        if pins is not None:
            adjusted = torch.where((pins[each.row] == FREE)[:, None], adjusted, z[each.row][:, each.tokens])
        z[each.row].index_copy_(1, each.tokens, adjusted.to(z.dtype))
    for row in changed:
        likeliest[row] = z[row].argmax(-1)
    probabilities = z.softmax(-1)  # not exp(log_softmax): the same operation as transformers, so that canvases agree
    surest = pin_ids(likeliest, pins)
    return Scores(
        z=z,
        probabilities=probabilities,
        entropy=-(probabilities * z.log_softmax(-1)).sum(-1),
        surest=surest,
        logprob=logits.gather(-1, surest[..., None])[..., 0] - logits.logsumexp(-1),
    )


def sampling_probabilities(scores: Scores, temperatures: tuple[float | None, ...]) -> torch.Tensor:
    """Probabilities [rows, canvas, vocab] to sample from: annealed logits, divided by the request's temperature. Rows
    with temperature 0 keep theirs and take the argmax; see `tokens_of`."""
    if all(temperature in (None, 0.0, 1.0) for temperature in temperatures):
        return scores.probabilities
    divisor = upload([temperature or 1.0 for temperature in temperatures], scores.z.device)
    return (scores.z / divisor[:, None, None]).softmax(-1)


def tokens_of(scores: Scores, sampled: torch.Tensor, temperatures: tuple[float | None, ...]) -> torch.Tensor:
    """Proposed ids [rows, canvas]: sampled, or the most likely ones in rows with temperature 0."""
    if 0.0 not in temperatures:
        return sampled
    is_greedy = upload([temperature == 0.0 for temperature in temperatures], sampled.device)
    return torch.where(is_greedy[:, None], scores.surest, sampled)
