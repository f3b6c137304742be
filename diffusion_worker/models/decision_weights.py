"""Reads the weights that a checkpoint has for decisions alone: `decision_weights.safetensors`.

The file holds tensors under the names of the model's own. In passes that fill a canvas template they take the place of
these, as a merged adapter would; every other pass computes what it computes without the file.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from diffusion_worker.errors import CheckpointBroken
from diffusion_worker.models.packed_checkpoint import packed_matrices

DECISION_WEIGHTS = "decision_weights.safetensors"


def read_decision_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of a folder; empty without the file. Raises CheckpointBroken."""
    file = folder / DECISION_WEIGHTS
    if not file.is_file():
        return {}
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise CheckpointBroken(f"{file}: {error}") from error


def with_weights(model: Any, tensors: Mapping[str, torch.Tensor], folder: Path) -> Any:
    """A copy of `model` with these tensors in place of its own; both share all others. Raises CheckpointBroken for
    names and shapes that the model does not have."""
    own = dict(model.named_parameters(remove_duplicate=False))  # tied weights have several names
    for name, tensor in tensors.items():
        if name not in own:
            raise CheckpointBroken(f"{folder / DECISION_WEIGHTS}: {name}: not a weight of this model, or a packed one")
        if own[name].shape != tensor.shape:
            shapes = f"{tuple(tensor.shape)}, not {tuple(own[name].shape)}"
            raise CheckpointBroken(f"{folder / DECISION_WEIGHTS}: {name}: wrong shape: {shapes}")
    replaced = {id(own[name]) for name in tensors}
    kept = (*own.values(), *model.buffers(), *packed_matrices(model))
    shared = {id(each): each for each in kept if id(each) not in replaced}
    found = copy.deepcopy(model, shared)
    with torch.no_grad():
        for name, weight in found.named_parameters(remove_duplicate=False):
            if name in tensors:
                weight.copy_(tensors[name])
    return found
