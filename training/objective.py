"""The training objective: uniform-noise denoising with self-conditioning, plus next-token loss on the encoder.

The denoising loss follows the published fine-tuning recipe of DiffusionGemma (google-deepmind/gemma, huggingface/trl):
cross-entropy over all canvas positions, corrupted or not, half of the time after a first pass whose prediction is fed
back. In addition, a few steps of the serving loop run before the pass with gradient, so that the model learns to
correct its own errors and not only random noise (step-unrolled denoising, Savinov et al. 2022, arXiv:2112.06749). The
next-token loss makes the same weights an autoregressive model: the worker's second model id, and the baseline.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F
from transformers import DynamicCache

from diffusion_worker.denoise.accept import accept, renoise
from diffusion_worker.denoise.anchor import kept
from training.batches import Batch
from training.vocabulary import VOCAB_SIZE

ENTROPY_BOUND = 0.1  # nats, of unrolled steps; the same as in serving


@dataclass(frozen=True, slots=True, kw_only=True)
class Unroll:
    """Passes without gradient before the pass with gradient, one per temperature.

    Each feeds its annealed prediction to the next pass. With `renoises`, it also updates the canvas as a step of the
    serving loop does; otherwise the canvas is unchanged (the recipe's two-pass self-conditioning).
    """

    temperatures: tuple[float, ...] = ()
    renoises: bool = False
    anchor: float = 0.0  # anchor strength of re-noised canvases


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """Mean cross-entropies in nats per weighted position."""

    denoising: torch.Tensor
    autoregressive: torch.Tensor


def losses(model: Any, batch: Batch, unroll: Unroll, generator: torch.Generator) -> Losses:
    """Both losses of one batch; the denoising loss after the passes of `unroll`."""
    rows, length = batch.sequence.shape
    causal = torch.ones(length, length, dtype=torch.bool).tril()[None, None]
    cache = DynamicCache()
    encoded = model.model.encoder(input_ids=batch.sequence, cache=cache, attention_mask=_both(causal))
    causal_logits = _softcapped(model, model.lm_head(encoded.last_hidden_state[:, :-1]))
    autoregressive_loss = F.cross_entropy(
        causal_logits[batch.is_answer[:, 1:]], batch.sequence[:, 1:][batch.is_answer[:, 1:]]
    )

    canvas = batch.clean.shape[1]
    # The cache holds the whole answer; a row may attend only to the tokens before its canvas.
    before = torch.arange(length)[None] < batch.context[:, None]  # [rows, length]
    mask = torch.cat([before, torch.ones(rows, canvas, dtype=torch.bool)], 1)[:, None, None]
    arguments = {
        "cache": cache,
        "decoder_attention_mask": _both(mask),
        "decoder_position_ids": batch.context[:, None] + torch.arange(canvas),
    }
    noisy, guess = batch.noisy, None
    for temperature in unroll.temperatures:
        with torch.no_grad():
            guess = model(decoder_input_ids=noisy, self_conditioning_logits=guess, **arguments).logits / temperature
        if unroll.renoises:
            noisy = _next_canvas(guess, unroll.anchor, generator)
    logits = model(decoder_input_ids=noisy, self_conditioning_logits=guess, **arguments).logits.float()
    per_position = F.cross_entropy(logits.flatten(0, 1), batch.clean.flatten(), reduction="none")
    weight = batch.weight.flatten()
    return Losses(denoising=(per_position * weight).sum() / weight.sum(), autoregressive=autoregressive_loss)


def _next_canvas(z: torch.Tensor, anchor: float, generator: torch.Generator) -> torch.Tensor:
    """The canvas after one step of the serving loop, from annealed logits [rows, canvas, vocab]."""
    probabilities = z.softmax(-1)
    entropy = -(probabilities * z.log_softmax(-1)).sum(-1)
    tokens = torch.multinomial(probabilities.flatten(0, 1), 1, generator=generator).view(entropy.shape)
    accepted = accept(entropy, torch.full((z.shape[0],), ENTROPY_BOUND))
    noise = torch.randint(VOCAB_SIZE, tokens.shape, generator=generator)
    likeliest, surest = probabilities.max(-1)
    is_kept = kept(likeliest, torch.full((z.shape[0],), anchor))
    return renoise(tokens, accepted, noise, surest=surest, kept=is_kept)


def _softcapped(model: Any, logits: torch.Tensor) -> torch.Tensor:
    cap = model.final_logit_softcapping
    capped: torch.Tensor = torch.tanh(logits.float() / cap) * cap
    return capped


def _both(mask: torch.Tensor) -> dict[str, torch.Tensor]:
    """One mask for both layer types: no training context exceeds the sliding window."""
    return {"full_attention": mask, "sliding_attention": mask}
