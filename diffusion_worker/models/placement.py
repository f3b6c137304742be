"""How weights come into memory: number format, device, experts and quantisation, as asked for or as the config says.

Knows what transformers' `from_pretrained` takes and raises; whether the files are whole and fit is the loader's part.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from diffusion_worker.errors import BadSetting, CheckpointBroken, CheckpointForeign
from diffusion_worker.models.diffusion_gemma import CUSTOM_PREFIX
from diffusion_worker.models.quantisation import Quantisation, quantisation_of

AUTO = "auto"
KEEP, UNPACK = "keep", "unpack"
VISION_MODULES = ("model.encoder.vision_tower.", "model.encoder.embed_vision.")  # no token of text passes through these

# What the library and its quantisers raise for files and machines that do not suit them.
_LOADING_ERRORS = (
    *(OSError, ValueError, TypeError, LookupError, ArithmeticError),
    *(AttributeError, RuntimeError, ImportError, AssertionError),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """How the weights are to lie in memory."""

    device: str = AUTO  # auto: the accelerator if there is one
    device_map: str | Mapping[str, str | int] | None = None  # where which module goes, in transformers' words
    dtype: str = AUTO  # auto: as stored
    experts: str = AUTO  # name of transformers' implementation; auto: the fastest, see `diffusion_gemma`
    quantised: str = KEEP  # unpack: quantised weights are turned into plain ones of `dtype` while loading
    is_exact: bool = False  # see `diffusion_gemma.experts_implementation`
    threads: int = 0  # CPU threads of a forward pass, for the thread that loads; 0: torch's own choice


def place(folder: Path, config: Mapping[str, Any], options: LoadOptions) -> tuple[Any, Mapping[str, Any]]:
    """The model of a folder with this config.json, and what the library found missing or too much. Raises
    CheckpointBroken, CheckpointForeign where a quantisation cannot be loaded here, BadSetting for the options."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import DiffusionGemmaForBlockDiffusion
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()  # what it would warn of is checked by the loader, and then refused
    quantisation = quantisation_of(config)
    device = _device(options.device)
    _check_experts(options)
    kwargs = _placement(options, device, quantisation)
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
        raise _translated(error, folder, quantisation, options) from error
    if "device_map" not in kwargs:
        model = model.to(device)
    _refuse_scattered(model)
    return model, found


def plain_config(config: Mapping[str, Any]) -> Any:
    """The library's config, without any word of quantisation. Raises what the library raises for a wrong one."""
    from transformers import DiffusionGemmaConfig
    from transformers.utils import logging

    logging.set_verbosity_error()
    return DiffusionGemmaConfig.from_dict({key: value for key, value in config.items() if key != "quantization_config"})


def meta_model(config: Any) -> Any:
    """The model of a config of the library, on the meta device: its shapes without a byte of weights."""
    from transformers import DiffusionGemmaForBlockDiffusion

    with torch.device("meta"):
        return DiffusionGemmaForBlockDiffusion(config)


def first_line(error: BaseException) -> str:
    """The first line of an error: libraries append advice of several paragraphs."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _device(name: str) -> torch.device:
    if name == AUTO:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise BadSetting(f"--device {name}: not to be had here: {first_line(error)}") from error
    return device


def _check_experts(options: LoadOptions) -> None:
    from transformers.integrations.finegrained_fp8 import ALL_FP8_EXPERTS_FUNCTIONS
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    if options.experts == AUTO:
        return
    if options.is_exact:
        raise BadSetting(f"--experts {options.experts}: exact mode has an implementation of its own")
    available = {"eager", *ALL_EXPERTS_FUNCTIONS.keys(), *ALL_FP8_EXPERTS_FUNCTIONS.keys()}
    known = sorted(name for name in available if not name.startswith(CUSTOM_PREFIX))
    if options.experts not in known:
        raise BadSetting(f"--experts {options.experts}: not one of {', '.join([AUTO, *known])}")


def _placement(options: LoadOptions, device: torch.device, quantisation: Quantisation | None) -> dict[str, Any]:
    """Quantised weights go to their device while they load: some methods cannot be moved afterwards."""
    if options.device_map is not None:
        kwargs: Any = options.device_map if isinstance(options.device_map, str) else dict(options.device_map)
    elif quantisation is not None and device.type != "cpu":
        kwargs = {"": device}
    else:
        return {}
    try:
        importlib.import_module("accelerate")
    except ImportError:
        raise BadSetting("--device-map: placing weights module by module needs accelerate: not installed") from None
    return {"device_map": kwargs}


def _as_config_says(folder: Path, quantisation: Quantisation | None, options: LoadOptions) -> dict[str, Any]:
    """A quantisation is passed through as it is; only `unpack` adds a word."""
    from transformers import DiffusionGemmaConfig, __version__
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    named: dict[str, Any] = {} if options.experts == AUTO else {"experts_implementation": options.experts}
    if quantisation is None:
        return named
    if quantisation.method not in AUTO_QUANTIZATION_CONFIG_MAPPING and quantisation.method != "bitsandbytes":
        raise CheckpointForeign(
            f"{folder}: quantised by {quantisation.method!r}, which transformers {__version__} does not know"
        )
    if options.quantised == UNPACK:
        config = DiffusionGemmaConfig.from_pretrained(folder)
        holder = config if hasattr(config, "quantization_config") else config.text_config
        holder.quantization_config = {**holder.quantization_config, "dequantize": True}
        named["config"] = config
    return named


def _translated(
    error: Exception, folder: Path, quantisation: Quantisation | None, options: LoadOptions
) -> BadSetting | CheckpointBroken | CheckpointForeign:
    if quantisation is None and options.device_map is not None:
        return BadSetting(f"--device-map: {first_line(error)}")
    if quantisation is None:
        return CheckpointBroken(f"{folder}: {first_line(error)}")
    hint = "" if options.quantised == UNPACK else "; `--quantised unpack` may load it as plain weights"
    if isinstance(error, ImportError):
        hint = ""
    return CheckpointForeign(f"{folder}: quantised by {quantisation.method!r}: {first_line(error)}{hint}")


def _refuse_scattered(model: Any) -> None:
    """Contexts are kept on one device, where all layers of text must be; the tower for images may lie anywhere."""
    devices = {str(weight.device) for name, weight in model.named_parameters() if not name.startswith(VISION_MODULES)}
    if len(devices) > 1 or "meta" in devices:
        raise BadSetting(
            f"--device-map: the layers of text must lie on one device, not on {', '.join(sorted(devices))}"
        )
