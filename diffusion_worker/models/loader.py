"""Loads a checkpoint from a folder. Errors name the file at fault."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from diffusion_worker.errors import BadSetting, CheckpointBroken, CheckpointForeign, CheckpointMissing, OutOfRange
from diffusion_worker.models.checkpoint_source import CONFIG, read_json, weight_files
from diffusion_worker.models.confidence import read_confidence, read_prompt_head
from diffusion_worker.models.decision_weights import read_decision_weights, with_weights
from diffusion_worker.models.diffusion_gemma import DiffusionGemmaModel, step_shape
from diffusion_worker.models.packed_checkpoint import packed_matrices
from diffusion_worker.models.placement import AUTO, LoadOptions, meta_model, place, plain_config
from diffusion_worker.models.quantisation import Quantisation, quantisation_of
from diffusion_worker.types.model_info import ModelInfo
from diffusion_worker.types.requests import DenoisingParams
from twolane.process.errors import first_line

__all__ = ["ARCHITECTURE", "LoadOptions", "load", "read_config"]

ARCHITECTURE = "diffusion_gemma"
_GENERATION = "generation_config.json"
# What the file calls denoising parameters that have other names here.
_FILE_NAMES = {"steps": "max_denoising_steps", "stability": "stability_threshold"}


def load(folder: str | Path, options: LoadOptions | None = None) -> DiffusionGemmaModel:
    """Load the model of a folder, see `checkpoint_source.locate`. Raises CheckpointMissing, CheckpointForeign,
    CheckpointBroken or BadSetting."""
    options = options or LoadOptions()
    if options.threads:
        torch.set_num_threads(options.threads)
    folder = Path(folder)
    config = read_config(folder / CONFIG)
    generation = read_json(folder / _GENERATION) if (folder / _GENERATION).exists() else {}
    denoising = _denoising_params(folder, generation, config.get("canvas_length"))
    denoising = dataclasses.replace(denoising, **options.thresholds)  # type: ignore[arg-type]
    _check_weights(folder)
    model, found = place(folder, config, options)
    _refuse_differences(folder, found)
    info = _info(folder, generation, model, denoising)
    packed = sum(each.nbytes for each in packed_matrices(model))
    quantised = quantisation_of(config) if packed or getattr(model, "is_quantized", False) else None
    if packed and quantised is None:  # declared in a file of its own, if at all
        quantised = Quantisation(method="packed", bits=None)
    if quantised is not None and options.is_exact:
        raise BadSetting(
            f"{folder}: exact mode requires unquantised weights; `--quantised unpack` dequantises them while loading"
        )
    if quantised is not None:
        info = _quantised_info(info, config, model, quantised, packed)
    experts = None if options.experts == AUTO else options.experts
    info = dataclasses.replace(info, confidence=read_confidence(folder, config))
    prompt_head = read_prompt_head(
        folder, hidden_size=info.hidden_size, vocab_size=info.vocab_size, device=model.device
    )
    for_templates = None
    if tensors := read_decision_weights(folder):
        filling = with_weights(model, tensors, folder)  # before the layers of `model` are fused
        plain = dataclasses.replace(info, confidence={})
        for_templates = DiffusionGemmaModel(filling, plain, experts=experts, is_exact=options.is_exact)
        more = sum(tensor.numel() for tensor in tensors.values()) * model.dtype.itemsize
        info = dataclasses.replace(info, weight_bytes=info.weight_bytes + more, has_template_weights=True)
    return DiffusionGemmaModel(
        model, info, experts=experts, is_exact=options.is_exact, prompt_head=prompt_head, for_templates=for_templates
    )


def read_config(file: Path) -> dict[str, Any]:
    """Read a config.json of the supported architecture. Raises CheckpointMissing, CheckpointForeign or
    CheckpointBroken."""
    config = read_json(file)
    if config.get("model_type") != ARCHITECTURE:
        raise CheckpointForeign(
            f"{file}: unsupported model_type {config.get('model_type')!r} (expected {ARCHITECTURE!r})"
        )
    return config


def _check_weights(folder: Path) -> None:
    """Open every weight file to check that it is complete."""
    for file in weight_files(folder):
        if not file.is_file():
            raise CheckpointMissing(f"{file}: no such file")
        try:
            with safe_open(file, framework="pt") as opened:
                opened.keys()
        except (SafetensorError, OSError) as error:
            raise CheckpointBroken(f"{file}: {first_line(error)}") from error


def _refuse_differences(folder: Path, found: Mapping[str, Any]) -> None:
    """Weights and config must match exactly: a tensor left at its random initialisation would go unnoticed."""
    for kind, what in (
        ("missing_keys", "missing weights"),
        ("unexpected_keys", "unexpected weights"),
        ("mismatched_keys", "weights of the wrong shape"),
    ):
        names = sorted(str(key[0] if isinstance(key, tuple) else key) for key in found.get(kind) or ())
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise CheckpointBroken(f"{folder}: {what} for this config.json: {', '.join(names[:3])}{more}")


def _check_text(file: Path, text: Any) -> None:
    """Check numbers of the text config that the library does not check."""
    for name in ("max_position_embeddings", "sliding_window"):
        if (tokens := getattr(text, name)) < 1:
            raise CheckpointBroken(f"{file}: {name} must be at least 1, not {tokens}")
    experts, top = text.num_experts, text.top_k_experts
    if experts and not (type(top) is int and 1 <= top <= experts):
        raise CheckpointBroken(f"{file}: top_k_experts must be between 1 and num_experts ({experts}), not {top!r}")
    cap = text.final_logit_softcapping
    if cap is not None and not (type(cap) in (int, float) and 0 < cap < math.inf):
        raise CheckpointBroken(f"{file}: final_logit_softcapping must be a positive number or null, not {cap!r}")


def _info(folder: Path, generation: Mapping[str, Any], model: Any, denoising: DenoisingParams) -> ModelInfo:
    text = model.config.text_config
    _check_text(folder / CONFIG, text)
    ends = generation.get("eos_token_id", text.eos_token_id)
    pad = generation.get("pad_token_id", text.pad_token_id)
    end_ids = tuple(ends) if isinstance(ends, list) else (ends,)
    for name, value in (("pad_token_id", pad), *(("eos_token_id", end) for end in end_ids)):
        if type(value) is not int or not 0 <= value < text.vocab_size:
            raise CheckpointBroken(f"{folder / _GENERATION}: {name} {value!r} is outside the vocabulary")
    return ModelInfo(
        vocab_size=text.vocab_size,
        hidden_size=text.hidden_size,
        step=step_shape(text),
        max_context=text.max_position_embeddings,
        denoising=denoising,
        end_ids=end_ids,
        pad_id=pad,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        weight_bytes=sum(parameter.numel() * parameter.element_size() for parameter in model.parameters()),
        dtype=str(model.dtype).removeprefix("torch."),
    )


def _quantised_info(
    info: ModelInfo, config: Mapping[str, Any], model: Any, quantised: Quantisation, packed_bytes: int
) -> ModelInfo:
    """Model info of quantised weights. Parameters are counted on the unquantised model, since packed tensors have other
    shapes. compressed-tensors decompresses what it loads itself in the first pass, so that counts at its decompressed
    size."""
    parameters = sum(weight.numel() for weight in meta_model(plain_config(config)).parameters())
    is_unpacked_later = quantised.method == "compressed-tensors" and not packed_bytes
    later = parameters * model.dtype.itemsize
    step = step_shape(model.config.text_config, stays_packed=bool(packed_bytes))
    largest = max((math.prod(each.shape) for each in packed_matrices(model)), default=0)  # may be that of the head
    return dataclasses.replace(
        info,
        step=dataclasses.replace(step, unpacked=max(step.unpacked, largest)),
        parameters=parameters,
        weight_bytes=max(info.weight_bytes, later) if is_unpacked_later else info.weight_bytes + packed_bytes,
        quantised=quantised.method,
    )


def _denoising_params(folder: Path, generation: Mapping[str, Any], canvas_length: object) -> DenoisingParams:
    """The denoising parameters of generation_config.json, by our names; missing ones keep their defaults."""
    sampler = generation.get("sampler_config")
    names = ("steps", "t_min", "t_max", "stability", "confidence_threshold")
    known = {name: generation.get(_FILE_NAMES.get(name, name)) for name in names}
    known["entropy_bound"] = sampler.get("entropy_bound") if isinstance(sampler, dict) else None
    params = _replaced(DenoisingParams(), folder / CONFIG, {"canvas_length": canvas_length})
    return _replaced(params, folder / _GENERATION, known)


def _replaced(params: DenoisingParams, file: Path, declared: Mapping[str, object]) -> DenoisingParams:
    """With the values that a file declares. Raises CheckpointBroken, which names the file and the field."""
    given: dict[str, Any] = {name: value for name, value in declared.items() if value is not None}
    for name, value in given.items():
        own = type(getattr(params, name))
        if type(value) not in (int, own):
            number = "an integer" if own is int else "a number"
            raise CheckpointBroken(f"{file}: {_FILE_NAMES.get(name, name)} must be {number}, not {value!r}")
    try:
        return dataclasses.replace(params, **given)
    except OutOfRange as error:
        name = error.param or ""
        raise CheckpointBroken(f"{file}: {_FILE_NAMES.get(name, name)}{str(error).removeprefix(name)}") from error
