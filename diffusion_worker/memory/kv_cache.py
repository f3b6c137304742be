"""The KV cache: keys and values of contexts in preallocated slots, and the views through which layers access them.

Slots are numbers here; `memory.slots` decides who owns them and passes the number of tokens that each holds. A slot
changes only in `seal`, `copy`, `zero` and `reset`, so a failed pass leaves no trace. The views have the attributes that
transformers' layers expect of a cache, and hold masks and positions of one pass over rows of different lengths. Padding
is on the right. What depends on lengths alone is computed on the host, so no view waits for the device.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from diffusion_worker.memory.budget import tokens_kept
from diffusion_worker.memory.lifecycle import release_cached
from diffusion_worker.models.device_errors import is_out_of_memory
from diffusion_worker.models.host_to_device import upload
from diffusion_worker.models.interface import FULL, SLIDING
from diffusion_worker.types.model_info import LayerKv


class CacheDamaged(Exception):  # noqa: N818 - as in `errors`
    """Writing to slots failed halfway: their contents are unknown, so that the pass must not be repeated."""


class KvCache:
    """`keys[layer]`, `values[layer]`: [slots or more, heads, tokens kept, head_dim].

    The context token at position p is stored at index p % capacity. Keys carry their rotary position and softmax does
    not depend on order, so a sliding-window layer is a ring buffer: its valid entries are those below
    min(length, capacity), whether it has wrapped or not.
    """

    def __init__(
        self, layers: Sequence[LayerKv], *, slots: int, slot_tokens: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.layers = tuple(layers)
        self.slot_tokens = slot_tokens
        self.capacities = tuple(tokens_kept(layer, slot_tokens) for layer in layers)
        shapes = [(slots, y.heads, kept, y.head_dim) for y, kept in zip(layers, self.capacities, strict=True)]
        # Zeros, not empty: masked entries still enter the product 0 * x and must be finite.
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for shape in shapes]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for shape in shapes]
        self.device = device
        self._slots = slots
        self._last_view: tuple[object, CanvasView] | None = None

    @property
    def slots(self) -> int:
        """Number of slots."""
        return self._slots

    @property
    def allocated_bytes(self) -> int:
        """Bytes of all slots."""
        return sum(store.numel() * store.element_size() for store in (*self.keys, *self.values))

    def prefill_view(
        self, slots: Sequence[int], lengths: Sequence[int], counts: Sequence[int], *, width: int = 0
    ) -> "PrefillView":
        """A view for a causal pass over `counts[i]` new tokens after `lengths[i]` cached ones in `slots[i]`, padded to
        the longest row, and to at least `width`; see `seal`. Raises ValueError if they exceed a slot."""
        self.check_room(lengths, counts)
        self._last_view = None  # `seal` drops it in any case: the pass can use its memory
        return PrefillView(self, slots=tuple(slots), lengths=tuple(lengths), counts=tuple(counts), width=width)

    def check_room(self, lengths: Sequence[int], counts: Sequence[int]) -> None:
        """Raise ValueError if `counts[i]` tokens after `lengths[i]` exceed a slot."""
        for have, more in zip(lengths, counts, strict=True):
            if have + more > self.slot_tokens:
                raise ValueError(f"{more} tokens after {have} exceed the slot size of {self.slot_tokens}")

    def kind_of(self, layer: int) -> str:
        """The type of a layer."""
        return _kind(self.layers[layer])

    def seal(self, view: "NewContext", counts: Sequence[int] | None = None) -> None:
        """Write the tokens of a finished pass into their slots: all, or the first `counts[i]` of each row. A ring
        buffer cannot be rolled back, so tokens that may be wrong must not be written. Raises CacheDamaged if it fails
        halfway: a ring buffer has then lost old entries."""
        self._last_view = None
        try:
            view.write(counts)
        except Exception as error:  # of any kind: part of the tokens may be written
            raise CacheDamaged(f"writing to the KV cache failed: {error}") from error
        self._last_view = view.kept_canvases

    def canvas_view(
        self,
        slots: Sequence[int],
        lengths: Sequence[int],
        canvas_length: int,
        *,
        canvases: Sequence[int] | None = None,
        bucket: int | None = None,
    ) -> "CanvasView":
        """The context that canvases on these slots attend to. `canvases`: the length of each before its padding to
        `canvas_length` (None: no padding). The last view is reused until a slot, a length or any content changes."""
        return self.keyed_canvas_view(slots, lengths, canvas_length, canvases=canvases, bucket=bucket)[1]

    def keyed_canvas_view(
        self,
        slots: Sequence[int],
        lengths: Sequence[int],
        canvas_length: int,
        *,
        canvases: Sequence[int] | None = None,
        bucket: int | None = None,
        is_new: bool = False,
    ) -> "tuple[object, CanvasView]":
        """The same with what it depends on. `is_new`: tokens that are not in the slots yet will be written to the view;
        it is not reused before they are sealed."""
        key = (tuple(slots), tuple(lengths), canvas_length, tuple(canvases or ()), bucket)
        if self._last_view is not None and self._last_view[0] == key and not is_new:
            return self._last_view
        self._last_view = None  # before the new one is made: a view of gathered slots is as large as their contexts
        true = key[3] or (canvas_length,) * len(key[0])
        view = CanvasView(self, slots=key[0], lengths=key[1], canvases=true, width=canvas_length, bucket=bucket)
        self._last_view = None if is_new else (key, view)
        return key, view

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Copy the first `tokens` tokens of `source` to `target`. A ring buffer that has wrapped can only be copied at
        its current length; `memory.slots` ensures that."""
        for store, capacity in zip((*self.keys, *self.values), (*self.capacities, *self.capacities), strict=True):
            count = min(tokens, capacity)
            store[target, :, :count] = store[source, :, :count]
        self._last_view = None

    def zero(self, slot: int) -> None:
        """Zero a slot: after a fault it may hold NaN, which no mask hides."""
        for store in (*self.keys, *self.values):
            store[slot].zero_()
        self._last_view = None

    def reset(self) -> None:
        """Zero all slots: after a failed step their contents are unknown."""
        self._last_view = None
        for store in (*self.keys, *self.values):
            store.zero_()

    def resize(self, slots: int) -> None:
        """Keep the first `slots` slots, or add empty ones: all or nothing. If memory runs out while slots are added,
        the number stays what it was, see `slots`; dropping slots always succeeds.

        Done layer by layer, so that at most one layer is allocated twice. A layer may temporarily have more slots than
        `slots`, which nothing reaches; it never has fewer.
        """
        self._last_view = None
        before, self._slots = self._slots, min(slots, self._slots)
        if slots > before and self._grow(slots):
            self._slots = slots
        else:
            self._trim(self._slots)
        release_cached()

    def _grow(self, slots: int) -> bool:
        """Give every layer at least `slots` slots, the new ones empty; returns False if memory runs out."""
        for stores in (self.keys, self.values):
            for layer, store in enumerate(stores):
                try:
                    stores[layer] = _resized(store, slots, kept=self._slots)
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error):
                        raise
                    return False
        return True

    def _trim(self, slots: int) -> None:
        """Free the memory beyond `slots` slots, as far as there is memory for the copies of the kept ones."""
        for stores in (self.keys, self.values):
            for layer, store in enumerate(stores):
                try:
                    stores[layer] = _resized(store, slots, kept=slots)
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error):
                        raise
                    return


