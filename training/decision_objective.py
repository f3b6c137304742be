"""The training objective of decisions: the labels in the holes of a canvas, and those of the JSON answer left to right.

Sliding-window layers see what they see in the worker: a token its last `window` tokens, a canvas the last `window` - 1
tokens of the prompt and all of itself.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as nnf
from transformers import DynamicCache

from diffusion_worker.models.interface import FULL, SLIDING, capped
from training.decision_batches import DecisionBatch

Masks = dict[str, torch.Tensor]
FIRST_TEMPERATURE = 0.8  # of the distribution that the first of two passes hands to the second


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionLosses:
    """Mean cross-entropies in nats per weighted position, and the share of deciding tokens that were the likeliest."""

    canvas: torch.Tensor
    left_to_right: torch.Tensor
    canvas_right: float
    left_to_right_right: float


def decision_losses(model: Any, batch: DecisionBatch, *, is_second: bool) -> DecisionLosses:
    """The losses of a batch. `is_second`: of the second pass over its canvases, after a first one without gradient."""
    rows, length = batch.rest.shape
    shared, window = batch.prefix.shape[1], model.config.text_config.sliding_window
    encoder, cache = model.model.encoder.language_model, DynamicCache()
    encoder(batch.prefix, attention_mask=_causal(0, shared, window), cache=cache)
    for layer in cache.layers:
        layer.keys, layer.values = (each.expand(rows, -1, -1, -1) for each in (layer.keys, layer.values))
    places = shared + torch.arange(length)[None]
    hidden = encoder(
        batch.rest, attention_mask=_causal(shared, length, window), position_ids=places, cache=cache
    ).last_hidden_state
    scores = capped(model.lm_head(hidden[:, :-1]), model.final_logit_softcapping)
    read = _weighted(scores, batch.rest[:, 1:], batch.answer_weight[:, 1:])
    for layer in cache.layers:
        layer.keys, layer.values = layer.keys[batch.row], layer.values[batch.row]
    ids, weight, guess = batch.first, batch.first_weight, None
    arguments = {
        "cache": cache,
        "decoder_attention_mask": _canvas_masks(batch.context, shared + length, window, ids.shape[1]),
        "decoder_position_ids": batch.context[:, None] + torch.arange(ids.shape[1]),
    }
    if is_second and batch.second_weight.any():
        with torch.no_grad():
            guess = model(decoder_input_ids=ids, **arguments).logits / FIRST_TEMPERATURE
        ids, weight = batch.second, batch.second_weight
    filled = _weighted(
        model(decoder_input_ids=ids, self_conditioning_logits=guess, **arguments).logits.float(), batch.clean, weight
    )
    return DecisionLosses(canvas=filled[0], canvas_right=filled[1], left_to_right=read[0], left_to_right_right=read[1])


def _weighted(logits: torch.Tensor, right: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, float]:
    """(weighted mean cross-entropy, share of the positions of weight 1 whose likeliest token is right); zeros if no
    position has a weight."""
    if not weight.any():
        return torch.zeros(()), 0.0
    chosen = weight > 0.0
    seen, ids, each = logits[chosen], right[chosen], weight[chosen]
    loss = (nnf.cross_entropy(seen, ids, reduction="none") * each).sum() / each.sum()
    deciding = each == 1.0
    return loss, (seen[deciding].argmax(-1) == ids[deciding]).float().mean().item()


def _causal(before: int, new: int, window: int) -> Masks:
    """Masks [1, 1, new, keys] of a causal pass. Layers with a window get the last keys (`model.speed_up_training`)."""
    back = before + torch.arange(new)[:, None] - torch.arange(before + new)[None]
    is_near = (back >= 0) & (back < window)
    return {FULL: (back >= 0)[None, None], SLIDING: is_near[None, None, :, max(0, before - window + 1) :]}


def _canvas_masks(context: torch.Tensor, cached: int, window: int, canvas: int) -> Masks:
    """Masks [rows, 1, 1, keys] of a canvas after `context` [rows] of the cached tokens. Layers with a window get the
    last keys."""
    back = context[:, None] - torch.arange(cached)[None]
    own = torch.ones(len(context), canvas, dtype=torch.bool)
    is_near = torch.cat([(back > 0) & (back < window), own], 1)
    first = max(0, int(context.min()) - window + 1)
    return {FULL: torch.cat([back > 0, own], 1)[:, None, None], SLIDING: is_near[:, None, None, first:]}
