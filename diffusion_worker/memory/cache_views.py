"""What attention layers see of the cache: a view to append through and a view for canvases to read.

Both have the few attributes that the layers of transformers ask of a cache, and hold the masks and positions of one
pass over rows of different lengths. Pads stand right of the true tokens, so only writing has to skip them. Whatever
depends on lengths alone is decided on the host, which knows them: no view makes it wait for the device.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from diffusion_worker.models.host_to_device import upload
from diffusion_worker.models.interface import FULL, SLIDING
from diffusion_worker.types.generation import LayerKv


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
    the last window - 1 tokens, however far right in the canvas it stands.

    `bucket` is how many tokens the view spans, at least the longest row's; where it does not depend on the rows, no
    row's numbers depend on its neighbours (see `denoise.exact`).
    """

    is_compileable = False  # tells the layers to concatenate; they never write here

    def __init__(
        self,
        store: Store,
        *,
        slots: tuple[int, ...],
        lengths: tuple[int, ...],
        canvas_length: int,
        bucket: int | None = None,
    ) -> None:
        kept = [min(bucket or max(lengths), capacity) for capacity in store.capacities]
        index = _slot_index(slots, store.device)
        self.layers = [
            LayerView(keys=_rows(store.keys[layer], index, count), values=_rows(store.values[layer], index, count))
            for layer, count in enumerate(kept)
        ]
        true = upload(lengths, store.device)
        self.positions = true[:, None] + torch.arange(canvas_length, device=store.device)  # [rows, canvas]
        self.masks = {
            kind: None
            if bucket is None and _all_full(lengths, kept[layer], store.capacities[layer])
            else _canvas_mask(true.clamp(max=store.capacities[layer]), kept[layer], canvas_length)
            for kind, layer in _kinds(store.layers).items()
        }


class PrefillView:
    """A ragged causal pass: row i appends counts[i] tokens, padded to the longest, behind lengths[i] tokens."""

    is_compileable = False

    def __init__(
        self, store: Store, *, slots: tuple[int, ...], lengths: tuple[int, ...], counts: tuple[int, ...]
    ) -> None:
        self.slots, self.lengths, self.counts = slots, lengths, counts
        self._store = store
        self._index = _slot_index(slots, store.device)
        self._longest = max(lengths)
        self._width = max(counts)
        self._true = upload(lengths, store.device)
        self.positions = self._true[:, None] + torch.arange(self._width, device=store.device)  # [rows, new]
        kinds = _kinds(store.layers)
        # One token behind equally long contexts sees all that is kept: the common case of reading left to right.
        sees_all = self._width == 1 and len(set(lengths)) == 1
        self.masks = {kind: None if sees_all else self._mask(layer) for kind, layer in kinds.items()}
        self._fresh: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, **_attention: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Remember the new tokens' [rows, heads, new, head_dim]; return old context and new tokens, to attend over."""
        self._fresh[layer_idx] = keys, values
        kept = min(self._longest, self._store.capacities[layer_idx])
        old_keys = _rows(self._store.keys[layer_idx], self._index, kept)
        old_values = _rows(self._store.values[layer_idx], self._index, kept)
        return torch.cat([old_keys, keys], dim=2), torch.cat([old_values, values], dim=2)

    def write(self) -> None:
        """Put the remembered tokens into the slots. Only now, when the pass is over: in a ring they overwrite old
        context, and a pass that failed halfway must leave the slots as they were."""
        targets = {kind: self._write_targets(layer) for kind, layer in _kinds(self._store.layers).items()}
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

    def _write_targets(self, layer: int) -> torch.Tensor:
        """(slot, row, new token, ring index) [4, tokens] of every true token that the layer keeps: the last `capacity`
        of each row, so that no ring entry is written twice."""
        capacity = self._store.capacities[layer]
        parts = []
        for row, (slot, length, count) in enumerate(zip(self.slots, self.lengths, self.counts, strict=True)):
            token = torch.arange(max(0, count - capacity), count)
            index = torch.remainder(length + token, capacity)
            parts.append(torch.stack([torch.full_like(token, slot), torch.full_like(token, row), token, index]))
        return upload(torch.cat(parts, dim=1), self._store.device)


def _all_full(lengths: tuple[int, ...], kept: int, capacity: int) -> bool:
    return all(min(length, capacity) == kept for length in lengths)


def _canvas_mask(valid: torch.Tensor, kept: int, canvas_length: int) -> torch.Tensor:
    """[rows, 1, 1, kept + canvas]: the same for every position of a canvas."""
    context = torch.arange(kept, device=valid.device) < valid[:, None]
    return torch.cat([context, context.new_ones(len(valid), canvas_length)], dim=1)[:, None, None]


def _slot_index(slots: tuple[int, ...], device: torch.device) -> slice | torch.Tensor:
    """How to pick these slots: a range if they are neighbours, which copies nothing."""
    if slots == tuple(range(slots[0], slots[0] + len(slots))):
        return slice(slots[0], slots[0] + len(slots))
    return upload(slots, device)


def _rows(stored: torch.Tensor, index: slice | torch.Tensor, count: int) -> torch.Tensor:
    """[rows, heads, count, head_dim]."""
    return stored[:, :, :count][index]


def _kind(layer: LayerKv) -> str:
    return FULL if layer.window is None else SLIDING


def _kinds(layers: Sequence[LayerKv]) -> dict[str, int]:
    """Kind of layer -> index of one such layer; layers of a kind share window and masks."""
    return {_kind(layer): index for index, layer in enumerate(layers)}
