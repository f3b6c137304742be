"""The embedded model: transformers' DiffusionGemma classes, scaled down to about 1.5 M parameters.

A single expert with top-1 routing is exactly a dense layer (its routing weight is 1), so training skips the dispatch;
the unmodified classes load the saved weights.
"""

from types import MethodType
from typing import Any

import torch
from torch.nn import functional as F
from transformers import (
    AttentionInterface,
    DiffusionGemmaConfig,
    DiffusionGemmaForBlockDiffusion,
    DiffusionGemmaTextConfig,
    Gemma4VisionConfig,
)
from transformers.models.diffusion_gemma import modeling_diffusion_gemma as modeling
from transformers.models.diffusion_gemma.generation_diffusion_gemma import (
    DiffusionGemmaGenerationConfig,
    EntropyBoundSamplerConfig,
)

from training import vocabulary

CANVAS_LENGTH = 64
MAX_CONTEXT = 2048


def build_model(seed: int) -> Any:
    """A randomly initialised model in fp32. The vision tower is unused, frozen, and as small as the classes allow."""
    torch.manual_seed(seed)
    layer_types = ["sliding_attention", "sliding_attention", "full_attention"] * 2
    text = DiffusionGemmaTextConfig(
        vocab_size=vocabulary.VOCAB_SIZE,
        hidden_size=128,
        intermediate_size=448,
        num_hidden_layers=len(layer_types),
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        global_head_dim=32,
        num_global_key_value_heads=2,
        layer_types=layer_types,
        sliding_window=256,
        max_position_embeddings=MAX_CONTEXT,
        num_experts=1,
        top_k_experts=1,
        moe_intermediate_size=16,
        use_bidirectional_attention="vision",
        final_logit_softcapping=30.0,
        pad_token_id=vocabulary.PAD,
        eos_token_id=vocabulary.EOS,
        bos_token_id=vocabulary.BOS,
    )
    vision = Gemma4VisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=16,
        position_embedding_size=16,
    )
    config = DiffusionGemmaConfig(
        text_config=text,
        vision_config=vision,
        canvas_length=CANVAS_LENGTH,
        image_token_id=vocabulary.IMAGE,
        boi_token_id=vocabulary.BEGIN_IMAGE,
        eoi_token_id=vocabulary.END_IMAGE,
    )
    config._attn_implementation = "sdpa"
    model = DiffusionGemmaForBlockDiffusion(config)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("vision" not in name)
    return model


def generation_config(steps: int) -> Any:
    """Denoising parameters of the checkpoint: those of the released one, except for the number of steps."""
    return DiffusionGemmaGenerationConfig(
        max_new_tokens=CANVAS_LENGTH,
        max_denoising_steps=steps,
        sampler_config=EntropyBoundSamplerConfig(entropy_bound=0.1),
        t_min=0.4,
        t_max=0.8,
        stability_threshold=1,
        confidence_threshold=0.005,
        pad_token_id=vocabulary.PAD,
        bos_token_id=vocabulary.BOS,
        eos_token_id=[vocabulary.EOS],
    )


def speed_up_training(model: Any) -> None:
    """Replace two slow operations of this model by equivalent, faster ones, without changing the library's classes.

    The single expert runs without a dispatch loop. Attention is written out, because the backward pass of the fused
    CPU kernel takes a third of a training step at this size; it requires explicit masks (True = attend).
    """

    def single_expert(self: Any, hidden: torch.Tensor, _index: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        gate, up = F.linear(hidden, self.gate_up_proj[0]).chunk(2, -1)
        return F.linear(self.act_fn(gate) * up, self.down_proj[0]) * weights.to(hidden.dtype)

    for module in model.modules():
        if isinstance(module, modeling.DiffusionGemmaTextExperts):
            module.forward = MethodType(single_expert, module)
    AttentionInterface.register("written_out", _written_out_attention)
    model.set_attn_implementation("written_out")


def _written_out_attention(
    _module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: torch.Tensor, **_: Any
) -> tuple[torch.Tensor, None]:
    """softmax(q kT) v with grouped heads folded into the query axis; the classes scale queries by their norm. A mask
    may cover the last keys only: no query attends to those before them."""
    rows, heads, queries, width = query.shape
    key, value = (each[:, :, -attention_mask.shape[-1] :] for each in (key, value))
    groups = heads // key.shape[1]
    folded = query.reshape(rows, heads // groups, groups * queries, width)
    scores = (folded @ key.transpose(2, 3)).view(rows, heads // groups, groups, queries, -1)
    weights = scores.masked_fill(~attention_mask[:, :, None], -1e4).softmax(-1)
    mixed = weights.view(rows, heads // groups, groups * queries, -1) @ value
    return mixed.reshape(rows, heads, queries, width).transpose(1, 2), None
