"""Keys and values of contexts, in preallocated slots: appended to, read, copied, wiped, and made fewer or more.

Knows slots by number and is told how many tokens each holds; who owns a slot, and what its tokens mean, is decided in
`memory.slots`. A slot changes only in `seal`, `copy` and `zero`: a pass that fails leaves no trace.
"""

from collections.abc import Sequence

import torch

from diffusion_worker.memory.budget import tokens_kept
from diffusion_worker.memory.cache_views import CanvasView, PrefillView
from diffusion_worker.types.generation import LayerKv


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

    def appending(self, slots: Sequence[int], lengths: Sequence[int], counts: Sequence[int]) -> PrefillView:
        """A view that a causal pass over `counts[i]` new tokens behind `lengths[i]` old ones in `slots[i]` writes
        through; see `seal`. Raises ValueError where a slot cannot hold them."""
        for have, more in zip(lengths, counts, strict=True):
            if have + more > self.slot_tokens:
                raise ValueError(f"{more} tokens after {have} exceed a slot of {self.slot_tokens}")
        return PrefillView(self, slots=tuple(slots), lengths=tuple(lengths), counts=tuple(counts))

    def seal(self, view: PrefillView) -> None:
        """Make what was written through the view part of the context."""
        view.write()
        self._last_view = None

    def decoding_mode(
        self, slots: Sequence[int], lengths: Sequence[int], canvas_length: int, *, bucket: int | None = None
    ) -> CanvasView:
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
