"""What attention layers see of the cache: a view to append through and a view for canvases to read.

Both have the few attributes that the layers of transformers ask of a cache, and hold the masks and positions of one
pass over rows of different lengths. Pads stand right of the true tokens, so only writing has to skip them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from diffusion_worker.nets.interface import FULL, SLIDING
from diffusion_worker.records import LayerKv


class Store(Protocol):
    """The part of the cache that views need."""

    layers: tuple[LayerKv, ...]
    capacities: tuple[int, ...]
    keys: list[torch.Tensor]
    values: list[torch.Tensor]
    device: torch.device


@dataclass(slots=True)
class LayerView:
    """Context of one layer."""

    keys: torch.Tensor  # [rows, heads, tokens, head_dim]
    values: torch.Tensor


class CanvasView:
    """Context for one step of several canvases. Every position of a canvas sees the same context: of a sliding layer
    the last window - 1 tokens, however far right in the canvas it stands."""

    is_compileable = False  # tells the layers to concatenate; they never write here

    def __init__(self, store: Store, *, slots: tuple[int, ...], lengths: tuple[int, ...], canvas_length: int) -> None:
        kept = [min(max(lengths), capacity) for capacity in store.capacities]
        self.layers = [
            LayerView(keys=_rows(store.keys[index], slots, count), values=_rows(store.values[index], slots, count))
            for index, count in enumerate(kept)
        ]
        true = torch.tensor(lengths, device=store.device)
        self.positions = true[:, None] + torch.arange(canvas_length, device=store.device)  # [rows, canvas]
        self.masks = {
            kind: _canvas_mask(true.clamp(max=store.capacities[index]), kept[index], canvas_length)
            for kind, index in _kinds(store.layers).items()
        }


class AppendView:
    """A ragged causal pass: row i appends counts[i] tokens, padded to the longest, behind lengths[i] tokens."""

    is_compileable = False

    def __init__(
        self, store: Store, *, slots: tuple[int, ...], lengths: tuple[int, ...], counts: tuple[int, ...]
    ) -> None:
        self.slots, self.counts = slots, counts
        self._store = store
        self._longest = max(lengths)
        self._width = max(counts)
        new = torch.arange(self._width, device=store.device)
        self._true = torch.tensor(lengths, device=store.device)
        self.positions = self._true[:, None] + new  # [rows, new]
        self._is_real = new < torch.tensor(counts, device=store.device)[:, None]
        kinds = _kinds(store.layers)
        # One token behind equally long contexts sees all that is kept: the common case of reading left to right.
        sees_all = self._width == 1 and len(set(lengths)) == 1
        self.masks = {kind: None if sees_all else self._mask(index) for kind, index in kinds.items()}
        self._fresh: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def update(self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Remember the new tokens' [rows, heads, new, head_dim]; return old context and new tokens, to attend over."""
        self._fresh[layer_idx] = keys, values
        kept = min(self._longest, self._store.capacities[layer_idx])
        old_keys = _rows(self._store.keys[layer_idx], self.slots, kept)
        old_values = _rows(self._store.values[layer_idx], self.slots, kept)
        return torch.cat([old_keys, keys], dim=2), torch.cat([old_values, values], dim=2)

    def write(self) -> None:
        """Put the remembered tokens into the slots. Only now, when the pass is over: in a ring they overwrite old
        context, and a pass that failed halfway must leave the slots as they were."""
        targets = {kind: self._write_targets(index) for kind, index in _kinds(self._store.layers).items()}
        for layer, (keys, values) in self._fresh.items():
            slot, row, token, index = targets[_kind(self._store.layers[layer])]
            self._store.keys[layer][slot, :, index] = keys[row, :, token]
            self._store.values[layer][slot, :, index] = values[row, :, token]

    def _mask(self, layer: int) -> torch.Tensor:
        """Which of (kept context, new tokens) each new token sees: [rows, 1, new, kept + new]."""
        window = self._store.layers[layer].window or self._longest + self._width
        capacity = self._store.capacities[layer]
        index = torch.arange(min(self._longest, capacity), device=self._store.device)
        last = self._true[:, None] - 1
        held = last - torch.remainder(last - index, capacity)  # [rows, kept] position at each ring index, < 0 if empty
        context = (held >= 0)[:, None] & (self.positions[:, :, None] - held[:, None] < window)
        new = torch.arange(self._width, device=self._store.device)
        back = new[:, None] - new
        own = ((back >= 0) & (back < window)).expand(len(self.slots), -1, -1)
        return torch.cat([context, own], dim=2)[:, None]

    def _write_targets(self, layer: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """(slot, row, new token, ring index) of every true token that the layer keeps: the last `capacity` of each row,
        so that no ring entry is written twice."""
        capacity = self._store.capacities[layer]
        counts = self._is_real.sum(dim=1, keepdim=True)
        new = torch.arange(self._width, device=self._store.device)
        row, token = (self._is_real & (new >= counts - capacity)).nonzero(as_tuple=True)
        slot = torch.tensor(self.slots, device=self._store.device)[row]
        return slot, row, token, torch.remainder(self.positions[row, token], capacity)


def _canvas_mask(valid: torch.Tensor, kept: int, canvas_length: int) -> torch.Tensor | None:
    """[rows, 1, 1, kept + canvas]: the same for every position of a canvas. None if all rows are equally long."""
    if bool((valid == kept).all()):
        return None
    context = torch.arange(kept, device=valid.device) < valid[:, None]
    return torch.cat([context, context.new_ones(len(valid), canvas_length)], dim=1)[:, None, None]


def _rows(stored: torch.Tensor, slots: tuple[int, ...], count: int) -> torch.Tensor:
    """[rows, heads, count, head_dim]; no copy if the slots are neighbours."""
    first = slots[0]
    if slots == tuple(range(first, first + len(slots))):
        return stored[first : first + len(slots), :, :count]
    return stored[:, :, :count][torch.tensor(slots, device=stored.device)]


def _kind(layer: LayerKv) -> str:
    return FULL if layer.window is None else SLIDING


def _kinds(layers: Sequence[LayerKv]) -> dict[str, int]:
    """Kind of layer -> index of one such layer; layers of a kind share window and masks."""
    return {_kind(layer): index for index, layer in enumerate(layers)}
