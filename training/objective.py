"""The training objective: uniform-noise denoising with two-pass self-conditioning, plus next-token loss on the encoder.

The denoising half follows the published fine-tuning recipe of DiffusionGemma (google-deepmind/gemma, huggingface/trl):
plain cross-entropy over all canvas positions, corrupted or not. The reading half makes the same weights an
autoregressive model: the worker's second model id and the honest baseline.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F
from transformers import DynamicCache

from training.batches import Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """Mean cross-entropies in nats per weighted position."""

    denoising: torch.Tensor
    reading: torch.Tensor


def losses(net: Any, batch: Batch, self_condition_at: float | None) -> Losses:
    """Both losses of one batch; `self_condition_at` is the temperature of the first pass, None for no first pass."""
    rows, length = batch.sequence.shape
    causal = torch.ones(length, length, dtype=torch.bool).tril()[None, None]
    cache = DynamicCache()
    encoded = net.model.encoder(input_ids=batch.sequence, past_key_values=cache, attention_mask=_both(causal))
    reading = _softcapped(net, net.lm_head(encoded.last_hidden_state[:, :-1]))
    read_loss = F.cross_entropy(reading[batch.is_answer[:, 1:]], batch.sequence[:, 1:][batch.is_answer[:, 1:]])

    canvas = batch.clean.shape[1]
    # The cache holds the whole answer; a row may see what stands before its canvas only.
    before = torch.arange(length)[None] < batch.context[:, None]  # [rows, length]
    mask = torch.cat([before, torch.ones(rows, canvas, dtype=torch.bool)], 1)[:, None, None]
    arguments = {
        "decoder_input_ids": batch.noisy,
        "past_key_values": cache,
        "decoder_attention_mask": _both(mask),
        "decoder_position_ids": batch.context[:, None] + torch.arange(canvas),
    }
    guess = None
    if self_condition_at is not None:
        with torch.no_grad():
            guess = net(**arguments).logits / self_condition_at
    logits = net(**arguments, self_conditioning_logits=guess).logits.float()  # [rows, canvas, vocab]
    per_position = F.cross_entropy(logits.flatten(0, 1), batch.clean.flatten(), reduction="none")
    weight = batch.weight.flatten()
    return Losses(denoising=(per_position * weight).sum() / weight.sum(), reading=read_loss)


def _softcapped(net: Any, logits: torch.Tensor) -> torch.Tensor:
    cap = net.final_logit_softcapping
    capped: torch.Tensor = torch.tanh(logits.float() / cap) * cap
    return capped


def _both(mask: torch.Tensor) -> dict[str, torch.Tensor]:
    """No training context is longer than the sliding window, so both kinds of layer see the same."""
    return {"full_attention": mask, "sliding_attention": mask}
