"""Measures a model from its config.json alone, with the library's classes on the meta device."""

import re
from pathlib import Path
from typing import Any

from diffusion_worker.errors import CheckpointBroken, OutOfRange
from diffusion_worker.models.checkpoint_source import CONFIG
from diffusion_worker.models.diffusion_gemma import kv_shapes, step_shape
from diffusion_worker.models.loader import read_config
from diffusion_worker.models.placement import VISION_MODULES, meta_model, plain_config
from diffusion_worker.models.quantisation import Quantisation, quantisation_of
from diffusion_worker.types.model_info import ModelSize, Packed
from diffusion_worker.types.requests import DenoisingParams
from twolane.process.errors import first_line

_EXPERTS = ".experts."  # tensors [experts, ...], of which a token uses the router's top k


def measure(source: str | Path) -> ModelSize:
    """Size of the model described by a config.json, or a folder that contains one. Raises CheckpointMissing,
    CheckpointForeign or CheckpointBroken."""
    from huggingface_hub.errors import StrictDataclassError

    file = Path(source).expanduser()
    file = file / CONFIG if file.is_dir() else file
    content = read_config(file)
    broken = (ValueError, TypeError, LookupError, AttributeError, RuntimeError, ArithmeticError, AssertionError)
    try:
        return _measure(content)
    except (*broken, OutOfRange, StrictDataclassError, re.error) as error:
        raise CheckpointBroken(f"{file}: {first_line(error)}") from error


def _measure(content: dict[str, Any]) -> ModelSize:
    config = plain_config(content)
    text = config.text_config
    visited, experts = text.top_k_experts, text.num_experts
    if visited is None or experts is None or not 1 <= visited <= experts:
        raise ValueError(f"top_k_experts {visited} is not between 1 and num_experts {experts}")
    model = meta_model(config)
    quantised = quantisation_of(content)
    return ModelSize(
        parameters=sum(weight.numel() for weight in model.parameters()),
        active_parameters=_active(model, text),
        kv_layers=kv_shapes(text),
        step=step_shape(text, stays_packed=quantised is not None and quantised.stays_packed),
        max_context=text.max_position_embeddings,
        canvas_length=DenoisingParams(canvas_length=config.canvas_length).canvas_length,
        dtype=_stored_dtype(config),
        quantised=None if quantised is None else _packed(model, quantised),
    )


def _packed(model: Any, quantised: Quantisation) -> Packed:
    """Parameters and declared bits of the matrices that the quantisation covers."""
    covered = sum(weight.numel() for name, weight in model.named_parameters() if quantised.covers(name))
    return Packed(method=quantised.method, parameters=covered, bits=quantised.bits, stays_packed=quantised.stays_packed)


def _active(model: Any, text: Any) -> int:
    """Parameters used per text token: the router's top k of the experts, none of the vision tower. `named_parameters`
    yields tied weights once; the embedding counts in full, since the output head multiplies by all of it."""
    total = 0
    for name, weight in model.named_parameters():
        if _EXPERTS in name:
            total += weight.numel() // text.num_experts * text.top_k_experts
        elif not name.startswith(VISION_MODULES):
            total += weight.numel()
    return total


def _stored_dtype(config: Any) -> str | None:
    dtype = config.dtype or config.text_config.dtype
    return None if dtype is None else str(dtype).removeprefix("torch.")
