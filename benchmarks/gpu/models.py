"""Random models of the released shape, and of the same architecture in small: what is measured needs no weights."""

import json
from pathlib import Path
from typing import Any, Final

import torch

from diffusion_worker.models.diffusion_gemma import DiffusionGemmaModel, step_shape
from diffusion_worker.models.placement import plain_config
from diffusion_worker.types.model_info import ModelInfo
from diffusion_worker.types.requests import DenoisingParams

RELEASED: Final = Path(__file__).parent / "released.json"
_SMALL: Final = {
    "hidden_size": 64,
    "intermediate_size": 32,
    "moe_intermediate_size": 16,
    "head_dim": 16,
    "global_head_dim": 32,
    "vocab_size": 2048,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_global_key_value_heads": 1,
    "sliding_window": 32,
    "num_experts": 4,
    "top_k_experts": 2,
    "max_position_embeddings": 4096,
}
_SMALL_VISION: Final = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
}


def config(*, is_small: bool) -> Any:
    """The library's config of the released checkpoint; small: a layer of each kind over 2,048 tokens, since every layer
    takes time to compile."""
    content = json.loads(RELEASED.read_text())
    if is_small:
        text = content["text_config"]
        kinds = list(dict.fromkeys(text["layer_types"]))
        text |= _SMALL | {"layer_types": kinds, "num_hidden_layers": len(kinds)}
        content |= {"canvas_length": 32, "vision_config": {**content.get("vision_config", {}), **_SMALL_VISION}}
    return plain_config(content)


def build(of: Any, dtype: torch.dtype, device: torch.device) -> DiffusionGemmaModel:
    """A model with random weights, made on its device; the same on every call."""
    from transformers import DiffusionGemmaForBlockDiffusion

    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = DiffusionGemmaForBlockDiffusion(of)
    finally:
        torch.set_default_dtype(before)
    text, weights = of.text_config, list(model.parameters())
    info = ModelInfo(
        vocab_size=text.vocab_size,
        hidden_size=text.hidden_size,
        step=step_shape(text),
        max_context=text.max_position_embeddings,
        denoising=DenoisingParams(canvas_length=of.canvas_length),
        end_ids=(1,),
        pad_id=0,
        parameters=sum(weight.numel() for weight in weights),
        dtype=str(dtype).removeprefix("torch."),
        weight_bytes=sum(weight.numel() * weight.element_size() for weight in weights),
    )
    return DiffusionGemmaModel(model, info)
