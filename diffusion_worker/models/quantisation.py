"""Parses the quantisation declared in a config.json: method, bits per weight and excluded modules.

Supports the declarations of compressed-tensors, fp8, bitsandbytes, gptq, awq, mxfp4 and modelopt. Whether a method can
be loaded is decided in `placement`.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_OUT = ("modules_to_not_convert", "ignore", "exclude_modules", "llm_int8_skip_modules")
# Bits per weight, where the method or its variant determines them.
_BITS = {"fp8": 8, "mxfp8": 8, "fbgemm_fp8": 8, "mxfp4": 4, "nvfp4": 4, "bitnet": 2}
_SCALE_BITS = {"nvfp4": 8, "mxfp4": 8, "mxfp8": 8}  # others have scales of 16 or 32 bits, counted as 16
_GROUPS = {"nvfp4": 16, "mxfp4": 32, "mxfp8": 32}  # weights that share a scale


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantisation:
    """A declared quantisation. `bits` per weight include the scales; None if not declared."""

    method: str
    bits: float | None
    left_out: tuple[str, ...] = ()  # module names, parts of names, or `re:` and a pattern
    stays_packed: bool = False  # in memory, see `packed`
    block: tuple[int, int] | None = None  # rows and columns that share a scale, if declared

    def covers(self, name: str) -> bool:
        """Whether the named weight is quantised: a matrix of a linear layer or of the experts that is not excluded."""
        is_matrix = name.endswith(("proj.weight", "linear.weight", ".gate_up_proj", ".down_proj"))
        return is_matrix and not any(_matches(pattern, name) for pattern in self.left_out)


def quantisation_of(config: Mapping[str, Any]) -> Quantisation | None:
    """The quantisation of a config.json, or None if its weights are not quantised."""
    text, quantisation = config.get("text_config"), config.get("quantization_config")
    if quantisation is None and isinstance(text, dict):
        quantisation = text.get("quantization_config")
    if not isinstance(quantisation, dict):
        return None
    method = str(quantisation.get("quant_method") or "unnamed")
    left_out = tuple(name for key in _OUT for name in _names(quantisation.get(key)))
    kind = _kind(quantisation, method)
    own, group = _bits(quantisation, kind), _group(quantisation) or _GROUPS.get(kind)
    scale = _SCALE_BITS.get(kind, 16) / group if group else 0.0
    bits = None if own is None else own + scale
    return Quantisation(
        method=method,
        bits=bits,
        left_out=left_out,
        stays_packed=_stays_packed(quantisation, kind),
        block=_block(quantisation),
    )


def _names(declared: object) -> tuple[str, ...]:
    if isinstance(declared, str):
        return (declared,)
    return tuple(map(str, declared)) if isinstance(declared, list) else ()


def _kind(quantisation: Mapping[str, Any], method: str) -> str:
    """The variant: compressed-tensors declares it in `format`, modelopt in `quant_algo`."""
    named = f"{quantisation.get('format', '')} {quantisation.get('quant_algo', '')} {method}".lower()
    return next((kind for kind in ("nvfp4", "mxfp4", "mxfp8") if kind in named), method)


def _stays_packed(quantisation: Mapping[str, Any], kind: str) -> bool:
    if kind == "nvfp4" or quantisation.get("format") == "float-quantized":
        return True
    return kind == "fp8" or str(quantisation.get("quant_algo", "")).lower().startswith("fp8")


def _bits(quantisation: Mapping[str, Any], kind: str) -> int | None:
    known: list[Any] = [weights.get("num_bits") for weights in _weight_groups(quantisation)]
    known += [quantisation.get("bits"), quantisation.get("w_bit"), quantisation.get("num_bits"), _BITS.get(kind)]
    known += [4 if quantisation.get("load_in_4bit") else None, 8 if quantisation.get("load_in_8bit") else None]
    known += [8 if "fp8" in str(quantisation.get("quant_algo", "")).lower() else None]
    return next((int(bits) for bits in known if isinstance(bits, int) and 1 <= bits <= 16), None)


def _group(quantisation: Mapping[str, Any]) -> int | None:
    if block := _block(quantisation):
        return block[0] * block[1]
    known = [*(weights.get("group_size") for weights in _weight_groups(quantisation)), quantisation.get("group_size")]
    return next((int(size) for size in known if isinstance(size, int) and size > 0), None)


def _block(quantisation: Mapping[str, Any]) -> tuple[int, int] | None:
    """Fine-grained FP8 declares it for all weights, compressed-tensors for a group of them."""
    declared = [quantisation.get("weight_block_size")]
    declared += [weights.get("block_structure") for weights in _weight_groups(quantisation)]
    for block in declared:
        if isinstance(block, list) and len(block) == 2 and all(isinstance(side, int) and side > 0 for side in block):
            return block[0], block[1]
    return None


def _weight_groups(quantisation: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    groups = quantisation.get("config_groups")
    for group in groups.values() if isinstance(groups, dict) else ():
        weights = group.get("weights") if isinstance(group, dict) else None
        if isinstance(weights, dict):
            yield weights


def _matches(pattern: str, name: str) -> bool:
    if pattern.startswith("re:"):
        return re.match(pattern.removeprefix("re:"), name) is not None
    return pattern.replace("*", "") in name
