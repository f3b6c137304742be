"""Keys and values of every running sequence, in preallocated slots with true lengths.

A slot belongs to one sequence at a time and changes only in `seal`: a pass that fails leaves no trace. Knows tensors
and lengths, not what the ids mean.
"""

from collections.abc import Sequence

import torch

from diffusion_worker.memory.budget import context_bytes, tokens_kept
from diffusion_worker.memory.views import AppendView, CanvasView
from diffusion_worker.records import LayerKv, SequenceId


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
        self.allocated_bytes = slots * context_bytes(layers, slot_tokens, dtype.itemsize)
        self._lengths = [0] * slots
        self._free = list(range(slots))
        self._slot_of: dict[SequenceId, int] = {}
        self._last_view: tuple[object, CanvasView] | None = None

    def __contains__(self, sequence: SequenceId) -> bool:
        return sequence in self._slot_of

    def open(self, sequence: SequenceId) -> None:
        """Give the sequence an empty slot; the lowest free one, so that running slots stay neighbours."""
        slot = self._free.pop(0)
        self._slot_of[sequence] = slot
        self._lengths[slot] = 0

    def length(self, sequence: SequenceId) -> int:
        """Context tokens sealed so far."""
        return self._lengths[self._slot_of[sequence]]

    def appending(self, sequences: Sequence[SequenceId], counts: Sequence[int]) -> AppendView:
        """A view that a causal pass over `counts[i]` new tokens of `sequences[i]` writes through; see `seal`."""
        slots = tuple(self._slot_of[sequence] for sequence in sequences)
        lengths = tuple(self._lengths[slot] for slot in slots)
        for have, more in zip(lengths, counts, strict=True):
            if have + more > self.slot_tokens:
                raise ValueError(f"{more} tokens after {have} exceed a slot of {self.slot_tokens}")
        return AppendView(self, slots=slots, lengths=lengths, counts=tuple(counts))

    def seal(self, view: AppendView) -> None:
        """Make what was written through the view part of the context."""
        view.write()
        for slot, count in zip(view.slots, view.counts, strict=True):
            self._lengths[slot] += count

    def reading(self, sequences: Sequence[SequenceId], canvas_length: int) -> CanvasView:
        """What canvases of these sequences attend to; kept until a member or a length changes."""
        slots = tuple(self._slot_of[sequence] for sequence in sequences)
        lengths = tuple(self._lengths[slot] for slot in slots)
        key = (slots, lengths, canvas_length)
        if self._last_view is None or self._last_view[0] != key:
            self._last_view = (key, CanvasView(self, slots=slots, lengths=lengths, canvas_length=canvas_length))
        return self._last_view[1]

    def release(self, sequence: SequenceId, *, scrub: bool = False) -> None:
        """Free the slot. `scrub` wipes it: after a fault it may hold NaN, which no mask can hide."""
        slot = self._slot_of.pop(sequence)
        if scrub:
            for store in (*self.keys, *self.values):
                store[slot].zero_()
        self._lengths[slot] = 0
        self._free.append(slot)
        self._free.sort()
        self._last_view = None

    def used_bytes(self) -> int:
        """Bytes of keys and values that running sequences hold."""
        itemsize = self.keys[0].dtype.itemsize
        slots = tuple(self._slot_of.values())  # a copy: another thread may be looking
        return sum(context_bytes(self.layers, self._lengths[slot], itemsize) for slot in slots)

    def check_integrity(self) -> None:
        """Assert that every slot is free or owned exactly once and that no length exceeds its slot."""
        owned = list(self._slot_of.values())
        assert sorted(owned + self._free) == list(range(len(self._lengths))), "a slot is lost or owned twice"
        assert all(0 <= length <= self.slot_tokens for length in self._lengths), "a length exceeds its slot"
        assert all(self._lengths[slot] == 0 for slot in self._free), "a free slot has a length"
