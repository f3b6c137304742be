"""Loads weights into memory through transformers: dtype, device placement, experts and quantisation.

The loader checks that the files are complete and match.
"""

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from diffusion_worker.errors import BadSetting, CheckpointBroken, CheckpointForeign, DeviceFailed
from diffusion_worker.models.device_errors import device_problem, is_fatal, is_out_of_memory
from diffusion_worker.models.diffusion_gemma import CUSTOM_PREFIX
from diffusion_worker.models.packed_checkpoint import Target, is_packed, read_packed
from diffusion_worker.models.quantisation import Quantisation, quantisation_of
from twolane.process.errors import first_line

AUTO = "auto"
KEEP, UNPACK = "keep", "unpack"
DEVICES = ("cpu", "cuda")  # whose memory the worker can measure, see `memory.lifecycle`; ROCm's devices are called cuda
VISION_MODULES = ("model.encoder.vision_tower.", "model.encoder.embed_vision.")  # not used for text

# Raised by the library and its quantisers for unsuitable files and machines.
_LOADING_ERRORS = (
    *(OSError, ValueError, TypeError, LookupError, ArithmeticError),
    *(AttributeError, RuntimeError, ImportError, AssertionError),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """How weights are loaded."""

    device: str = AUTO  # auto: the accelerator if available, else the CPU
    device_map: str | Mapping[str, str | int] | None = None  # transformers' device_map
    dtype: str = AUTO  # auto: as stored
    experts: str = AUTO  # transformers' experts implementation; auto: the fastest, see `diffusion_gemma`
    quantised: str = KEEP  # unpack: dequantise to `dtype` while loading
    is_exact: bool = False  # see `diffusion_gemma.experts_implementation`
    threads: int = 0  # CPU threads per forward pass; 0: torch's default
    thresholds: Mapping[str, float] = field(default_factory=dict)  # of `DenoisingParams`, in place of the checkpoint's


def place(folder: Path, config: Mapping[str, Any], options: LoadOptions) -> tuple[Any, Mapping[str, Any]]:
    """Load the weights of a folder; returns the model and transformers' loading info (missing and unexpected keys).

    Raises CheckpointBroken, CheckpointForeign if the quantisation is not supported here, BadSetting for bad options, or
    DeviceFailed.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import DiffusionGemmaForBlockDiffusion
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()  # the loader checks what it would warn of
    quantisation = quantisation_of(config)
    device = _device(options.device)
    _check_experts(options)
    try:
        if is_packed(folder, None if quantisation is None else quantisation.method):
            return _place_packed(folder, config, options, device, quantisation)
    except (*_LOADING_ERRORS, StrictDataclassError) as error:
        _raise_device_failure(error, device)
        raise _translated(error, folder, quantisation, options) from error
    kwargs = _placement(options, device)
    try:
        kwargs |= _as_config_says(folder, quantisation, options)
        model, found = DiffusionGemmaForBlockDiffusion.from_pretrained(
            folder,
            dtype=options.dtype,
            output_loading_info=True,
            local_files_only=True,
            ignore_mismatched_sizes=True,
            **kwargs,
        )
    except (*_LOADING_ERRORS, StrictDataclassError) as error:
        _raise_device_failure(error, device)
        raise _translated(error, folder, quantisation, options) from error
    _check_devices(model)
    return model, found


def _place_packed(
    folder: Path,
    config: Mapping[str, Any],
    options: LoadOptions,
    device: torch.device,
    quantisation: Quantisation | None,
) -> tuple[Any, Mapping[str, Any]]:
    if options.experts != AUTO:
        raise BadSetting(f"--experts {options.experts}: packed weights have an implementation of their own")
    if options.device_map is not None:
        raise BadSetting("--device-map: packed weights are on one device; use --device")
    plain = plain_config(config)
    dtype = plain.dtype or plain.text_config.dtype if options.dtype == AUTO else options.dtype
    dtype = dtype if isinstance(dtype, torch.dtype) else getattr(torch, str(dtype or "bfloat16"))
    block = None if quantisation is None else quantisation.block
    target = Target(device=device, dtype=dtype, unpack=options.quantised == UNPACK)
    model, found = read_packed(folder, plain, target, block=block)
    return model, found


def plain_config(config: Mapping[str, Any]) -> Any:
    """The library's config without quantisation. Raises the library's errors for an invalid one."""
    from transformers import DiffusionGemmaConfig
    from transformers.utils import logging

    logging.set_verbosity_error()
    return DiffusionGemmaConfig.from_dict({key: value for key, value in config.items() if key != "quantization_config"})


def meta_model(config: Any) -> Any:
    """The model of a library config on the meta device: shapes without weights."""
    from transformers import DiffusionGemmaForBlockDiffusion

    with torch.device("meta"):
        return DiffusionGemmaForBlockDiffusion(config)


def _device(name: str) -> torch.device:
    if name == AUTO:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        _check_supported({device.type}, f"--device {name}")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        if is_fatal(error):
            raise DeviceFailed(f"the device {name} failed: {first_line(error)}", retry_after_s=1.0) from error
        raise BadSetting(f"--device {name}: not available on this machine: {first_line(error)}") from error
    return device


def _check_experts(options: LoadOptions) -> None:
    from transformers.integrations.finegrained_fp8 import ALL_FP8_EXPERTS_FUNCTIONS
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    if options.experts == AUTO:
        return
    if options.is_exact:
        raise BadSetting(
            f"--experts {options.experts}: cannot be combined with exact mode, which sets its own implementation"
        )
    available = {"eager", *ALL_EXPERTS_FUNCTIONS.keys(), *ALL_FP8_EXPERTS_FUNCTIONS.keys()}
    known = sorted(name for name in available if not name.startswith(CUSTOM_PREFIX))
    if options.experts not in known:
        raise BadSetting(f"--experts {options.experts}: unknown (choose from {', '.join([AUTO, *known])})")


def _placement(options: LoadOptions, device: torch.device) -> dict[str, Any]:
    """Placement arguments. Weights are read onto their device tensor by tensor, so that the host holds a few of them at
    a time; on a CPU they are mapped from the file, or converted in memory."""
    if options.device_map is not None:
        kwargs: Any = options.device_map if isinstance(options.device_map, str) else dict(options.device_map)
    elif device.type != "cpu":
        kwargs = {"": device}
    else:
        return {}
    try:
        importlib.import_module("accelerate")
    except ImportError:
        setting = f"--device {device.type}" if options.device_map is None else "--device-map"
        raise BadSetting(f"{setting} requires accelerate, which is missing: pip install 'twolane[worker]'") from None
    return {"device_map": kwargs}


def _as_config_says(folder: Path, quantisation: Quantisation | None, options: LoadOptions) -> dict[str, Any]:
    """Loading arguments for quantisation and experts. A quantisation config is used as it is; `unpack` adds
    `dequantize`."""
    from transformers import DiffusionGemmaConfig, __version__
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    named: dict[str, Any] = {} if options.experts == AUTO else {"experts_implementation": options.experts}
    if quantisation is None:
        return named
    if quantisation.method not in AUTO_QUANTIZATION_CONFIG_MAPPING and quantisation.method != "bitsandbytes":
        raise CheckpointForeign(
            f"{folder}: quantisation method {quantisation.method!r} is not supported by transformers {__version__}"
        )
    if options.quantised == UNPACK:
        config = DiffusionGemmaConfig.from_pretrained(folder)
        holder = config if hasattr(config, "quantization_config") else config.text_config
        holder.quantization_config = {**holder.quantization_config, "dequantize": True}
        named["config"] = config
    return named


def _raise_device_failure(error: Exception, device: torch.device) -> None:
    """Raises DeviceFailed if a device that has failed is the reason; the library may not say so."""
    cause = error if is_fatal(error) else device_problem(device)
    if cause is not None:
        message = f"the device failed while the weights were loaded: {first_line(cause)}"
        raise DeviceFailed(message, retry_after_s=1.0) from error


def _translated(
    error: Exception, folder: Path, quantisation: Quantisation | None, options: LoadOptions
) -> BadSetting | CheckpointBroken | CheckpointForeign:
    from huggingface_hub.errors import StrictDataclassError

    cause = error.__cause__ if isinstance(error, StrictDataclassError) else None  # says what is wrong with the field
    said = first_line(cause or error)
    if is_out_of_memory(error):
        return BadSetting(f"--device {options.device}: out of memory while loading the weights: {first_line(error)}")
    if quantisation is None and cause is None and options.device_map is not None:
        return BadSetting(f"--device-map: {first_line(error)}")
    if quantisation is None or cause is not None:
        return CheckpointBroken(f"{folder}: {said}")
    hint = "" if options.quantised == UNPACK else "; `--quantised unpack` may load it by dequantising"
    if isinstance(error, ImportError):
        hint = ""
    return CheckpointForeign(f"{folder}: quantised by {quantisation.method!r}: {said}{hint}")


def _check_supported(types: Iterable[str], setting: str) -> None:
    """Raises BadSetting for types of devices whose memory cannot be measured: the plan would be that of the host."""
    if unsupported := sorted(set(types) - {*DEVICES, "meta"}):
        raise BadSetting(f"{setting}: unsupported device {unsupported[0]!r} (choose from {', '.join(DEVICES)})")


def _check_devices(model: Any) -> None:
    """All text layers must be on one device, where the KV cache is; the vision tower may be elsewhere."""
    placed = {weight.device for name, weight in model.named_parameters() if not name.startswith(VISION_MODULES)}
    _check_supported((device.type for device in placed), "--device-map")
    devices = {str(device) for device in placed}
    if len(devices) > 1 or "meta" in devices:
        raise BadSetting(
            f"--device-map: all text layers must be on one device, but are on {', '.join(sorted(devices))}"
        )
