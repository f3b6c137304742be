"""Who owns which slot of the cache, what stands in the free ones, and what of it a new context can reuse.

Pure bookkeeping over token ids: no tensors, no clock. A slot is owned by one sequence, or it is free and may retain the
context of a former owner, until it is needed: the longest unused first. Idea of reuse by token prefix: RadixAttention
(Zheng et al. 2024, arXiv:2312.07104); here over slots, since a ring cannot be shared between two lengths.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from diffusion_worker.memory.budget import context_bytes
from diffusion_worker.types.model_info import LayerKv
from diffusion_worker.types.requests import SequenceId
from diffusion_worker.types.step_batch import Copy

MIN_REUSE = 16  # tokens; fewer are computed faster than copied


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """A slot for a sequence, and what it need not compute. After `copy` (None: nothing to move) the slot holds the
    first `reused` tokens. `boundary`: where another context left the same path too late to be copied from; a copy of
    the slot taken there serves the next one (0: nowhere)."""

    slot: int
    reused: int
    copy: Copy | None
    boundary: int


@dataclass(slots=True)
class _Slot:
    owner: SequenceId | None = None
    ids: list[int] = field(default_factory=list)  # of the tokens it holds
    used: int = 0  # tick of the last acquisition, release or copy

    @property
    def idle_since(self) -> int:
        """When what it holds was last of use; an empty slot was never."""
        return self.used if self.ids else 0


class SlotTable:
    """The slots of one cache. `is_reusing` False retains nothing and copies nothing."""

    def __init__(self, layers: Sequence[LayerKv], slots: int, *, itemsize: int, is_reusing: bool = True) -> None:
        self._layers = tuple(layers)
        self._ring = min((layer.window - 1 for layer in layers if layer.window is not None), default=None)
        self._itemsize = itemsize
        self._is_reusing = is_reusing
        self._slots = [_Slot() for _ in range(slots)]
        self._tick = 0

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def free(self) -> int:
        """Slots that nobody owns."""
        return sum(slot.owner is None for slot in self._slots)

    @property
    def retained(self) -> int:
        """Free slots that still hold a context."""
        return sum(slot.owner is None and bool(slot.ids) for slot in self._slots)

    def acquire(self, owner: SequenceId, ids: Sequence[int], *, at_most: int) -> Allocation:
        """A slot for a context that begins with `ids`, of which at most `at_most` tokens may be reused. There must be a
        free one."""
        source, reused, boundary = self._best_match(ids, at_most)
        slot = self._least_useful(source)
        if slot is None:  # the last free slot is the one that holds it: continue where it stands
            assert source is not None, "nobody may ask when no slot is free"
            slot = source
        copy = None if source is None or source == slot else Copy(source=source, target=slot, tokens=reused)
        self._slots[slot].owner = owner
        self._slots[slot].ids = list(ids[:reused])
        self._touch(slot)
        return Allocation(slot=slot, reused=reused, copy=copy, boundary=boundary)

    def extend(self, slot: int, ids: Sequence[int]) -> None:
        """These tokens now stand in the slot, too."""
        self._slots[slot].ids += ids

    def snapshot(self, slot: int) -> Copy | None:
        """Retain what the slot holds now in a slot nobody owns, if there is one to spare and none holds it yet."""
        held = self._slots[slot].ids
        spare = [index for index, other in enumerate(self._slots) if other.owner is None]
        if not self._is_reusing or len(spare) < 2 or any(self._slots[index].ids == held for index in spare):
            return None
        target = self._least_useful(None)
        assert target is not None
        self._slots[target].ids = list(held)
        self._touch(target)
        return Copy(source=slot, target=target, tokens=len(held))

    def release(self, slot: int, *, retain: bool = True) -> None:
        """The owner has left; what the slot holds stays for others unless it is spoilt."""
        self._slots[slot].owner = None
        if not (retain and self._is_reusing):
            self._slots[slot].ids = []
        self._touch(slot)

    def invalidate(self, slot: int) -> None:
        """What a free slot holds is not what was noted down: a step has written to it after its owner had left."""
        if slot < len(self._slots) and self._slots[slot].owner is None:
            self._slots[slot].ids = []

    def evict_retained(self) -> int:
        """Drop all retained contexts; returns how many there were."""
        dropped = [slot for slot in self._slots if slot.owner is None and slot.ids]
        for slot in dropped:
            slot.ids = []
        return len(dropped)

    def shrunk_to(self) -> int:
        """How many slots remain if all free ones behind the last owned one go; at least one."""
        return 1 + max((index for index, slot in enumerate(self._slots) if slot.owner is not None), default=0)

    def resize(self, slots: int) -> None:
        """As `KvCache.resize`; no owned slot may be dropped."""
        assert all(slot.owner is None for slot in self._slots[slots:]), "an owned slot would be lost"
        self._slots = self._slots[:slots] + [_Slot() for _ in range(slots - len(self._slots))]

    def used_bytes(self) -> int:
        """Bytes of keys and values that owned slots hold."""
        owned = [len(slot.ids) for slot in self._slots if slot.owner is not None]
        return sum(context_bytes(self._layers, tokens, self._itemsize) for tokens in owned)

    def _best_match(self, ids: Sequence[int], at_most: int) -> tuple[int | None, int, int]:
        """(slot to reuse, tokens of it, boundary)."""
        source, reused, boundary = None, 0, 0
        for index, slot in enumerate(self._slots if self._is_reusing else ()):
            common = min(_common(slot.ids, ids), at_most)
            if common < MIN_REUSE:
                continue
            # A ring that has wrapped holds the window at its own length only.
            if common == len(slot.ids) or self._ring is None or len(slot.ids) <= self._ring:
                if common > reused:
                    source, reused = index, common
            else:
                boundary = max(boundary, common)
        return source, reused, boundary if boundary > reused else 0

    def _least_useful(self, excluded: int | None) -> int | None:
        """The lowest empty free slot, so that rows stay neighbours, else the free one unused for longest."""
        free = [index for index, slot in enumerate(self._slots) if slot.owner is None and index != excluded]
        return min(free, key=lambda index: (self._slots[index].idle_since, index), default=None)

    def _touch(self, slot: int) -> None:
        self._tick += 1
        self._slots[slot].used = self._tick


def _common(held: Sequence[int], ids: Sequence[int]) -> int:
    """Length of the longest common beginning: a few comparisons of whole slices, each at C speed."""
    low, high = 0, min(len(held), len(ids))
    if list(held[:MIN_REUSE]) != list(ids[:MIN_REUSE]):
        return 0
    while low < high:
        middle = (low + high + 1) // 2
        if list(held[low:middle]) == list(ids[low:middle]):
            low = middle
        else:
            high = middle - 1
    return low