class NewContext(Protocol):
    """The tokens of a causal pass. `kept_canvases`: a view of canvases, with its key, that shows them already."""

    @property
    def kept_canvases(self) -> "tuple[object, CanvasView] | None": ...

    def write(self, counts: Sequence[int] | None = None) -> None:
        """Write them into their slots, or the first `counts[i]` of each row."""
        ...


class LayerView:
    """Cached keys and values of one layer [rows, heads, tokens, head_dim], in a buffer with room for a canvas."""

    __slots__ = ("_tokens", "buffers", "keys", "values")

    def __init__(
        self, stores: Sequence[torch.Tensor], index: slice | torch.Tensor, *, tokens: int, canvas: int
    ) -> None:
        self._tokens = tokens
        self.buffers = [_buffer(store, index, tokens, canvas) for store in stores]
        self.keys, self.values = (buffer[:, :, :tokens] for buffer in self.buffers)

    def joined(self, *canvas: torch.Tensor) -> list[torch.Tensor]:
        """Keys and values of context and canvas, whose own ones are written behind the context."""
        for buffer, new in zip(self.buffers, canvas, strict=True):
            buffer[:, :, self._tokens :] = new
        return self.buffers


class CanvasView:
    """Context of one step over several canvases. All positions of a canvas attend to the same context, in
    sliding-window layers the last window - 1 tokens; none attends to padding. `canvases` are the lengths of the
    canvases, which are padded on the right to `width`.

    `bucket` is the number of tokens that the view spans, at least those of the longest row; a constant one makes rows
    independent of each other (see `denoise.exact`).
    """

    is_compileable = False  # makes the library's layers concatenate
    runs_fused = True  # see `models.fused_layers`

    def __init__(
        self,
        store: "KvCache",
        *,
        slots: tuple[int, ...],
        lengths: tuple[int, ...],
        canvases: tuple[int, ...],
        width: int,
        bucket: int | None = None,
    ) -> None:
        kept = [min(bucket or max(lengths), capacity) for capacity in store.capacities]
        index = _slot_index(slots, store.device)
        self.layers = [
            LayerView((store.keys[layer], store.values[layer]), index, tokens=count, canvas=width)
            for layer, count in enumerate(kept)
        ]
        true = upload(lengths, store.device)
        place = torch.arange(width, device=store.device)
        self.positions = true[:, None] + place  # [rows, canvas]
        is_whole = bucket is None and min(canvases) == width
        is_text = place < upload(canvases, store.device)[:, None]  # [rows, canvas]
        self.masks = {
            kind: None
            if is_whole and _all_full(lengths, kept[layer], store.capacities[layer])
            else _canvas_mask(true.clamp(max=store.capacities[layer]), kept[layer], is_text)
            for kind, layer in kinds_of(store.layers).items()
        }

    def joined(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> list[torch.Tensor]:
        """Keys and values [rows, heads, tokens + canvas, head_dim] that a layer attends to, for those of the canvas
        [rows, heads, canvas, head_dim]."""
        return self.layers[layer].joined(keys, values)


class PrefillView:
    """A ragged causal pass: row i appends counts[i] tokens, padded to the longest, after lengths[i] tokens."""

    is_compileable = False
    runs_fused = True
    kept_canvases = None

    def __init__(
        self,
        store: "KvCache",
        *,
        slots: tuple[int, ...],
        lengths: tuple[int, ...],
        counts: tuple[int, ...],
        width: int = 0,
    ) -> None:
        self.slots, self.lengths, self.counts = slots, lengths, counts
        self._store = store
        self._index = _slot_index(slots, store.device)
        self._longest = max(lengths)
        self._width = max(*counts, width)
        self._true = upload(lengths, store.device)
        self.positions = self._true[:, None] + torch.arange(self._width, device=store.device)  # [rows, new]
        kinds = kinds_of(store.layers)
        # One token after equally long contexts attends to all that is cached: the common case of decoding.
        sees_all = self._width == 1 and len(set(lengths)) == 1
        self.masks = {kind: None if sees_all else self._mask(layer) for kind, layer in kinds.items()}
        self._fresh: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, **_attention: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Hold the new tokens' keys and values [rows, heads, new, head_dim]; returns cached and new ones, to attend
        to."""
        self._fresh[layer_idx] = keys, values
        kept = min(self._longest, self._store.capacities[layer_idx])
        old_keys = _rows(self._store.keys[layer_idx], self._index, kept)
        old_values = _rows(self._store.values[layer_idx], self._index, kept)
        return torch.cat([old_keys, keys], dim=2), torch.cat([old_values, values], dim=2)

    def write(self, counts: Sequence[int] | None = None) -> None:
        """Write the new tokens into the slots, or the first `counts[i]` of each row. Only after the pass: in a ring
        buffer they overwrite old context, and a pass that fails halfway must leave the slots unchanged."""
        written = self.counts if counts is None else counts
        targets = {kind: self._write_targets(layer, written) for kind, layer in kinds_of(self._store.layers).items()}
        for layer, (keys, values) in self._fresh.items():
            slot, row, token, index = targets[_kind(self._store.layers[layer])]
            self._store.keys[layer][slot, :, index] = keys[row, :, token]
            self._store.values[layer][slot, :, index] = values[row, :, token]

    def _mask(self, layer: int) -> torch.Tensor:
        """Mask [rows, 1, new, kept + new] over (cached context, new tokens) for each new token."""
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

    def _write_targets(self, layer: int, counts: Sequence[int]) -> torch.Tensor:
        """(slot, row, new token, ring index) [4, tokens] of every written token that the layer keeps."""
        firsts = [row * self._width for row in range(len(self.slots))]
        rows = list(zip(self.slots, self.lengths, counts, firsts, strict=True))
        slot, token, index = write_targets(rows, self._store.capacities[layer])
        return upload(torch.stack([slot, token // self._width, token % self._width, index]), self._store.device)


def write_targets(rows: Sequence[tuple[int, int, int, int]], capacity: int) -> torch.Tensor:
    """(target, new token, ring index) [3, tokens] on the host, for rows of (target, cached tokens, new tokens, number
    of the first new token): the last `capacity` tokens of each row, so that no ring entry is written twice."""
    parts = []
    for target, length, count, first in rows:
        token = torch.arange(max(0, count - capacity), count)
        index = torch.remainder(length + token, capacity)
        parts.append(torch.stack([torch.full_like(token, target), first + token, index]))
    return torch.cat(parts, dim=1)


def _resized(store: torch.Tensor, slots: int, *, kept: int) -> torch.Tensor:
    """A store of `slots` slots with the first `kept` of this one; the others are zero."""
    if len(store) == slots:
        store[kept:].zero_()
        return store
    resized = store.new_zeros((slots, *store.shape[1:]))
    resized[:kept] = store[:kept]
    return resized


def _all_full(lengths: tuple[int, ...], kept: int, capacity: int) -> bool:
    return all(min(length, capacity) == kept for length in lengths)


def _canvas_mask(valid: torch.Tensor, kept: int, is_text: torch.Tensor) -> torch.Tensor:
    """Mask [rows, 1, 1, kept + canvas], the same for every position of a canvas."""
    context = torch.arange(kept, device=valid.device) < valid[:, None]
    return torch.cat([context, is_text], dim=1)[:, None, None]


def _slot_index(slots: tuple[int, ...], device: torch.device) -> slice | torch.Tensor:
    """Index of these slots: a slice if they are consecutive, which avoids a copy."""
    if slots == tuple(range(slots[0], slots[0] + len(slots))):
        return slice(slots[0], slots[0] + len(slots))
    return upload(slots, device)


def _buffer(stored: torch.Tensor, index: slice | torch.Tensor, tokens: int, canvas: int) -> torch.Tensor:
    """A copy of stored rows, with room for a canvas behind them."""
    rows = _rows(stored, index, tokens)
    buffer = rows.new_empty((*rows.shape[:2], tokens + canvas, rows.shape[3]))
    buffer[:, :, :tokens] = rows
    return buffer


def _rows(stored: torch.Tensor, index: slice | torch.Tensor, count: int) -> torch.Tensor:
    """Stored rows [rows, heads, count, head_dim]."""
    return stored[:, :, :count][index]


def _kind(layer: LayerKv) -> str:
    return FULL if layer.window is None else SLIDING


def kinds_of(layers: Sequence[LayerKv]) -> dict[str, int]:
    """Layer type -> index of one such layer; layers of one type share window and masks."""
    return {_kind(layer): index for index, layer in enumerate(layers)}
