"""What a net will be, from its config alone: the library's own classes, built on the meta device, hold no bytes.

Knows a config.json; knows no weights, no memory and no slots.
"""

from pathlib import Path
from typing import Any

import torch

from diffusion_worker.errors import CheckpointBroken, OutOfRange
from diffusion_worker.nets.diffusion_gemma import kv_shapes
from diffusion_worker.nets.loader import CONFIG, first_line, read_config
from diffusion_worker.records import NetSize, Recipe

_EXPERTS = ".experts."  # tensors [experts, ...], of which a token visits the router's top k
_IMAGES = ("model.encoder.vision_tower.", "model.encoder.embed_vision.")  # no token of text passes through these


def measure(source: str | Path) -> NetSize:
    """The size of the net that a config.json, or a folder with one, describes. Raises CheckpointMissing,
    CheckpointForeign or CheckpointBroken."""
    from huggingface_hub.errors import StrictDataclassError

    file = Path(source).expanduser()
    file = file / CONFIG if file.is_dir() else file
    content = read_config(file)
    broken = (ValueError, TypeError, LookupError, AttributeError, RuntimeError, ArithmeticError, AssertionError)
    try:
        return _measure(content)
    except (*broken, OutOfRange, StrictDataclassError) as error:
        raise CheckpointBroken(f"{file}: {first_line(error)}") from error


def _measure(content: dict[str, Any]) -> NetSize:
    from transformers import DiffusionGemmaConfig, DiffusionGemmaForBlockDiffusion
    from transformers.utils import logging

    logging.set_verbosity_error()
    config = DiffusionGemmaConfig.from_dict(content)
    text = config.text_config
    visited, experts = text.top_k_experts, text.num_experts
    if visited is None or experts is None or not 1 <= visited <= experts:
        raise ValueError(f"top_k_experts {visited} is not between 1 and num_experts {experts}")
    with torch.device("meta"):
        model = DiffusionGemmaForBlockDiffusion(config)
    return NetSize(
        parameters=sum(weight.numel() for weight in model.parameters()),
        active_parameters=_active(model, text),
        kv_layers=kv_shapes(text),
        max_context=text.max_position_embeddings,
        canvas_length=Recipe(canvas_length=config.canvas_length).canvas_length,
        dtype=_stored_dtype(config),
        quantised="quantization_config" in content,
    )


def _active(model: Any, text: Any) -> int:
    """Parameters that a token of a canvas passes through: of the experts its top k, of the tower for images none.
    `named_parameters` gives tied weights once; the table of words counts whole, as the head multiplies by all of it."""
    total = 0
    for name, weight in model.named_parameters():
        if _EXPERTS in name:
            total += weight.numel() // text.num_experts * text.top_k_experts
        elif not name.startswith(_IMAGES):
            total += weight.numel()
    return total


def _stored_dtype(config: Any) -> str | None:
    dtype = config.dtype or config.text_config.dtype
    return None if dtype is None else str(dtype).removeprefix("torch.")
