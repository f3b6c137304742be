"""Keys and values of contexts, in preallocated slots: appended to, read, copied, wiped, and made fewer or more.

Knows slots by number and is told how many tokens each holds; who owns a slot, and what its tokens mean, is decided in
`memory.slots`. A slot changes only in `seal`, `copy` and `zero`: a pass that fails leaves no trace.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from diffusion_worker.memory.budget import tokens_kept
from diffusion_worker.models.host_to_device import upload
from diffusion_worker.models.interface import FULL, SLIDING
from diffusion_worker.types.model_info import LayerKv


class KvCache:
    """`keys[layer]`, `values[layer]`: [slots, heads, tokens kept, head_dim].

    The context token at position p lives at index p % capacity. Keys carry their rotary position and softmax is
    order-free, so a sliding layer is a ring and reads the same whether it is full or still filling: the valid entries
    are exactly those below min(length, capacity).
    """

    def __init__(
        self, layers: Sequence[LayerKv], *, slots: int, slot_tokens: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.layers = tuple(layers)
        self.slot_tokens = slot_tokens
        self.capacities = tuple(tokens_kept(layer, slot_tokens) for layer in layers)
        shapes = [(slots, y.heads, kept, y.head_dim) for y, kept in zip(layers, self.capacities, strict=True)]
        # Zeros, not empty: entries that a mask hides still enter the product 0 * x and must be finite.
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for shape in shapes]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for shape in shapes]
        self.device = device
        self._last_view: tuple[object, CanvasView] | None = None

    @property
    def slots(self) -> int:
        """How many there are."""
        return len(self.keys[0])

    def prefill_view(self, slots: Sequence[int], lengths: Sequence[int], counts: Sequence[int]) -> "PrefillView":
        """A view that a causal pass over `counts[i]` new tokens behind `lengths[i]` old ones in `slots[i]` writes
        through; see `seal`. Raises ValueError where a slot cannot hold them."""
        for have, more in zip(lengths, counts, strict=True):
            if have + more > self.slot_tokens:
                raise ValueError(f"{more} tokens after {have} exceed a slot of {self.slot_tokens}")
        return PrefillView(self, slots=tuple(slots), lengths=tuple(lengths), counts=tuple(counts))

    def seal(self, view: "PrefillView") -> None:
        """Make what was written through the view part of the context."""
        view.write()
        self._last_view = None

    def canvas_view(
        self, slots: Sequence[int], lengths: Sequence[int], canvas_length: int, *, bucket: int | None = None
    ) -> "CanvasView":
        """What canvases on these slots attend to; the last view is kept until a slot, a length or any content
        changes."""
        key = (tuple(slots), tuple(lengths), canvas_length, bucket)
        if self._last_view is None or self._last_view[0] != key:
            view = CanvasView(self, slots=key[0], lengths=key[1], canvas_length=canvas_length, bucket=bucket)
            self._last_view = (key, view)
        return self._last_view[1]

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Let `target` hold the first `tokens` tokens of `source`. Of a ring that has wrapped only its present length
        can be copied; `memory.slots` asks for no other."""
        for store, capacity in zip((*self.keys, *self.values), (*self.capacities, *self.capacities), strict=True):
            count = min(tokens, capacity)
            store[target, :, :count] = store[source, :, :count]
        self._last_view = None

    def zero(self, slot: int) -> None:
        """Wipe a slot: after a fault it may hold NaN, which no mask can hide."""
        for store in (*self.keys, *self.values):
            store[slot].zero_()
        self._last_view = None

    def resize(self, slots: int) -> None:
        """Keep the lowest `slots` slots, or add empty ones behind. Layer by layer, so that never more than one layer is
        held twice; what is dropped is free memory at once."""
        self._last_view = None
        for stores in (self.keys, self.values):
            for layer, store in enumerate(stores):
                resized = store.new_zeros((slots, *store.shape[1:]))
                common = min(slots, len(store))
                resized[:common] = store[:common]
                stores[layer] = resized


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
        store: "KvCache",
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
        self, store: "KvCache", *, slots: tuple[int, ...], lengths: tuple[int, ...], counts: tuple[int, ...]
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
