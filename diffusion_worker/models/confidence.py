"""Reads what a checkpoint declares about the confidence of its answers: weights in config.json, and a prompt head.

`config.json` may contain `twolane_confidence`: {mode: {"intercept": number, "weights": {measurement: number}}}; see
`types.confidence`. `prompt_head.safetensors` holds a network with one hidden layer that predicts the next prompt token
from the hidden states of the causal pass, for checkpoints whose own head was not trained on prompts.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.nn import functional as nnf

from diffusion_worker.errors import CheckpointBroken
from diffusion_worker.models.checkpoint_source import CONFIG
from diffusion_worker.types.confidence import ConfidenceWeights
from diffusion_worker.types.requests import DecodingMode

CONFIDENCE_KEY = "twolane_confidence"
PROMPT_HEAD = "prompt_head.safetensors"


class PromptHead:
    """Logits of the next prompt token: down(gelu(up(hidden)))."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], device: torch.device) -> None:
        up, up_bias, down, down_bias = (
            tensors[name].to(device, torch.float32) for name in ("up.weight", "up.bias", "down.weight", "down.bias")
        )
        self.up, self.up_bias, self.down, self.down_bias = up, up_bias, down, down_bias

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """fp32 logits [..., vocab] from hidden states [..., hidden]."""
        inner = nnf.gelu(nnf.linear(hidden.float(), self.up, self.up_bias))
        return nnf.linear(inner, self.down, self.down_bias)


def read_confidence(folder: Path, config: Mapping[str, Any]) -> dict[DecodingMode, ConfidenceWeights]:
    """The weights of each decoding mode; empty without the key. Raises CheckpointBroken."""
    declared = config.get(CONFIDENCE_KEY, {})
    try:
        return {
            DecodingMode(mode): ConfidenceWeights(
                intercept=float(each["intercept"]),
                weights={str(name): float(weight) for name, weight in each["weights"].items()},
            )
            for mode, each in declared.items()
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointBroken(f"{folder / CONFIG}: {CONFIDENCE_KEY}: {error!r}") from error


def read_prompt_head(folder: Path, *, hidden_size: int, vocab_size: int, device: torch.device) -> PromptHead | None:
    """The prompt head of a folder, None if it has none. Raises CheckpointBroken if its shapes do not fit the model."""
    file = folder / PROMPT_HEAD
    if not file.is_file():
        return None
    try:
        head = PromptHead(load_file(file), device)
    except (SafetensorError, OSError, KeyError) as error:
        raise CheckpointBroken(f"{file}: {error}") from error
    inner = len(head.up_bias)
    shapes = [tuple(each.shape) for each in (head.up, head.up_bias, head.down, head.down_bias)]
    if shapes != [(inner, hidden_size), (inner,), (vocab_size, inner), (vocab_size,)]:
        raise CheckpointBroken(f"{file}: weights of the wrong shape for this config.json: {shapes}")
    return head
